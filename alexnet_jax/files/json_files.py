"""Read JSON and JSON Lines files, checked against a Python type such as a TypedDict."""

import functools
import json
import math
import reprlib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from alexnet_jax.errors import AlexNetError, StorageError

#: Largest size of a JSON file.
MOST_JSON_BYTES = 64 * 2**20
#: Largest size of a line of a .jsonl file.
MOST_LINE_BYTES = 2**20
#: Largest depth of nested objects and lists.
MOST_LEVELS = 64
#: Largest size of an integer.
MOST_BITS = 63
T = TypeVar("T")


class _AnyNumber:
    """Marks an Annotated float that may be NaN or infinite."""

    def __contains__(self, _: object) -> bool:
        return True


_ANY_NUMBER = _AnyNumber()
#: The type of a measurement, which may be NaN.
Number = typing.Annotated[float, _ANY_NUMBER]


def read_json(
    path: Path, kind: type[T], *, error: type[AlexNetError] = StorageError, remedy: str = ""
) -> T | None:
    """Read a JSON file and check it against the type `kind`; return None if the file does not exist.

    Args:
        kind: A TypedDict, list, dict, Literal, int, and so on. Keys that a TypedDict does not list are allowed.
        error: The exception to raise if the file cannot be read or has another type.
        remedy: Advice to append to the message of the exception.
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
        raise unreadable(path, fault.strerror, error, remedy) from None
    except ValueError as fault:
        raise unreadable(path, fault, error, remedy) from None


def parse_json(content: bytes | str, kind: type[T]) -> T:
    """Parse JSON and check it against the type `kind`, as `read_json` does. Raises ValueError."""
    try:
        value = json.loads(content if isinstance(content, str) else content.decode())
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as fault:
        raise ValueError(f"it is not JSON: {fault}") from None
    except RecursionError:
        raise ValueError(f"it is nested more than {MOST_LEVELS} levels deep") from None
    fault = _invalid_for_any_type(value) or _fault(value, kind, "it")
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
    """Return `value`, which was read from `path`, if it has the type `kind`; raise `error` otherwise."""
    fault = _fault(value, kind, "it")
    if fault:
        raise unreadable(path, fault, error, remedy)
    return value


def read_json_lines(
    path: Path, kind: type[T], *, error: type[AlexNetError] = StorageError
) -> list[tuple[bytes, T | str]]:
    """Read a .jsonl file as pairs of a line's bytes and its value, or a str with the fault of the line.

    Returns [] if the file does not exist.

    Args:
        error: The exception to raise if the file cannot be read.
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
        raise unreadable(path, fault.strerror, error) from None
    return found


def unreadable(
    path: Path, reason: object, error: type[AlexNetError], remedy: str = ""
) -> AlexNetError:
    """Return the `error` for a file that cannot be read."""
    return error(f"cannot read {path}: {reason}" + (f"; {remedy}" if remedy else ""))


def _invalid_for_any_type(value: Any) -> str | None:
    """Describe the first fault that no type allows: deep nesting, invalid Unicode, integers beyond int64."""
    level = [value]
    for _ in range(MOST_LEVELS):
        children: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                children += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                children += item
            elif isinstance(item, str):
                try:
                    item.encode(errors="surrogateescape")  # as in a path that is not UTF-8
                except UnicodeEncodeError:
                    return f"{reprlib.repr(item)} is not Unicode"
            elif isinstance(item, int) and item.bit_length() > MOST_BITS:
                return f"it has a number of more than {MOST_BITS} bits"
        if not children:
            return None
        level = children
    return f"it is nested more than {MOST_LEVELS} levels deep"


def _fault(value: Any, kind: Any, where: str) -> str | None:
    """Describe why the value at `where` does not have the type `kind`; return None if it has."""
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
                item, arguments[1], _path(where, key)
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
        str: "a string",
        int: "an integer",
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
    found = (_fault(value[key], hints[key], _path(where, key)) for key in shared)
    return next(filter(None, found), None)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _path(where: str, key: str) -> str:
    """Return the path of the value of `key` in the object at `where`."""
    key = key if key.isprintable() and len(key) < 60 else reprlib.repr(key)
    return key if where == "it" else f"{where}.{key}"
