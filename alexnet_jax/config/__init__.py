"""From a config file to checked, frozen specs. Imports neither JAX nor Flax, so that mistakes show at once.

Below this file nobody sees a ConfigDict.
"""

import ast
import contextlib
import dataclasses
import difflib
import functools
import hashlib
import importlib.util
import itertools
import json
import math
import re
import traceback
import types
import typing
from pathlib import Path

from alexnet_jax import files
from alexnet_jax.config import effects, settings
from alexnet_jax.errors import ConfigError
from alexnet_jax.model import geometry, operations
from alexnet_jax.specs import MOST_ROWS, Config, ConvSpec, ModelSpec, Registered

_ROOT = Path(__file__).resolve().parents[2]


def parse(config, *, needs_images: bool = True) -> Config:
    """Checked specs from a ConfigDict or the dict of a run's config.json.

    Without `needs_images` config.data.path may be left out, as for a description. Raises ConfigError, with all faults
    in one line.
    """
    tree: typing.Any = _upgraded(_plain(config))
    if not needs_images and isinstance(tree.get("data"), dict) and not tree["data"].get("path"):
        tree = tree | {"data": tree["data"] | {"path": "not set"}}
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

    Every key of specs.py can be set, whether the file lists it or not; only a key that was given is added, so that a
    config that leaves it alone keeps its digest. A config file is Python code and is executed. Raises ConfigError,
    with all faults in one line; a key that has no effect in this config is one.
    """
    config = _execute(argument)
    given: dict[str, list[str]] = {}
    for override in overrides:
        key = re.sub(r"^--(no)?config\.", "", override.split("=", 1)[0])
        given.setdefault(key, []).append(override)
    refused = {key: settings.set_value(config, key, texts) for key, texts in given.items()}
    faults = [fault for fault in refused.values() if fault]
    tree, found = _plain(config), []
    spec = _build(Config, tree, "config", found)
    if not found:
        faults += effects.faults(spec, [key for key, fault in refused.items() if not fault])
        faults += _decay_of_adam(spec)
    if faults:
        try:
            parse(config)
        except ConfigError as error:
            faults.append(str(error))
        raise ConfigError("; ".join(faults))
    return config


def _execute(argument: str):
    """What `get_config` of a config file returns. Raises ConfigError."""
    from ml_collections import ConfigDict

    path, *variant = argument.split(":", 1)
    if not Path(path).exists() and (_ROOT / path).is_file():  # called from another folder
        path = str(_ROOT / path)
    if other := files.not_regular(path):
        raise ConfigError(f"--config {path}: {other}; see the folder configs/")
    if not Path(path).is_file():
        raise ConfigError(f"no config file {path}; see the folder configs/")
    found = importlib.util.spec_from_file_location("config_file", path)
    if found is None or found.loader is None:
        raise ConfigError(f"{path} is not a Python file; see the folder configs/")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
        get_config = getattr(module, "get_config", None)
        config = get_config(*variant) if callable(get_config) else None
    except (Exception, SystemExit) as error:  # it is code, and can fail in any way
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == found.origin]
        place = f", line {lines[-1]}" if lines else ""
        said = " ".join(str(error).split()) or "no message"
        raise ConfigError(f"{argument}{place}: {type(error).__name__}: {said}") from None
    if not isinstance(config, ConfigDict):
        returned = f", not {type(config).__name__}" if callable(get_config) else ""
        raise ConfigError(f"{path} must define get_config(), which returns a ConfigDict{returned}")
    return config.lock()


def _decay_of_adam(spec: Config) -> list[str]:
    """The fault of adam with a weight decay, which an older config.json may have (`_upgraded`)."""
    decays = _decays(dataclasses.asdict(spec.optimizer))
    if spec.optimizer.kind != "adam" or not decays:
        return []
    return [
        f"config.optimizer: adam has no weight decay, but {', '.join(decays)}; set each to 0, or kind=adamw, whose "
        "decay is apart from the gradient"
    ]


def _upgraded(tree):
    """The plain dict of a config as it is written today.

    Until there was adamw, adam with a weight decay meant it. Every other key that came later has a default with which
    the older configs mean what they did (tests/config/schema).
    """
    optimizer = tree.get("optimizer") if isinstance(tree, dict) else None
    if isinstance(optimizer, dict) and optimizer.get("kind") == "adam" and _decays(optimizer):
        return tree | {"optimizer": optimizer | {"kind": "adamw"}}
    return tree


def _decays(optimizer: dict) -> list[str]:
    """The weight decays of a config's optimizer that are not 0, as "key=value"."""
    layers = optimizer.get("layer_weight_decay")
    found = {key: optimizer.get(key) for key in ("weight_decay", "bias_weight_decay")}
    if isinstance(layers, dict):
        found |= {f"layer_weight_decay.{row}": decay for row, decay in layers.items()}
    return [f"{key}={decay}" for key, decay in found.items() if decay]


