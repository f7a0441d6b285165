"""Replace files atomically, lock files between processes, and check paths."""

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
    """Replace the content of `path` atomically: it is either old or new, even after a crash. Raises OSError."""
    with replacing(path) as file:
        # Text may contain file names that are not valid UTF-8.
        file.write(
            content.encode(errors="backslashreplace") if isinstance(content, str) else content
        )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file, which replaces `path` atomically if the context ends without an error. Raises OSError.

    The temporary file is `path` with the suffix ".tmp", so there may be only one writer at a time. It remains after an
    error.
    """
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, so that new names survive a power failure. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(path: Path) -> BinaryIO | None:
    """Lock a file until the returned file is closed or the process ends; return None if another process has the lock.

    The file is created if needed. Its content does not change.

    Raises:
        OSError: The file cannot be opened for writing.
    """
    file = open(path, "ab")  # noqa: SIM115 - the caller closes it
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def is_locked(path: Path) -> bool:
    """Whether another process has the `lock` of `path`."""
    if not path.exists():
        return False
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading. Raises OSError for a pipe or a device, where `open` or `read` could block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if fault := _not_regular(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, fault, os.fspath(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def not_regular(path: str | os.PathLike[str]) -> str:
    """Say what `path` is instead of a regular file; return "" for a regular file or a missing one."""
    try:
        return _not_regular(os.stat(path).st_mode)
    except (OSError, ValueError):
        return ""


def _not_regular(mode: int) -> str:
    if stat.S_ISREG(mode):
        return ""
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
    return f"it is a {kinds.get(stat.S_IFMT(mode), 'device')}, not a file"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_utf8(path: str | os.PathLike[str]) -> bool:
    """Whether a path is valid UTF-8, as Orbax and TensorBoard require."""
    try:
        os.fsdecode(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def cache_folder() -> Path:
    """Return `$ALEXNET_JAX_CACHE`, or `~/.cache/alexnet_jax`; it need not exist. Raises RuntimeError without a home."""
    return Path(os.environ.get("ALEXNET_JAX_CACHE") or "~/.cache/alexnet_jax").expanduser()


def existing_parent(path: Path) -> Path:
    """Return `path` if it exists, otherwise its nearest existing parent folder."""
    return next(p for p in (path, *path.parents) if p.exists())
