"""Build specs from the nested dicts of a config, and collect all faults."""

import ast
import contextlib
import dataclasses
import math
import re
import types
import typing
from typing import Any

from alexnet_jax.config import checks, keys, switches
from alexnet_jax.config.canonical import plain, upgraded
from alexnet_jax.errors import ConfigError, did_you_mean
from alexnet_jax.specs import MOST_LAYERS, Config


def parse(config: Any, *, needs_images: bool = True) -> Config:
    """Build checked specs from a ConfigDict or from the nested dicts of a config.json.

    Args:
        needs_images: Whether config.data.path must be set; describing a network does not need it.

    Raises:
        ConfigError: Lists all faults on one line.
    """
    tree = upgraded(plain(config))
    if not needs_images and isinstance(tree.get("data"), dict) and not tree["data"].get("path"):
        tree = tree | {"data": tree["data"] | {"path": "not set"}}
    spec, faults = build(tree)
    if spec and not faults:
        faults = checks.faults(spec)
    if faults or not spec:
        raise ConfigError("; ".join(faults))
    spec = dataclasses.replace(spec, model=switches.apply(spec.model))
    checks.check_shapes(spec)
    return spec


def with_classes(spec: Config, num_classes: int) -> Config:
    """Set the number of classes found in the data. Raises ConfigError if `spec` has a different one."""
    if spec.model.num_classes not in (None, num_classes):
        raise ConfigError(
            f"config.model.num_classes is {spec.model.num_classes} but the data has {num_classes} classes; "
            f"set --config.model.num_classes={num_classes}"
        )
    return dataclasses.replace(spec, model=dataclasses.replace(spec.model, num_classes=num_classes))


def build(config: Any) -> tuple[Config | None, list[str]]:
    """Build specs, checking only types and ranges, and return them with a list of faults."""
    faults: list[str] = []
    return _build(Config, plain(config), "config", faults), faults


def _build(kind: Any, value: Any, path: str, faults: list[str]) -> Any:
    """Convert `value` to `kind` (a dataclass, scalar, tuple, dict, union or Literal); append errors to `faults`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _build(next(a for a in arguments if a is not types.NoneType), value, path, faults)
    if origin is typing.Annotated:
        item = _build(arguments[0], value, path, faults)
        wrong = next(
            (range_ for range_ in arguments[1:] if item is not None and item not in range_), None
        )
        if wrong is not None:
            faults.append(f"{path} must be {wrong}, not {value!r}")
        return item
    if value is None:
        faults.append(f"{path} is None but needs a value")
        return None
    if keys.layer_type(kind):
        return _build_layers(keys.layer_type(kind), value, path, faults)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, path, faults)
    if origin is dict:
        return _build_dict(arguments[1], value, path, faults)
    if origin is tuple:
        return _build_tuple(arguments, value, path, faults)
    if origin is typing.Literal:
        if value not in arguments:
            known = ", ".join(map(str, arguments))
            hint = did_you_mean(str(value), arguments)
            faults.append(f"{path} is {value!r}, not one of {known}{hint}")
        return value
    return _build_scalar(kind, value, path, faults)


def _build_scalar(kind: type, value: Any, path: str, faults: list[str]) -> Any:
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if _is_finite(value):
            return float(value)
        faults.append(f"{path} must be a finite number, not {value!r}")
        return None
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    faults.append(f"{path} must be {kind.__name__}, not {value!r}")
    return None


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer too large for a float
        return False


def _build_dataclass(kind: Any, value: Any, path: str, faults: list[str]) -> Any:
    if not isinstance(value, dict):
        faults.append(f"{path} must be a section, not {value!r}")
        return None
    known = keys.key_types(kind)
    for key in sorted(set(value) - set(known)):
        faults.append(f"unknown key {path}.{key}{did_you_mean(key, known)}")
    arguments = {}
    for field in dataclasses.fields(kind):
        key = keys.key_of(field)
        if key in value:
            arguments[field.name] = _build(known[key], value[key], f"{path}.{key}", faults)
        elif field.default is dataclasses.MISSING:
            faults.append(f"missing key {path}.{key}")
    return kind(**arguments) if not faults else None


def _build_dict(kind: Any, value: Any, path: str, faults: list[str]) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        faults.append(f"{path} must be a dict, not {value!r}")
        return None
    return {key: _build(kind, item, f"{path}.{key}", faults) for key, item in value.items()}


def _build_tuple(
    arguments: tuple[Any, ...], value: Any, path: str, faults: list[str]
) -> tuple[Any, ...] | None:
    if isinstance(value, str) and value[:1] in "([":
        # If this fails, `value` stays a string, which is refused below.
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = ast.literal_eval(value)
    if not isinstance(value, list | tuple):
        faults.append(f"{path} must be a tuple, not {value!r}")
        return None
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        faults.append(f"{path} needs {len(kinds)} values, not {len(value)}")
        return None
    return tuple(
        _build(kind, item, f"{path}[{i}]", faults)
        for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _build_layers(
    kind: Any, value: Any, path: str, faults: list[str]
) -> tuple[tuple[str, Any], ...]:
    """Build (name, layer) pairs in the order of the numbers at the end of the names.

    A ConfigDict sorts its keys, so the order of the layers must come from their names.
    """
    if not isinstance(value, dict):
        faults.append(f"{path} must be a dict of layers, not {value!r}")
        return ()
    if len(value) > MOST_LAYERS:
        faults.append(f"{path} has {len(value):,} layers, more than {MOST_LAYERS}")
        return ()
    numbers = {name: re.fullmatch(r"[A-Za-z]\w*?(\d+)", name, re.ASCII) for name in value}
    for name, number in numbers.items():
        if not number:
            faults.append(
                f"{path}.{name}: the name of a layer must end in its number, such as conv1 or fc6"
            )
    order = {name: int(number.group(1)) for name, number in numbers.items() if number}
    if len(set(order.values())) < len(order):
        faults.append(f"{path}: two of the layers {', '.join(order)} have the same number")
    names = sorted(order, key=lambda name: order[name])
    return tuple((name, _build(kind, value[name], f"{path}.{name}", faults)) for name in names)
