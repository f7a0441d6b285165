"""Set keys of a config from the command line: --config.section.key=VALUE, parsed by the key's type in specs.py."""

import ast
import dataclasses
import difflib
import math
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alexnet_jax.config.keys import allows_none, is_section, key_types, layer_type, required
from alexnet_jax.specs import Config

if TYPE_CHECKING:
    from ml_collections import ConfigDict

_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def set_value(config: "ConfigDict", key: str, arguments: list[str]) -> str | None:
    """Set `key` ("a.b.c") of a ConfigDict; return a description of the fault if that is not possible.

    Sections that are missing or None are created; keys missing in them are reported when the specs are built.

    Args:
        arguments: "--config.a.b.c=VALUE"; for a tuple, also one argument per element; for a bool, also
            "--config.a.b.c" or "--noconfig.a.b.c".
    """
    section: Any = config
    kind: Any = Config
    path = "config"
    *parents, last = key.split(".")
    for depth, part in enumerate((*parents, last)):
        known = _keys(kind, section)
        if part not in known and typing.get_origin(required(kind)) is not dict:
            return _unknown(path, part, known)
        kind = known.get(part) if part in known else typing.get_args(required(kind))[1]
        path = f"{path}.{part}"
        if depth < len(parents):
            if section.get(part) is None and is_section(kind):
                _assign(section, part, {})
            section = section.get(part)
    try:
        value = _value(kind, [_text(kind, argument) for argument in arguments])
    except ValueError as error:
        return f"{' '.join(arguments).removeprefix('--')}: {error}"
    if value != section.get(last) or last not in section:
        _assign(section, last, value)
    return None


def convert(kind: Any, value: Any) -> Any:
    """Convert integers to floats and lists to tuples if the type `kind` asks for it."""
    kind = required(kind)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        kinds = _elements(kind, len(value))
        return tuple(convert(of, item) for of, item in zip(kinds, value, strict=True))
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        return {name: convert(typing.get_args(kind)[1], item) for name, item in value.items()}
    return value


def _keys(kind: Any, section: Any) -> dict[str, Any]:
    """Map the keys that can be set in a section of type `kind` to their types, or None for keys not in specs.py."""
    if not hasattr(section, "keys"):
        return {}
    listed = dict.fromkeys(section.keys())
    kind = required(kind)
    if dataclasses.is_dataclass(kind):
        return listed | key_types(kind)
    if kind is None:
        return listed
    if layer_type(kind):
        return dict.fromkeys(listed, layer_type(kind))
    return dict.fromkeys(listed, typing.get_args(kind)[1])


def _elements(kind: Any, count: int) -> list[Any]:
    """List the types of the first `count` elements of a tuple type; None beyond its length."""
    arguments = typing.get_args(kind)
    if arguments[-1] is Ellipsis:
        return [arguments[0]] * count
    return [*arguments, *[None] * count][:count]


def _assign(section: Any, key: str, value: Any) -> None:
    with section.unlocked(), section.ignore_type():
        section[key] = value


def _unknown(path: str, part: str, known: dict[str, Any]) -> str:
    guess = difflib.get_close_matches(part, known, 1, cutoff=0.5)
    listed = ", ".join(sorted(known)) or "nothing below it"
    hint = f'did you mean "{guess[0]}"?' if guess else f"known: {listed}"
    return f"unknown key {path}.{part}; {hint}"


def _text(kind: Any, argument: str) -> str:
    """Return the text of the value in an argument. Raises ValueError if there is none."""
    name, equals, text = argument.partition("=")
    negated = name.startswith("--no")
    if required(kind) is bool and not equals:
        return str(not negated)
    if negated:
        raise ValueError(f"only a switch can have --no; write --{name[4:]}=VALUE")
    if not equals:
        raise ValueError(f"needs a value: {name}=VALUE")
    return text


def _value(kind: Any, texts: list[str]) -> Any:
    """Parse a value of type `kind`. Raises ValueError."""
    base = required(kind)
    is_tuple = typing.get_origin(base) is tuple and not layer_type(base)
    if texts[-1] == "None" and base is not str and typing.get_origin(base) is not tuple:
        return None  # if a value is needed, building the specs reports the None
    if texts[-1] == "None" and allows_none(kind):
        return None
    if is_tuple:
        return _tuple(base, texts)
    if base is None:
        return _unknown_value(texts[-1])
    if is_section(base) or layer_type(base):
        return _section(base, texts[-1])
    return _scalar(base, texts[-1])


def _scalar(kind: Any, text: str) -> bool | int | float | str:
    if kind is bool:
        if text.lower() not in _BOOLS:
            raise ValueError("must be True or False")
        return _BOOLS[text.lower()]
    if kind is int:
        return _int(text)
    if kind is float:
        try:
            return float(text)
        except ValueError:
            raise ValueError("must be a number, such as 0.5 or 1e-4") from None
    return text  # a str, or a Literal, which is checked when the specs are built


def _int(text: str) -> int:
    try:
        return int(text, 0) if text.lower().startswith(("0x", "0b")) else int(text)
    except ValueError:
        try:
            number = float(text) if "e" in text.lower() else math.nan
        except ValueError:
            number = math.nan
        if number.is_integer():
            return int(number)
        raise ValueError("must be an integer") from None


def _tuple(kind: Any, texts: Sequence[str]) -> tuple[Any, ...]:
    """Parse one text in brackets, or one text per element. Raises ValueError."""
    if len(texts) == 1 and texts[0][:1] in ("(", "["):
        found = _literal(texts[0], "a tuple, such as (1, 2) or ('a', 'b')")
        return convert(kind, found if isinstance(found, tuple | list) else (found,))
    texts = [text for text in texts if text]
    kinds = _elements(kind, len(texts))
    return tuple(_element(one, text) for one, text in zip(kinds, texts, strict=True))


def _element(kind: Any, text: str) -> Any:
    base = required(kind)
    if base in (bool, int, float, str, None) or typing.get_origin(base) is typing.Literal:
        return _scalar(base, text)
    return convert(kind, _literal(text, "a tuple of tuples, such as ((20.0, 0.1), (30.0, 0.0))"))


def _section(kind: Any, text: str) -> Any:
    if not text.startswith("{"):
        raise ValueError("is a section: set one of its keys, or give a dict, such as {'key': 1}")
    found = _literal(text, "a dict, such as {'key': 1}")
    if not isinstance(found, dict):
        raise ValueError("is a section, but the value is not a dict")
    return convert(kind, found)


def _unknown_value(text: str) -> Any:
    """Parse the value of a key that is not in specs.py, which is rejected when the specs are built."""
    try:
        return _literal(text, "")
    except ValueError:
        return text


def _literal(text: str, wanted: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(f"must be {wanted}") from None
