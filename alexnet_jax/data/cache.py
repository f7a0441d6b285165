"""Where decoded images and statistics are kept between runs; all of it may be deleted."""

import contextlib
import os
import pathlib
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
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
