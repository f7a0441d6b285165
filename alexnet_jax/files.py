"""Files that last: written whole or not at all, known by their sums, and never believed when they are read."""

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import reprlib
import stat
import types
import typing
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from alexnet_jax.errors import AlexNetError, StorageError

if typing.TYPE_CHECKING:
    import numpy as np

MOST_JSON_BYTES = 64 * 2**20
MOST_LINE_BYTES = 2**20
"""Of a .jsonl file."""
MOST_LEVELS = 64
"""Of objects and lists in each other."""
MOST_BITS = 63
MOST_ARRAY_BYTES = 4 * 2**30
_FREE_BYTES, _MOST_RATIO = 64 * 2**20, 100
"""A larger array of an .npz file may be at most so many times what it takes there."""
T = TypeVar("T")


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


class _AnyNumber:
    """In an Annotated float: NaN and infinities count as numbers."""

    def __contains__(self, _: object) -> bool:
        return True


_ANY_NUMBER = _AnyNumber()
Number = typing.Annotated[float, _ANY_NUMBER]
"""For `read_json`: what a run measured, which may be NaN."""


def read_json(
    path: Path, kind: type[T], *, error: type[AlexNetError] = StorageError, remedy: str = ""
) -> T | None:
    """The JSON of a file, checked against `kind`; None where there is no file.

    kind: a TypedDict, or dict, list, Literal, int, ... of these. Keys that it does not have are allowed.

    Raises `error` where the file cannot be read or is not of that kind.
    """
    try:
        if not path.exists():
            return None
        if not path.is_file():
            raise ValueError("it is not a file")
        with open(path, "rb") as file:
            content = file.read(MOST_JSON_BYTES + 1)
        if len(content) > MOST_JSON_BYTES:
            raise ValueError(f"it has more than {MOST_JSON_BYTES:,} bytes")
        return parse_json(content, kind)
    except OSError as fault:
        raise _unreadable(path, fault.strerror, error, remedy) from None
    except ValueError as fault:
        raise _unreadable(path, fault, error, remedy) from None


def parse_json(content: bytes | str, kind: type[T]) -> T:
    """The value of a JSON text, checked as by `read_json`. Raises ValueError."""
    try:
        value = json.loads(content if isinstance(content, str) else content.decode())
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as fault:
        raise ValueError(f"it is not JSON: {fault}") from None
    except RecursionError:
        raise ValueError(f"it is nested more than {MOST_LEVELS} levels deep") from None
    fault = _unsound(value) or _fault(value, kind, "it")
    if fault:
        raise ValueError(fault)
    return value


def check(
    value: Any,
    kind: type[T],
    path: Path,
    *,
    error: type[AlexNetError] = StorageError,
    remedy: str = "",
) -> T:
    """`value`, which was read from `path`, as `kind`. Raises `error`."""
    fault = _fault(value, kind, "it")
    if fault:
        raise _unreadable(path, fault, error, remedy)
    return value


def read_json_lines(
    path: Path, kind: type[T], *, error: type[AlexNetError] = StorageError
) -> list[tuple[bytes, T | str]]:
    """Each line of a .jsonl file with its end, and its value or what is wrong with it; [] without the file.

    Raises `error` where the file cannot be read.
    """
    found: list[tuple[bytes, T | str]] = []
    try:
        with open(path, "rb") as file:
            for line in iter(lambda: file.readline(MOST_LINE_BYTES + 1), b""):
                try:
                    if len(line) > MOST_LINE_BYTES:
                        raise ValueError(f"it has more than {MOST_LINE_BYTES:,} bytes")
                    if not line.endswith(b"\n"):
                        raise ValueError("it is cut off")
                    found.append((line, parse_json(line, kind)))
                except ValueError as fault:
                    found.append((line, str(fault)))
    except FileNotFoundError:
        return []
    except OSError as fault:
        raise _unreadable(path, fault.strerror, error) from None
    return found


def _unreadable(
    path: Path, why: object, error: type[AlexNetError], remedy: str = ""
) -> AlexNetError:
    return error(f"cannot read {path}: {why}" + (f"; {remedy}" if remedy else ""))


def _unsound(value: Any) -> str | None:
    """What no file of this program has, whatever its kind: depth, texts that are no Unicode, numbers beyond int64."""
    level = [value]
    for _ in range(MOST_LEVELS):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str):
                try:
                    item.encode(errors="surrogateescape")  # as a path has it that is not UTF-8
                except UnicodeEncodeError:
                    return f"{reprlib.repr(item)} is not Unicode"
            elif isinstance(item, int) and item.bit_length() > MOST_BITS:
                return f"it has a number of more than {MOST_BITS} bits"
        if not below:
            return None
        level = below
    return f"it is nested more than {MOST_LEVELS} levels deep"


