"""Where decoded images and statistics are kept between runs; all of it may be deleted."""

import contextlib
import glob
import os
import pathlib
import socket
from collections.abc import Iterator


def folder() -> pathlib.Path:
    """`$ALEXNET_JAX_CACHE`, or `~/.cache/alexnet_jax`. It need not exist."""
    chosen = os.environ.get("ALEXNET_JAX_CACHE")
    return pathlib.Path(chosen or "~/.cache/alexnet_jax").expanduser()


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary name beside `path` that becomes `path` at the end: nobody sees half a file.

    Two processes that write the same file at once each use their own name; the last one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(path)
    temporary = path.with_name(f".{socket.gethostname()}-{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_orphans(path: pathlib.Path) -> None:
    """What processes of this host left of `path` when they were killed."""
    prefix = f".{socket.gethostname()}-"
    for left in path.parent.glob(f"{glob.escape(prefix)}*-{glob.escape(path.name)}"):
        number = left.name.removeprefix(prefix).removesuffix(f"-{path.name}")
        if number.isdigit() and not os.path.exists(f"/proc/{number}"):
            left.unlink(missing_ok=True)
