"""Errors that a user can cause or fix: each ends a command with one line and a documented exit code."""

import errno
import unicodedata
from collections.abc import Iterable

EXIT_CODES = {
    0: "finished, final checkpoint verified",
    1: "a fault of this program; log.txt in the run folder has the traceback",
    2: "usage or configuration; nothing was written",
    3: "data missing, damaged or not as described",
    4: "training diverged",
    5: "storage or checkpoint",
    6: "working directory busy or not ours",
    7: "out of memory",
    8: "stalled: no step came to its end in time, or another process of the run was lost",
    75: "stopped by a signal, state saved: run the same command again",
    130: "stopped by Ctrl-C, state saved: run the same command again",
    143: "stopped at once by a second signal",
}

#: Length of an error's line; its beginning has the fault and its end the remedy.
LONGEST_LINE = 8_000
#: Unicode categories of control characters; joiners and wide spaces, which occur in names, are in others.
_CONTROL = ("Cc", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    """Escape control characters and undecodable bytes, so that a name fits on one line of a terminal."""
    if text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in _CONTROL else c for c in text)


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Join the first names, and count the others."""
    names = list(names)
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


class AlexNetError(Exception):
    """Base class."""

    exit_code = 1
    name = "E_INTERNAL"

    def line(self) -> str:
        """The one line for standard error, whatever the message contains."""
        text = printable(f"alexnet: error[{self.name}]: {self}")
        if len(text) <= LONGEST_LINE:
            return text
        return f"{text[: LONGEST_LINE * 3 // 4]} ... {text[-LONGEST_LINE // 5 :]}"


class ConfigError(AlexNetError):
    """Wrong usage or configuration: found before anything is written."""

    exit_code, name = 2, "E_CONFIG"


class DataError(AlexNetError):
    """Images or labels that are missing, unreadable or not as described."""

    exit_code, name = 3, "E_DATA"


class DivergedError(AlexNetError):
    """The loss or a gradient stopped being finite."""

    exit_code, name = 4, "E_DIVERGED"


class StorageError(AlexNetError):
    """A checkpoint or another file cannot be read or written."""

    exit_code, name = 5, "E_STORAGE"


class CheckpointError(StorageError):
    """A checkpoint is missing, damaged, or of another model."""

    name = "E_CHECKPOINT"


class WorkdirError(AlexNetError):
    """The working directory is in use, or holds something that is not a run."""

    exit_code, name = 6, "E_WORKDIR"


class OutOfMemoryError(AlexNetError):
    """The device or the machine has not enough memory for the step."""

    exit_code, name = 7, "E_MEMORY"


class StalledError(AlexNetError):
    """No step came to its end for longer than config.train.stall_seconds, or another process was lost."""

    exit_code, name = 8, "E_STALLED"


_SYSTEM = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EMFILE, errno.ENFILE, errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT,
)  # fmt: skip
_ROOM = (errno.ENOSPC, errno.EDQUOT)


def of_system(error: BaseException) -> StorageError | None:
    """Convert an error of the disk or the system; None for errors that may be faults of this program."""
    if not isinstance(error, OSError) or error.errno not in _SYSTEM:
        return None
    remedy = "make room" if error.errno in _ROOM else "mend that"
    return StorageError(
        f"{error.filename or 'a file'}: {error.strerror}; {remedy} and run the same command again"
    )
