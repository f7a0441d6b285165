"""Cache folder for decoded images, statistics, digests and unpacked files; it can be deleted at any time.

The size of the folder is limited to `limit_bytes()`: before a file is written, the least recently used files are
deleted. On local file systems, a process with a memory map of a deleted file can still read it. Files with other names
are neither counted nor deleted.
"""

import contextlib
import errno
import logging
import math
import os
import pathlib
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from alexnet_jax.errors import ConfigError
from alexnet_jax.files import cache_folder

#: Enough for four datasets of the maximum size that is cached (image_files.CACHE_LIMIT_BYTES).
LIMIT_GIB = 32.0
LIMIT_VARIABLE = "ALEXNET_JAX_CACHE_GIB"
_NAME = r"(?:(?:images|statistics|labels|records|digests)-[0-9a-f]{32}\.np[yz]|unpacked-[0-9a-f]{32}\.(?:tar|arrow))"
_CACHED, _TEMPORARY = re.compile(_NAME), re.compile(rf"\.(.+)-(\d+)(?:\.\d+)?-{_NAME}")
#: Age in seconds after which a temporary file from another host counts as abandoned.
_ABANDONED_SECONDS = 86400

log = logging.getLogger(__name__)
_warned: set[str] = set()


class _Entry(NamedTuple):
    used: float
    path: str
    size: int


def limit_bytes() -> int:
    """Return `$ALEXNET_JAX_CACHE_GIB` or LIMIT_GIB in bytes; 0 disables the cache. Raises ConfigError."""
    text = os.environ.get(LIMIT_VARIABLE) or str(LIMIT_GIB)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number >= 0:
        raise ConfigError(f"{LIMIT_VARIABLE}={text} is not a number of GiB of at least 0")
    return int(min(number * 2**30, sys.maxsize))


def touch(path: pathlib.Path) -> None:
    """Mark a cached file as used now."""
    with contextlib.suppress(OSError):
        os.utime(path)


def warn(message: str, *arguments: object) -> None:
    """Log a warning about the cache folder, unless one was already logged for this folder."""
    if str(cache_folder()) not in _warned:
        _warned.add(str(cache_folder()))
        log.warning(message, *arguments)


@contextlib.contextmanager
def replacing(path: pathlib.Path, size: int) -> Iterator[pathlib.Path]:
    """Context manager for writing a cached file: yields a temporary path, and renames it to `path` on success.

    Makes room for `size` bytes within the limit. Threads and processes that write the same file at the same time have
    different temporary paths; the last one replaces the others. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    make_room(path.parent, size)
    writer = f"{socket.gethostname()}-{os.getpid()}.{threading.get_ident()}"
    temporary = path.with_name(f".{writer}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    make_room(path.parent, 0)  # other processes may have written at the same time


def make_room(folder: pathlib.Path, size: int) -> None:
    """Delete the least recently used files until `size` more bytes fit. Raises OSError if `size` exceeds the limit."""
    limit = limit_bytes()
    if size > limit:
        raise OSError(errno.EDQUOT, f"{LIMIT_VARIABLE} allows {limit / 2**30:.3g} GiB")
    cached, total = [], size
    with os.scandir(folder) as entries:
        for entry in entries:
            writer = _TEMPORARY.fullmatch(entry.name)
            if not writer and not _CACHED.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):  # another process may have deleted it
                status = entry.stat(follow_symlinks=False)
                if writer and _is_abandoned(writer[1], writer[2], status.st_mtime):
                    os.unlink(entry.path)
                    continue
                total += status.st_size
                if not writer:
                    cached.append(_Entry(status.st_mtime, entry.path, status.st_size))
    for entry in sorted(cached):
        if total <= limit:
            break
        with contextlib.suppress(OSError):
            os.unlink(entry.path)
            total -= entry.size


def _is_abandoned(host: str, process: str, used: float) -> bool:
    """Whether the process that was writing a temporary file no longer exists."""
    if host == socket.gethostname():
        return not os.path.exists(f"/proc/{process}")
    return time.time() - used > _ABANDONED_SECONDS
