"""Values of a config given as text on the command line: --config.section.key=value, read by their type in specs.py."""

import ast
import dataclasses
import difflib
import functools
import math
import types
import typing

from alexnet_jax.specs import Config

_BOOLS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


def set_value(config, key: str, arguments: list[str]) -> str | None:
    """Set `key` ("a.b.c") of a ConfigDict to what `arguments` say, one or, for a tuple, several; the fault, if any.

    Arguments are "--config.a.b.c=value", or "--config.a.b.c" and "--noconfig.a.b.c" of a bool. Sections that the
    config does not list, or has as None, are made; a missing key of theirs is left to the checks.
    """
    section, kind, path = config, typing.cast(typing.Any, Config), "config"
    *above, last = key.split(".")
    for depth, part in enumerate((*above, last)):
        known = _keys(kind, section)
        if part not in known and typing.get_origin(_required(kind)) is not dict:
            return _unknown(path, part, known)
        kind = known.get(part) if part in known else typing.get_args(_required(kind))[1]
        path = f"{path}.{part}"
        if depth < len(above):
            if section.get(part) is None and _is_section(kind):
                _assign(section, part, {})
            section = section.get(part)
    try:
        value = _value(kind, [_text(kind, argument) for argument in arguments])
    except ValueError as error:
        return f"{' '.join(arguments).removeprefix('--')}: {error}"
    if value != section.get(last) or last not in section:
        _assign(section, last, value)
    return None


def convert(kind, value) -> typing.Any:
    """`value` with integers as floats, and lists as tuples, where `kind` has those."""
    kind = _required(kind)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        kinds = _elements(kind, len(value))
        return tuple(convert(of, item) for of, item in zip(kinds, value, strict=True))
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        return {name: convert(typing.get_args(kind)[1], item) for name, item in value.items()}
    return value


@functools.cache
def hints(kind) -> dict[str, typing.Any]:
    """The types of the keys of a dataclass of specs.py, with their ranges."""
    found = typing.get_type_hints(kind, include_extras=True)
    return {key_of(field): found[field.name] for field in dataclasses.fields(kind)}


def key_of(field: dataclasses.Field) -> str:
    """The config key of a field of specs.py."""
    return field.metadata.get("key", field.name)


def _keys(kind, section) -> dict[str, typing.Any]:
    """The keys that can be set in a section of type `kind`, with their types (None: not known to specs.py)."""
    if not hasattr(section, "keys"):
        return {}
    listed = dict.fromkeys(section.keys())
    kind = _required(kind)
    if dataclasses.is_dataclass(kind):
        return listed | hints(kind)
    if kind is None:
        return listed
    if typing.get_origin(kind) is tuple:  # rows by name
        return dict.fromkeys(listed, typing.get_args(typing.get_args(kind)[0])[1])
    return dict.fromkeys(listed, typing.get_args(kind)[1])


def _required(kind):
    """`kind` without None and without its range."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not types.NoneType)
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def _allows_none(kind) -> bool:
    return types.NoneType in typing.get_args(kind)


def _is_section(kind) -> bool:
    kind = _required(kind)
    return dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict


def _elements(kind, count: int) -> list:
    """The types of a tuple's `count` elements; of a wrong count, None for those beyond."""
    arguments = typing.get_args(kind)
    if arguments[-1] is Ellipsis:
        return [arguments[0]] * count
    return [*arguments, *[None] * count][:count]


def _assign(section, key: str, value) -> None:
    with section.unlocked(), section.ignore_type():
        section[key] = value


def _unknown(path: str, part: str, known: dict) -> str:
    guess = difflib.get_close_matches(part, known, 1, cutoff=0.5)
    listed = ", ".join(sorted(known)) or "nothing below it"
    hint = f'did you mean "{guess[0]}"?' if guess else f"known: {listed}"
    return f"unknown key {path}.{part}; {hint}"


def _text(kind, argument: str) -> str:
    """What an argument says. Raises ValueError for one that says nothing."""
    name, equals, text = argument.partition("=")
    negated = name.startswith("--no")
    if _required(kind) is bool and not equals:
        return str(not negated)
    if negated:
        raise ValueError(f"only a switch takes --no; write --{name[4:]}=VALUE")
    if not equals:
        raise ValueError(f"needs a value: {name}=VALUE")
    return text


def _value(kind, texts: list[str]):
    """The value of type `kind` that `texts` say. Raises ValueError."""
    required = _required(kind)
    if texts[-1] == "None" and required is not str and typing.get_origin(required) is not tuple:
        return None  # where a value is needed, the checks say so
    if texts[-1] == "None" and _allows_none(kind):
        return None
    if typing.get_origin(required) is tuple and not _is_rows(required):
        return _tuple(required, texts)
    if required is None:
        return _like(texts[-1])
    if _is_section(required) or _is_rows(required):
        return _section(required, texts[-1])
    return _scalar(required, texts[-1])


def _is_rows(kind) -> bool:
    """Whether this is the type of model.convs or model.fcs."""
    row = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None
    return typing.get_origin(row) is tuple and dataclasses.is_dataclass(typing.get_args(row)[1])


def _scalar(kind, text: str):
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
    return text  # a str, or a Literal that the checks look up


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
        raise ValueError("must be a whole number") from None


def _tuple(kind, texts: list[str]) -> tuple:
    """One text in brackets, or an element in each."""
    if len(texts) == 1 and texts[0][:1] in ("(", "["):
        found = _literal(texts[0], "a tuple, such as (1, 2) or ('a', 'b')")
        return convert(kind, found if isinstance(found, tuple | list) else (found,))
    texts = [text for text in texts if text]
    kinds = _elements(kind, len(texts))
    return tuple(
        _scalar(one, text) if (one := _required(of)) in (bool, int, float, str) or one is None or _is_literal(one)
        else convert(of, _literal(text, "a tuple of tuples, such as ((20.0, 0.1), (30.0, 0.0))"))
        for of, text in zip(kinds, texts, strict=True)
    )  # fmt: skip


def _is_literal(kind) -> bool:
    return typing.get_origin(kind) is typing.Literal


def _section(kind, text: str):
    if not text.startswith("{"):
        raise ValueError("is a section: set one of its keys, or give a dict, such as {'key': 1}")
    found = _literal(text, "a dict, such as {'key': 1}")
    if not isinstance(found, dict):
        raise ValueError("is a section, and this is no dict")
    return convert(kind, found)


def _like(text: str):
    """Of a key that is not in specs.py, which the checks refuse by its name."""
    try:
        return _literal(text, "")
    except ValueError:
        return text


def _literal(text: str, wanted: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(f"must be {wanted}") from None
