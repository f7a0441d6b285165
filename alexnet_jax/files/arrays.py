"""NumPy files (.npy, .npz), checked against names, shapes and dtypes. Nothing is unpickled."""

import contextlib
import math
import os
import reprlib
import typing
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from alexnet_jax.errors import AlexNetError, StorageError, short
from alexnet_jax.files.json_files import unreadable

if typing.TYPE_CHECKING:
    import numpy as np

MOST_ARRAY_BYTES = 4 * 2**30
#: An array of an .npz file that is larger than _FREE_BYTES may be at most _MOST_RATIO times its compressed size.
_FREE_BYTES, _MOST_RATIO = 64 * 2**20, 100
#: Lengths of the dimensions; a name stands for any length, the same wherever the name occurs.
Shape = tuple[int | str, ...]


def read_arrays(
    path: Path,
    like: Mapping[str, tuple[Shape, str]],
    optional: Mapping[str, tuple[Shape, str]] | None = None,
    *,
    error: type[AlexNetError] = StorageError,
    remedy: str = "",
) -> "dict[str, np.ndarray]":
    """Read the arrays named in `like` from an .npz file, and those in `optional` that it has.

    Args:
        like: name -> (shape, dtype); the dtype is NumPy's name, or "integer", "number" or "text" for any of these.
            Floating-point arrays must be finite. Arrays of other names are ignored.
        error: The exception to raise if the file cannot be read or an array is missing or different.
        remedy: Advice to append to the message of the exception.
    """
    import numpy as np

    found, lengths = {}, {}
    with _opened(path, error, remedy) as file, zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        wanted = {**like} | {k: v for k, v in (optional or {}).items() if f"{k}.npy" in names}
        for name, (shape, dtype) in wanted.items():
            if f"{name}.npy" not in names:
                raise ValueError(f"it has no {name}")
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as stream:
                header = _header(stream)
                _check_header(name, header, member.file_size, shape, dtype, lengths)
                _check_packed(name, member)
            with archive.open(member) as stream:
                found[name] = np.lib.format.read_array(stream, allow_pickle=False)
            _check_values(name, found[name])
    return found


def read_all_arrays(
    path: Path, *, error: type[AlexNetError] = StorageError, remedy: str = ""
) -> "dict[str, np.ndarray]":
    """Read all numbers in an .npz file, checked as in `read_arrays`; arrays of other types are left out."""
    like: dict[str, tuple[Shape, str]] = {}
    with _opened(path, error, remedy) as file, zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            with archive.open(name) as stream:
                header = _header(stream)
            if header.dtype.kind in "fiub":
                like[name.removesuffix(".npy")] = header.shape, header.dtype.str
    return read_arrays(path, like, error=error, remedy=remedy)


def read_array(
    path: Path,
    shape: Shape,
    dtype: str,
    *,
    mapped: bool = False,
    error: type[AlexNetError] = StorageError,
    remedy: str = "",
) -> "np.ndarray":
    """Read an .npy file, checked as in `read_arrays`; `mapped` gives a read-only memory map with unchecked values."""
    import numpy as np

    with _opened(path, error, remedy) as file:
        header = _header(file)
        _check_header("the array", header, os.fstat(file.fileno()).st_size, shape, dtype, {})
        order = "F" if header.fortran else "C"
        if mapped and math.prod(header.shape):
            array = np.memmap(file, header.dtype, "r", header.length, header.shape, order=order)
            return np.asarray(array)
        array = np.fromfile(file, header.dtype).reshape(header.shape, order=order)
        _check_values("the array", array)
    return array


@contextlib.contextmanager
def _opened(path: Path, error: type[AlexNetError], remedy: str) -> Iterator[typing.BinaryIO]:
    """Open a file for reading; every exception in the context becomes an `error` that names the file."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as fault:
        raise unreadable(path, fault.strerror or fault, error, remedy) from None
    # zipfile and NumPy do not document all that they raise for damaged files.
    except Exception as fault:
        raise unreadable(path, short(fault), error, remedy) from None


class _Header(typing.NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: Any
    length: int


def _header(stream: IO[bytes]) -> _Header:
    """Read the header at the start of an .npy stream. A damaged one can raise any exception."""
    from numpy.lib import format

    version = format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its header has the version {version}")
    read = format.read_array_header_1_0 if version == (1, 0) else format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return _Header(shape, fortran, dtype, stream.tell())


def _check_header(
    name: str, header: _Header, size: int, shape: Shape, dtype: str, lengths: dict[str, int]
) -> None:
    """Raise ValueError unless an array stored in `size` bytes has this `shape` and `dtype`."""
    import numpy as np

    kinds = {"integer": "iu", "number": "fiu", "text": "U"}
    fits = header.dtype.kind in kinds[dtype] if dtype in kinds else header.dtype == np.dtype(dtype)
    fits = fits and len(shape) == len(header.shape)
    for wanted, length in zip(shape, header.shape, strict=False):
        wanted = lengths.setdefault(wanted, length) if isinstance(wanted, str) else wanted
        fits = fits and wanted == length >= 0
    if not fits:
        shown = ", ".join(f"{one}={lengths[one]}" if one in lengths else str(one) for one in shape)
        raise ValueError(
            f"{name} is {header.dtype} {reprlib.repr(list(header.shape))}, not {dtype} [{shown}]"
        )
    needed = math.prod(header.shape) * header.dtype.itemsize
    if needed > MOST_ARRAY_BYTES or header.length + needed != size:
        raise ValueError(f"{name} should have {needed:,} bytes, but its file has {size:,}")


def _check_packed(name: str, member: zipfile.ZipInfo) -> None:
    if member.file_size > max(_FREE_BYTES, _MOST_RATIO * member.compress_size):
        raise ValueError(f"{name} would unpack to {member.file_size:,} bytes")


def _check_values(name: str, array: "np.ndarray") -> None:
    import numpy as np

    if array.dtype.kind == "f" and not (
        np.isfinite(array.min(initial=0)) and np.isfinite(array.max(initial=0))
    ):
        raise ValueError(f"{name} is not finite")
    if array.dtype.kind == "U":
        try:
            "".join(array.ravel().tolist()).encode()
        except ValueError:
            raise ValueError(f"{name} has a string that is not Unicode") from None
