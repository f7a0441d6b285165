"""Cache folder for decoded images, statistics and digests; all of it may be deleted.

The folder holds at most `limit_bytes()`: before a file is written, the least recently used ones are deleted. A process
that has one of them mapped keeps its content until it ends (on local file systems). Files with other names are neither
counted nor touched.
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

#: Four datasets of the largest size that is cached (image_files.CACHE_LIMIT_BYTES).
LIMIT_GIB = 32.0
LIMIT_VARIABLE = "ALEXNET_JAX_CACHE_GIB"
_OURS = r"(?:images|statistics|labels|records|digests)-[0-9a-f]{32}\.np[yz]"
_KEPT, _TEMPORARY = re.compile(_OURS), re.compile(rf"\.(.+)-(\d+)(?:\.\d+)?-{_OURS}")
#: Age after which a temporary file of another host counts as abandoned.
_ABANDONED_SECONDS = 86400

log = logging.getLogger(__name__)
_warned: set[str] = set()


class _Entry(NamedTuple):
    used: float
    path: str
    size: int


def folder() -> pathlib.Path:
    """`$ALEXNET_JAX_CACHE`, or `~/.cache/alexnet_jax`. It need not exist."""
    chosen = os.environ.get("ALEXNET_JAX_CACHE")
    return pathlib.Path(chosen or "~/.cache/alexnet_jax").expanduser()


def limit_bytes() -> int:
    """`$ALEXNET_JAX_CACHE_GIB` GiB, or LIMIT_GIB; 0 keeps nothing. Raises ConfigError."""
    text = os.environ.get(LIMIT_VARIABLE) or str(LIMIT_GIB)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number >= 0:
        raise ConfigError(f"{LIMIT_VARIABLE}={text} is not a number of GiB, 0 or more")
    return int(min(number * 2**30, sys.maxsize))


def touch(path: pathlib.Path) -> None:
    """Mark a cached file as used now."""
    with contextlib.suppress(OSError):
        os.utime(path)


def warn(message: str, *arguments: object) -> None:
    """Log a warning about the cache folder, once for each folder."""
    if str(folder()) not in _warned:
        _warned.add(str(folder()))
        log.warning(message, *arguments)


@contextlib.contextmanager
def replacing(path: pathlib.Path, size: int) -> Iterator[pathlib.Path]:
    """Give a temporary path that is renamed to `path` at the end, so that `path` is always complete.

    Makes room for `size` bytes within the limit. Threads or processes that write the same file at the same time use
    names of their own, and the last one wins. Raises OSError.
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
    make_room(path.parent, 0)  # others may have written at the same time


def make_room(folder: pathlib.Path, size: int) -> None:
    """Delete the least recently used files until `size` more bytes fit. Raises OSError if they cannot."""
    limit = limit_bytes()
    if size > limit:
        raise OSError(errno.EDQUOT, f"{LIMIT_VARIABLE} allows {limit / 2**30:.3g} GiB")
    kept, total = [], size
    with os.scandir(folder) as entries:
        for entry in entries:
            writer = _TEMPORARY.fullmatch(entry.name)
            if not writer and not _KEPT.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):  # another process was quicker
                status = entry.stat(follow_symlinks=False)
                if writer and _is_abandoned(writer[1], writer[2], status.st_mtime):
                    os.unlink(entry.path)
                    continue
                total += status.st_size
                if not writer:
                    kept.append(_Entry(status.st_mtime, entry.path, status.st_size))
    for entry in sorted(kept):
        if total <= limit:
            break
        with contextlib.suppress(OSError):
            os.unlink(entry.path)
            total -= entry.size


def _is_abandoned(host: str, process: str, used: float) -> bool:
    """Whether the process that began a temporary file was killed."""
    if host == socket.gethostname():
        return not os.path.exists(f"/proc/{process}")
    return time.time() - used > _ABANDONED_SECONDS
