"""The keys of each config section and the types of their values, from the dataclasses of specs.py."""

import dataclasses
import functools
import types
import typing
from typing import Any

from alexnet_jax.model import operations
from alexnet_jax.specs import Registered


@functools.cache
def key_types(section: Any) -> dict[str, Any]:
    """Map the keys of a dataclass of specs.py to their types, ranges included."""
    found = typing.get_type_hints(section, include_extras=True)
    return {key_of(field): _with_names(found[field.name]) for field in dataclasses.fields(section)}


def _with_names(kind: Any) -> Any:
    """Replace the Registered types in `kind` by the names that are registered."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated and isinstance(arguments[1], Registered):
        return typing.Literal[operations.names(arguments[1])]
    if origin is typing.Annotated:
        return typing.Annotated[(_with_names(arguments[0]), *arguments[1:])]
    if origin is tuple:
        return tuple[tuple(_with_names(argument) for argument in arguments)]  # type: ignore[misc]
    return kind


def key_of(field: dataclasses.Field) -> str:
    """The config key of a dataclass field, which is its name unless its metadata has another."""
    return field.metadata.get("key", field.name)


@functools.cache
def defaults(section: Any) -> dict[str, Any]:
    """Map the keys of a dataclass of specs.py to their defaults, without those that are required or None."""
    return {
        key_of(field): field.default
        for field in dataclasses.fields(section)
        if field.default not in (dataclasses.MISSING, None)
    }


def section_type(section: Any, key: str) -> Any:
    """The dataclass of the subsection `key` of `section`; None if `key` is unknown or not a section."""
    hint = key_types(section).get(key)
    return next((k for k in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(k)), None)


def required(kind: Any) -> Any:
    """The type `kind` without None and without its range."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not types.NoneType)
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


def allows_none(kind: Any) -> bool:
    """Whether None is a value of the type `kind`."""
    return types.NoneType in typing.get_args(kind)


def is_section(kind: Any) -> bool:
    """Whether a value of the type `kind` has keys of its own."""
    kind = required(kind)
    return dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict


def layer_type(kind: Any) -> Any:
    """ConvSpec for the type of model.convs, FCSpec for that of model.fcs, None for any other type."""
    entry = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None
    layer = typing.get_args(entry)[1] if typing.get_origin(entry) is tuple else None
    return layer if dataclasses.is_dataclass(layer) else None