def completed(tree: dict, kind: typing.Any = Config) -> dict:
    """The plain dict of a config with every key that has a default, whether it was listed or not."""
    if kind is Config:
        tree = _upgraded(tree)
    found = {key: _plain(value) for key, value in _defaults(kind).items()} | tree
    for key, value in tree.items():
        below = _section(kind, key)
        if below and isinstance(value, dict):
            found[key] = completed(value, below)
    return found


@functools.cache
def _defaults(kind) -> dict[str, typing.Any]:
    """The values that a section of `kind` (None: one of other keys) has without listing them."""
    fields = dataclasses.fields(kind) if kind else ()
    return {f.name: f.default for f in fields if f.default not in (dataclasses.MISSING, None)}


def _section(kind, key: str):
    """The dataclass of the section `key` in one of `kind`; None for what is no section."""
    hint = settings.hints(kind).get(key) if kind else None
    found = [k for k in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(k)]
    return found[0] if found else None


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
    if origin is typing.Annotated and isinstance(arguments[1], Registered):
        names = operations.names(arguments[1])
        return _build(typing.Literal[names], value, path, faults)
    if origin is typing.Annotated:
        item = _build(arguments[0], value, path, faults)
        wrong = next((one for one in arguments[1:] if item is not None and item not in one), None)
        if wrong is not None:
            faults.append(f"{path} must be {wrong}, not {value!r}")
        return item
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
        if _is_finite(value):
            return float(value)
        faults.append(f"{path} must be a finite number, not {value!r}")
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    else:
        faults.append(f"{path} must be {kind.__name__}, not {value!r}")
    return None


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond all floats
        return False


def _build_dataclass(kind, value, path: str, faults: list[str]):
    if not isinstance(value, dict):
        faults.append(f"{path} must be a section, not {value!r}")
        return None
    hints = settings.hints(kind)
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
        # What is no literal stays a text, and so is refused.
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
    if len(value) > MOST_ROWS:
        faults.append(f"{path} has {len(value):,} rows, more than {MOST_ROWS}")
        return ()
    numbers = {name: re.fullmatch(r"[A-Za-z]\w*?(\d+)", name, re.ASCII) for name in value}
    for name, number in numbers.items():
        if not number:
            faults.append(
                f"{path}.{name}: the name of a row must end in its number, as conv1 or fc6 do"
            )
    order = {name: int(number.group(1)) for name, number in numbers.items() if number}
    if len(set(order.values())) < len(order):
        faults.append(f"{path}: two of the rows {', '.join(order)} have the same number")
    names = sorted(order, key=lambda name: order[name])
    return tuple((name, _build(row_kind, value[name], f"{path}.{name}", faults)) for name in names)