def _fault(value: Any, kind: Any, where: str) -> str | None:
    """What keeps `value` from being of `kind`, in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return None
    if origin in (typing.Required, typing.NotRequired):
        return _fault(value, arguments[0], where)
    if origin is typing.Annotated:
        if _ANY_NUMBER in arguments[1:] and isinstance(value, float):
            return None
        fault = _fault(value, arguments[0], where)
        if fault:
            return fault
        wrong = next((one for one in arguments[1:] if value not in one), None)
        return None if wrong is None else f"{where} must be {wrong}, not {reprlib.repr(value)}"
    if origin in (typing.Union, types.UnionType):
        faults = [_fault(value, one, where) for one in arguments]
        return None if None in faults else faults[0]
    if origin is typing.Literal:
        same = any(value == one and type(value) is type(one) for one in arguments)
        known = ", ".join(map(str, arguments))
        return None if same else f"{where} is {reprlib.repr(value)}, not one of {known}"
    if typing.is_typeddict(kind):
        return _fault_of_object(value, kind, where)
    if origin is list and isinstance(value, list):
        items = enumerate(value)
        return next(
            filter(None, (_fault(x, arguments[0], f"{where}[{i}]") for i, x in items)), None
        )
    if origin is dict and isinstance(value, dict):
        for key, item in value.items():
            fault = _fault(key, arguments[0], f"a key of {where}") or _fault(
                item, arguments[1], _below(where, key)
            )
            if fault:
                return fault
        return None
    if kind is float and type(value) in (int, float):
        return None if math.isfinite(value) else f"{where} is not finite"
    if isinstance(value, origin or kind) and (kind is bool or not isinstance(value, bool)):
        return None
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        int: "a whole number",
        float: "a number",
        types.NoneType: "null",
    }
    wanted = names.get(origin or kind, (origin or kind).__name__)
    return f"{where} is {reprlib.repr(value)}, not {wanted}"


def _fault_of_object(value: Any, kind: Any, where: str) -> str | None:
    if not isinstance(value, dict):
        return f"{where} is {reprlib.repr(value)}, not an object"
    missing = kind.__required_keys__ - value.keys()
    if missing:
        return f"{where} has no {', '.join(sorted(missing))}"
    hints = _hints(kind)
    shared = sorted(hints.keys() & value.keys())
    found = (_fault(value[key], hints[key], _below(where, key)) for key in shared)
    return next(filter(None, found), None)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _below(where: str, key: str) -> str:
    key = key if key.isprintable() and len(key) < 60 else reprlib.repr(key)
    return key if where == "it" else f"{where}.{key}"


Shape = tuple[int | str, ...]
"""A name stands for a length that the file says, the same wherever it has that name."""


def read_arrays(
    path: Path,
    like: Mapping[str, tuple[Shape, str]],
    optional: Mapping[str, tuple[Shape, str]] | None = None,
    *,
    error: type[AlexNetError] = StorageError,
    remedy: str = "",
) -> "dict[str, np.ndarray]":
    """The arrays `like` of an .npz file, name -> (shape, dtype), and those of `optional` that it has.

    dtype: the name of one, or "integer" or "text" for any of these. Floating numbers must be finite. Nothing is
    unpickled, and no memory is taken for more than the file can hold.

    Raises `error` where the file cannot be read or has other arrays; members of other names are left alone.
    """
    import numpy as np

    found, lengths = {}, {}
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
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
    except OSError as fault:
        raise _unreadable(path, fault.strerror or fault, error, remedy) from None
    except Exception as fault:  # what zipfile and NumPy raise of a damaged file is listed nowhere
        raise _unreadable(path, _said(fault), error, remedy) from None


def read_array(
    path: Path,
    shape: Shape,
    dtype: str,
    *,
    mapped: bool = False,
    error: type[AlexNetError] = StorageError,
    remedy: str = "",
) -> "np.ndarray":
    """The array of an .npy file, checked as by `read_arrays`; `mapped`: a read-only map, whose values are not."""
    import numpy as np

    try:
        with open(path, "rb") as file:
            header = _header(file)
            _check_header("the array", header, os.fstat(file.fileno()).st_size, shape, dtype, {})
            order = "F" if header.fortran else "C"
            if mapped and math.prod(header.shape):
                array = np.memmap(file, header.dtype, "r", header.length, header.shape, order=order)
                return np.asarray(array)
            array = np.fromfile(file, header.dtype).reshape(header.shape, order=order)
        _check_values("the array", array)
        return array
    except OSError as fault:
        raise _unreadable(path, fault.strerror or fault, error, remedy) from None
    except Exception as fault:  # as above
        raise _unreadable(path, _said(fault), error, remedy) from None


class _Header(typing.NamedTuple):
    shape: tuple[int, ...]
    fortran: bool
    dtype: Any
    length: int


def _header(stream: Any) -> _Header:
    """Of an .npy stream at its begin. Raises nearly anything."""
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
    """Raises ValueError unless an array of `size` bytes in its file is what `shape` and `dtype` say."""
    import numpy as np

    kinds = {"integer": "iu", "text": "U"}
    right = header.dtype.kind in kinds[dtype] if dtype in kinds else header.dtype == np.dtype(dtype)
    right = right and len(shape) == len(header.shape)
    for wanted, length in zip(shape, header.shape, strict=False):
        wanted = lengths.setdefault(wanted, length) if isinstance(wanted, str) else wanted
        right = right and wanted == length >= 0
    if not right:
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
            raise ValueError(f"{name} has a text that is not Unicode") from None


def _said(fault: BaseException) -> str:
    """The first words of an exception, in a line."""
    said = " ".join(str(fault).split())
    return said[:200] or type(fault).__name__
