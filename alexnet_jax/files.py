"""Files that last: written whole or not at all, and known by their sums."""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` so that a reader, or a crash, sees the old content or the new one whole."""
    with replacing(path) as file:
        # A name of a file need not be UTF-8.
        file.write(
            content.encode(errors="backslashreplace") if isinstance(content, str) else content
        )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """The same for content that is written in parts, into the file that this gives."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a file for reading. Raises OSError at once for a pipe or a device, where `open` or `read` may never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if other := _kind(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, other, os.fspath(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def not_regular(path: str | os.PathLike) -> str:
    """What `path` is instead of a file, in words; empty for a file and for what is not there."""
    try:
        return _kind(os.stat(path).st_mode)
    except (OSError, ValueError):
        return ""


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return ""
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
    return f"it is a {kinds.get(stat.S_IFMT(mode), 'device')}, not a file"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_utf8(path: str | os.PathLike) -> bool:
    """Whether every program can open `path`: orbax and TensorBoard take names as UTF-8 text."""
    try:
        os.fsdecode(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def existing_parent(path: Path) -> Path:
    """`path` itself if it is there, else the nearest folder above that is."""
    return next(p for p in (path, *path.parents) if p.exists())