def _check(spec: Config, faults: list[str]) -> None:
    """What values say together; the range of each is in its type. Appends to `faults`."""

    def require(ok: bool, message: str) -> None:
        if not ok:
            faults.append(message)

    m, d, a, t = spec.model, spec.data, spec.augment, spec.train
    require(
        bool(m.fcs),
        "config.model.fcs must have at least one row, with features=None for the classes",
    )
    faults.extend(operations.faults(m))
    for i, (name, row) in enumerate(m.fcs):
        last = i == len(m.fcs) - 1
        require((row.features is None) == last, f"config.model.fcs.{name}.features: a positive number, "
                "and None in the last row alone, which has one output a class")  # fmt: skip
    rows = {name for name, _ in (*m.convs, *m.fcs)}
    require(len(rows) == len(m.convs) + len(m.fcs), "config.model: convs and fcs share a name")
    for section, keys in (("optimizer.layer_weight_decay", spec.optimizer.layer_weight_decay),
                          ("schedule.layer_factors", spec.schedule.layer_factors)):  # fmt: skip
        for key in sorted(set(keys) - rows):
            guess = difflib.get_close_matches(key, rows, 1)
            hint = f'; did you mean "{guess[0]}"?' if guess else ""
            faults.append(f"config.{section}.{key}: the model has no such row{hint}")
    largest = a.resize or d.image_size
    require(
        a.crop_size <= largest,
        f"config.augment.crop_size={a.crop_size} is larger than the {largest} pixel images",
    )
    require(
        a.color_std == 0 or a.mean != "standardize",
        "config.augment: color noise is for images that keep their scale",
    )
    require(d.source in ("digits", "synthetic", "tfds") or bool(d.path),
            "config.data.path is not set: --config.data.path=FOLDER says where the images are")  # fmt: skip
    require(
        d.source != "tfds" or d.name is not None or d.path is not None,
        "config.data.name is not set for tfds",
    )
    require(
        t.batch_size % t.accumulate == 0,
        f"config.train.batch_size={t.batch_size} is not divisible by accumulate={t.accumulate}",
    )
    require(
        t.accumulate == 1 or t.steps_per_dispatch == 1,
        "config.train: with accumulate, each part is a dispatch of its own: leave out steps_per_dispatch",
    )
    if t.split_towers:
        faults.extend(f"config.train.split_towers: {fault}" for fault in _unsplittable(spec.model))
    require(
        t.label_smoothing == 0 or t.loss == "cross_entropy",
        "config.train.label_smoothing is for the loss cross_entropy",
    )
    for path, rate in (("weights", spec.schedule.weights), ("biases", spec.schedule.biases)):
        if rate is not None:
            require(
                rate.kind != "dexp" or rate.plateaus > 1,
                f"config.schedule.{path}.plateaus: dexp needs 2 or more",
            )
            require(
                _rises(rate.drops),
                f"config.schedule.{path}.drops={rate.drops}: each must be later than the one before",
            )
    for name, changes in spec.schedule.layer_factors.items():
        require(
            _rises([epoch for epoch, _ in changes]),
            f"config.schedule.layer_factors.{name}={changes}: each must be later than the one before",
        )
    require(spec.schedule.biases is None or spec.schedule.biases.kind != "plateau",
            "config.schedule.biases cannot be 'plateau': leave it None to follow the weights")  # fmt: skip


def _unsplittable(model: ModelSpec) -> typing.Iterator[str]:
    """Why the towers of `model` cannot lie on devices of their own."""
    towers, rows = model.towers, model.layers
    if towers < 2:
        yield f"the net has {towers} tower; set config.model.towers"
    for name, row in rows:
        replicated = geometry.is_replicated(model, name)
        if row.groups > 1 and row.groups % towers:
            yield f"row {name} has {row.groups} groups, which is not a multiple of {towers} towers"
        if not replicated and (row.features or model.num_classes or towers) % towers:
            yield f"row {name} has {row.features or model.num_classes} features, which {towers} towers do not divide"
    yield from operations.sharding_faults(model)
    if rows[0][1].groups > 1:
        yield f"row {rows[0][0]} has groups, but every tower sees the whole image"


def _rises(epochs: typing.Sequence[float]) -> bool:
    return all(earlier < later for earlier, later in itertools.pairwise(epochs))


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
