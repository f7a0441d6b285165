"""Errors that users can fix; each ends a command with one line on standard error and a documented exit code."""

import difflib
import errno
import unicodedata
from collections.abc import Iterable

EXIT_CODES = {
    0: "finished, final checkpoint verified",
    1: "an internal error; log.txt in the run folder has the traceback",
    2: "usage or configuration; nothing was written",
    3: "data missing, damaged or not as described",
    4: "training diverged",
    5: "storage or checkpoint",
    6: "working directory in use, or not a run folder",
    7: "out of memory",
    8: "stalled: a step took too long, or another process of the run was lost",
    75: "stopped by a signal, state saved: run the same command again",
    130: "stopped by Ctrl-C, state saved: run the same command again",
    143: "stopped at once by a second signal",
}

#: Maximum length of an error line; longer ones lose their middle, since the end has the remedy.
LONGEST_LINE = 8_000
#: Unicode categories to escape; joiners and wide spaces, which occur in names, are in other categories.
_CONTROL = ("Cc", "Cs", "Zl", "Zp")


def printable(text: str) -> str:
    """Escape control characters and undecodable bytes, so that a name fits on one line of a terminal."""
    if text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in _CONTROL else c for c in text)


def one_line(error: object) -> str:
    """Return the text of an error with all whitespace as single spaces."""
    return " ".join(str(error).split())


def short(error: BaseException) -> str:
    """Return the first 200 characters of `one_line`, or the name of the exception if it has no text."""
    return one_line(error)[:200] or type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message that names the nearest known word; '' if none is near."""
    guess = difflib.get_close_matches(word, known, 1)
    return f'; did you mean "{guess[0]}"?' if guess else ""


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Join the first `limit` names, and count the others."""
    names = list(names)
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


class AlexNetError(Exception):
    """Base class of all errors that users can fix."""

    exit_code = 1
    name = "E_INTERNAL"

    def line(self) -> str:
        """Return the message as one printable line for standard error."""
        text = printable(f"alexnet: error[{self.name}]: {self}")
        if len(text) <= LONGEST_LINE:
            return text
        return f"{text[: LONGEST_LINE * 3 // 4]} ... {text[-LONGEST_LINE // 5 :]}"


class ConfigError(AlexNetError):
    """The usage or configuration is wrong; found before anything is written."""

    exit_code, name = 2, "E_CONFIG"


class DataError(AlexNetError):
    """Images or labels are missing, unreadable or not as configured."""

    exit_code, name = 3, "E_DATA"


class DivergedError(AlexNetError):
    """The loss or a gradient is no longer finite."""

    exit_code, name = 4, "E_DIVERGED"


class StorageError(AlexNetError):
    """A checkpoint or another file cannot be read or written."""

    exit_code, name = 5, "E_STORAGE"


class CheckpointError(StorageError):
    """A checkpoint is missing, damaged, or does not fit the model."""

    name = "E_CHECKPOINT"


class WorkdirError(AlexNetError):
    """The working directory is in use, or contains files that are not of a run."""

    exit_code, name = 6, "E_WORKDIR"


class OutOfMemoryError(AlexNetError):
    """The device or the machine has too little memory."""

    exit_code, name = 7, "E_MEMORY"


class StalledError(AlexNetError):
    """A step took longer than config.train.stall_seconds, or another process was lost."""

    exit_code, name = 8, "E_STALLED"


#: Errors of the disk or the operating system rather than of this program.
_SYSTEM = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP,
    errno.EMFILE, errno.ENFILE, errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT,
)  # fmt: skip
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def of_system(error: BaseException) -> StorageError | None:
    """Convert an error in _SYSTEM; return None for other errors, which may be bugs of this program."""
    if not isinstance(error, OSError) or error.errno not in _SYSTEM:
        return None
    remedy = "make room" if error.errno in _DISK_FULL else "fix this"
    return StorageError(
        f"{error.filename or 'a file'}: {error.strerror}; {remedy} and run the same command again"
    )
