"""Atomic replacement of files, locks between processes, and what a path refers to."""

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` so that a reader, or a crash, sees either the old content or the new. Raises OSError."""
    with replacing(path) as file:
        # Texts hold file names, which need not be UTF-8.
        file.write(
            content.encode(errors="backslashreplace") if isinstance(content, str) else content
        )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that atomically becomes `path` when the context ends without an error. Raises OSError.

    Until then, and after an error, its name is that of `path` with ".tmp" added: for one writer at a time.
    """
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a loss of power. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path, *, wait: bool = False) -> BinaryIO | None:
    """Lock the file `path`, made if needed, for this process until the returned file is closed.

    The lock also ends with the process, however that ends. The content of the file does not change.

    Args:
        wait: wait for another process that holds the lock; otherwise return None at once.

    Raises:
        OSError: the file cannot be opened for writing.
    """
    file = open(path, "ab")  # noqa: SIM115 - the caller closes it
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def is_locked(path: Path) -> bool:
    """Whether another process holds the `lock` of `path`."""
    if not path.exists():
        return False
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading. Raises OSError at once for a pipe or a device, where `open` or `read` may hang."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if other := _kind(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, other, os.fspath(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def not_regular(path: str | os.PathLike[str]) -> str:
    """Describe what `path` is instead of a regular file; empty for a file and for a missing one."""
    try:
        return _kind(os.stat(path).st_mode)
    except (OSError, ValueError):
        return ""


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return ""
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
    return f"it is a {kinds.get(stat.S_IFMT(mode), 'device')}, not a file"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_utf8(path: str | os.PathLike[str]) -> bool:
    """Whether the name is valid UTF-8, which orbax and TensorBoard need."""
    try:
        os.fsdecode(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def existing_parent(path: Path) -> Path:
    """`path` if it exists, else its nearest parent folder that does."""
    return next(p for p in (path, *path.parents) if p.exists())
