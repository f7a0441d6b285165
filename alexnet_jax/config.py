"""From a config file to checked, frozen specs. Imports neither JAX nor Flax, so that mistakes show at once.

Below this file nobody sees a ConfigDict.
"""

import ast
import dataclasses
import difflib
import hashlib
import json
import re
import types
import typing
from pathlib import Path

from alexnet_jax import geometry
from alexnet_jax.errors import ConfigError
from alexnet_jax.specs import OPERATIONS, Config, ConvSpec, ModelSpec


def parse(config) -> Config:
    """Checked specs from a ConfigDict or the dict of a run's config.json.

    Raises ConfigError, with all faults in one line.
    """
    tree = _plain(config)
    faults: list[str] = []
    spec: Config = _build(Config, tree, "config", faults)
    if not faults:
        _check(spec, faults)
    if faults:
        raise ConfigError("; ".join(faults))
    spec = dataclasses.replace(spec, model=_apply_switches(spec.model))
    _check_shapes(spec)
    return spec


def to_json(config) -> str:
    """Canonical JSON of a ConfigDict: sorted keys, tuples as lists."""
    return json.dumps(_plain(config), sort_keys=True, indent=2)


def digest(config) -> str:
    """SHA-256 of the canonical JSON: the identity of a config."""
    compact = json.dumps(_plain(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(compact.encode()).hexdigest()


def with_classes(spec: Config, num_classes: int) -> Config:
    """`spec` with the number of classes that the data has. Raises ConfigError where it says another."""
    if spec.model.num_classes not in (None, num_classes):
        raise ConfigError(
            f"config.model.num_classes is {spec.model.num_classes} but the data has {num_classes} classes; "
            f"set --config.model.num_classes={num_classes}"
        )
    return dataclasses.replace(spec, model=dataclasses.replace(spec.model, num_classes=num_classes))


def load(argument: str, overrides: list[str]):
    """The ConfigDict of `configs/file.py:argument` with `--config.key=value` overrides applied.

    A config file is Python code and is executed. Raises ConfigError.
    """

    if not Path(argument.split(":")[0]).is_file():
        raise ConfigError(f"no config file {argument.split(':')[0]}; see the folder configs/")
    defaults = _load(argument, [])
    for override in overrides:
        _check_key(re.sub("^--(no)?config.", "", override.split("=")[0]), defaults)
    return _load(argument, overrides)


def _load(argument: str, overrides: list[str]):
    from absl import flags
    from ml_collections import config_flags

    arguments = ["alexnet_jax", f"--config={argument}", *overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        values(arguments)
        return values.config.lock()
    except (flags.Error, OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
        # An error inside the file comes with its whole traceback; the last line says what it is.
        text = text.splitlines()[-1] if "Traceback" in text else " ".join(text.split())
        raise ConfigError(f"{argument}: {text}") from None


def _check_key(key: str, config) -> None:
    """Raises ConfigError unless `a.b.c` names a value of `config`."""
    section, path = config, "config"
    for part in key.split("."):
        known = list(section) if hasattr(section, "keys") else []
        if part not in known:
            guess = difflib.get_close_matches(part, known, 1, cutoff=0.5)
            hint = (
                f'did you mean "{guess[0]}"?'
                if guess
                else f"known: {', '.join(known) or 'nothing below it'}"
            )
            raise ConfigError(f"unknown key {path}.{part}; {hint}")
        section, path = section[part], f"{path}.{part}"


def _plain(value):
    """Dicts, lists and scalars, whatever a ConfigDict holds."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _build(kind, value, path: str, faults: list[str]) -> typing.Any:
    """`value` as `kind` (a dataclass, scalar, tuple, dict, union or Literal); faults are appended."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _build(next(a for a in arguments if a is not types.NoneType), value, path, faults)
    if value is None:
        faults.append(f"{path} is None but needs a value")
    elif origin is typing.Literal:
        if value in arguments:
            return value
        guess = difflib.get_close_matches(str(value), arguments, 1)
        hint = f'; did you mean "{guess[0]}"?' if guess else ""
        faults.append(f"{path} is {value!r}, not one of {', '.join(map(str, arguments))}{hint}")
    elif dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, path, faults)
    elif origin is dict:
        if isinstance(value, dict):
            return {
                key: _build(arguments[1], item, f"{path}.{key}", faults)
                for key, item in value.items()
            }
        faults.append(f"{path} must be a dict, not {value!r}")
    elif origin is tuple:
        return _build_tuple(arguments, value, path, faults)
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    else:
        faults.append(f"{path} must be {kind.__name__}, not {value!r}")
    return None


def _build_dataclass(kind, value, path: str, faults: list[str]):
    if not isinstance(value, dict):
        faults.append(f"{path} must be a section, not {value!r}")
        return None
    hints = typing.get_type_hints(kind)
    for key in sorted(set(value) - set(hints)):
        guess = difflib.get_close_matches(key, hints, 1)
        faults.append(
            f"unknown key {path}.{key}" + (f'; did you mean "{guess[0]}"?' if guess else "")
        )
    arguments = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            build = _build_rows if field.name in ("convs", "fcs") else _build
            arguments[field.name] = build(
                hints[field.name], value[field.name], f"{path}.{field.name}", faults
            )
        elif field.default is dataclasses.MISSING:
            faults.append(f"missing key {path}.{field.name}")
    return kind(**arguments) if not faults else None


def _build_tuple(arguments, value, path: str, faults: list[str]):
    if isinstance(value, str) and value[:1] in "([":
        value = ast.literal_eval(value)
    if not isinstance(value, list | tuple):
        faults.append(f"{path} must be a tuple, not {value!r}")
        return None
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        faults.append(f"{path} needs {len(kinds)} values, not {len(value)}")
        return None
    return tuple(
        _build(k, item, f"{path}[{i}]", faults)
        for i, (k, item) in enumerate(zip(kinds, value, strict=True))
    )


def _build_rows(kind, value, path: str, faults: list[str]):
    """Rows by name, in the order of the number that ends each name.

    A ConfigDict keeps its keys sorted, so the names themselves must say the order.
    """
    row_kind = typing.get_args(typing.get_args(kind)[0])[1]
    if not isinstance(value, dict):
        faults.append(f"{path} must be a dict of rows, not {value!r}")
        return ()
    numbers = {name: re.search(r"(\d+)$", name) for name in value}
    for name, number in numbers.items():
        if not number:
            faults.append(
                f"{path}.{name}: the name of a row must end in its number, as conv1 or fc6 do"
            )
    if None in numbers.values():
        return ()
    names = sorted(value, key=lambda name: int(numbers[name].group()))  # type: ignore[union-attr]
    return tuple((name, _build(row_kind, value[name], f"{path}.{name}", faults)) for name in names)


def _check(spec: Config, faults: list[str]) -> None:
    """Ranges and combinations; appends to `faults`."""

    def require(ok: bool, message: str) -> None:
        if not ok:
            faults.append(message)

    m, d, a, t = spec.model, spec.data, spec.augment, spec.train
    require(
        m.num_classes is None or m.num_classes > 1, "config.model.num_classes must be at least 2"
    )
    require(m.towers > 0, "config.model.towers must be positive")
    require(0 <= m.dropout.rate < 1, "config.model.dropout.rate must be in [0, 1)")
    require(
        m.lrn_constants.n > 0 and m.spatial_norm.size > 0, "normalization windows must be positive"
    )
    require(
        bool(m.fcs),
        "config.model.fcs must have at least one row, with features=None for the classes",
    )
    for name, row in m.convs:
        path = f"config.model.convs.{name}"
        for key in ("features", "kernel", "stride", "groups"):
            require(getattr(row, key) > 0, f"{path}.{key} must be positive")
        require(min(row.pad) >= 0, f"{path}.pad must not be negative")
        require(row.kind == "conv" or row.groups == 1, f"{path}: a local row has no groups")
        require(
            "pool" not in row.then or row.pool is not None, f"{path} says 'pool' but has no pool"
        )
        if row.pool:
            require(row.pool.window > 0 and row.pool.stride > 0, f"{path}.pool must be positive")
        require(
            "lrn" not in row.then or row.features % m.towers == 0,
            f"{path}.features={row.features} is not divisible by {m.towers} towers",
        )
        _check_operations(path + ".then", row.then, OPERATIONS, faults)
    for i, (name, row) in enumerate(m.fcs):
        path, last = f"config.model.fcs.{name}", i == len(m.fcs) - 1
        require(row.groups > 0, f"{path}.groups must be positive")
        require(row.features is None if last else (row.features or 0) > 0, f"{path}.features: a positive number, "
                "and None in the last row alone, which has one output a class")  # fmt: skip
        for key in ("before", "then"):
            _check_operations(
                f"{path}.{key}", getattr(row, key), ("act", "batch_norm", "dropout"), faults
            )
    rows = {name for name, _ in (*m.convs, *m.fcs)}
    require(len(rows) == len(m.convs) + len(m.fcs), "config.model: convs and fcs share a name")
    for section, keys in (("optimizer.layer_weight_decay", spec.optimizer.layer_weight_decay),
                          ("schedule.layer_factors", spec.schedule.layer_factors)):  # fmt: skip
        for key in set(keys) - rows:
            guess = difflib.get_close_matches(key, rows, 1)
            hint = f'; did you mean "{guess[0]}"?' if guess else ""
            faults.append(f"config.{section}.{key}: the model has no such row{hint}")
    require(
        d.image_size > 0 and a.crop_size > 0,
        "config.data.image_size and augment.crop_size must be positive",
    )
    largest = a.resize or d.image_size
    require(
        a.crop_size <= largest,
        f"config.augment.crop_size={a.crop_size} is larger than the {largest} pixel images",
    )
    require(
        0 <= d.validation < 1, "config.data.validation is a share of the training images, in [0, 1)"
    )
    require(
        d.threads > 0 and d.prefetch >= 0,
        "config.data.threads must be positive and prefetch not negative",
    )
    require(a.crop_chunk > 0, "config.augment.crop_chunk must be positive")
    require(a.color_std >= 0, "config.augment.color_std must not be negative")
    require(
        a.color_std == 0 or a.mean != "standardize",
        "config.augment: color noise is for images that keep their scale",
    )
    require(d.source in ("digits", "synthetic") or bool(d.path or d.name),
            "config.data.path is not set: --config.data.path=FOLDER says where the images are")  # fmt: skip
    require(
        d.source != "tfds" or d.name is not None or d.path is not None,
        "config.data.name is not set for tfds",
    )
    require(
        t.epochs >= 0 and (t.max_steps is None or t.max_steps > 0),
        "config.train.epochs, max_steps: positive",
    )
    for key in ("batch_size", "accumulate", "log_every", "checkpoint_every"):
        require(getattr(t, key) > 0, f"config.train.{key} must be positive")
    require(
        t.accumulate < 1 or t.batch_size % t.accumulate == 0,
        f"config.train.batch_size={t.batch_size} is not divisible by accumulate={t.accumulate}",
    )
    require(t.stall_seconds > 0, "config.train.stall_seconds must be positive")
    for path, rate in (("weights", spec.schedule.weights), ("biases", spec.schedule.biases)):
        if rate is not None:
            require(
                rate.learning_rate >= 0,
                f"config.schedule.{path}.learning_rate must not be negative",
            )
            require(
                rate.target > 0 and rate.plateaus > 0,
                f"config.schedule.{path}: target and plateaus are positive",
            )
            require(
                rate.kind != "dexp" or rate.plateaus > 1,
                f"config.schedule.{path}: dexp needs 2 plateaus or more",
            )
    require(spec.schedule.biases is None or spec.schedule.biases.kind != "plateau",
            "config.schedule.biases cannot be 'plateau': leave it None to follow the weights")  # fmt: skip
    require(0 <= spec.optimizer.momentum < 1, "config.optimizer.momentum must be in [0, 1)")
    require(spec.evaluation.every_epochs > 0, "config.evaluation.every_epochs must be positive")
    require(spec.evaluation.batch_size > 0, "config.evaluation.batch_size must be positive")
    for view in spec.evaluation.final_views:
        require(
            view in ("center", "ten", "nine"),
            f"config.evaluation.final_views: {view!r} is not center, ten or nine",
        )


def _check_operations(path: str, operations, allowed, faults: list[str]) -> None:
    for operation in operations:
        if operation not in allowed:
            guess = difflib.get_close_matches(operation, allowed, 1)
            hint = f'; did you mean "{guess[0]}"?' if guess else ""
            faults.append(f"{path}: {operation!r} is not one of {', '.join(allowed)}{hint}")


def _check_shapes(spec: Config) -> None:
    """Raises ConfigError where a row gets nothing to see, or groups do not divide."""
    geometry.layers(spec.model, spec.augment.crop_size, spec.model.num_classes or 2)


def _apply_switches(model: ModelSpec) -> ModelSpec:
    """Rows with `lrn=False` and `overlapping_pooling=False` carried out; a switch that changes nothing is an error."""
    convs = model.convs
    if not model.lrn:  # experiment #148 removed every response normalization
        convs = tuple((name, _without_response_norm(row)) for name, row in convs)
        if convs == model.convs:
            raise ConfigError("config.model.lrn=False changes nothing: no row has 'lrn'")
    if not model.overlapping_pooling:
        before = convs
        convs = tuple(
            _without_overlap(name, row, first=i == 0) for i, (name, row) in enumerate(convs)
        )
        if convs == before:
            raise ConfigError(
                "config.model.overlapping_pooling=False changes nothing: no pool overlaps"
            )
    return dataclasses.replace(model, convs=convs)


def _without_response_norm(row: ConvSpec) -> ConvSpec:
    kept = tuple(o for o in row.then if o not in ("lrn", "spatial_norm"))
    return dataclasses.replace(row, then=kept)


def _without_overlap(name: str, row: ConvSpec, *, first: bool):
    """Window = stride; pooled rows after the first lose a pixel of padding, so that sizes stay (experiment #147)."""
    if row.pool is None or row.pool.window <= row.pool.stride:
        return name, row
    pad = row.pad if first else (max(row.pad[0] - 1, 0), max(row.pad[1] - 1, 0))
    return name, dataclasses.replace(
        row, pad=pad, pool=dataclasses.replace(row.pool, window=row.pool.stride)
    )
