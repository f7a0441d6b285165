"""Conditions on several values of a config; the range of a single value is in its type."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from alexnet_jax.config.canonical import weight_decays
from alexnet_jax.errors import did_you_mean
from alexnet_jax.model import geometry, operations
from alexnet_jax.specs import LISTED, NO_FILES, Config, ModelSpec, RateSpec


def faults(spec: Config) -> list[str]:
    """Describe each fault of `spec` in a sentence."""
    return [
        *_layer_faults(spec.model),
        *_layer_name_faults(spec),
        *_image_faults(spec),
        *_step_faults(spec),
        *_schedule_faults(spec),
    ]


def check_shapes(spec: Config) -> None:
    """Raise ConfigError if a layer has an empty output, or its groups do not divide its features."""
    geometry.layers(spec.model, spec.augment.crop_size, spec.model.num_classes or 2)


def adam_faults(spec: Config) -> Iterator[str]:
    """Reject adam with a weight decay in a new config; in an older config.json it means adamw."""
    decays = weight_decays(dataclasses.asdict(spec.optimizer))
    if spec.optimizer.kind == "adam" and decays:
        yield (
            f"config.optimizer: adam has no weight decay, but {', '.join(decays)}; set each to 0, or kind=adamw, whose "
            "decay is decoupled from the gradient"
        )


def _layer_faults(model: ModelSpec) -> Iterator[str]:
    if not model.fcs:
        yield "config.model.fcs must have at least one layer, with features=None for the classes"
    yield from operations.faults(model)
    for name, layer in model.fcs:
        if (layer.features is None) != (name == model.fcs[-1][0]):
            yield (
                f"config.model.fcs.{name}.features must be a positive number; "
                "None is for the last layer only, which has one output per class"
            )


def _layer_name_faults(spec: Config) -> Iterator[str]:
    """Faults of the names of layers, and of keys that refer to a layer."""
    model = spec.model
    names = {name for name, _ in model.layers}
    if len(names) < len(model.convs) + len(model.fcs):
        yield "config.model: convs and fcs share a name"
    by_layer = {
        "optimizer.layer_weight_decay": spec.optimizer.layer_weight_decay,
        "schedule.layer_factors": spec.schedule.layer_factors,
    }
    for section, values in by_layer.items():
        for name in sorted(values.keys() - names):
            yield f"config.{section}.{name}: the model has no such layer{did_you_mean(name, names)}"


def _image_faults(spec: Config) -> Iterator[str]:
    data, augment = spec.data, spec.augment
    size = spec.uncropped_size
    if augment.crop_size > size:
        yield f"config.augment.crop_size={augment.crop_size} is larger than the {size} pixel images"
    if augment.color_std and augment.mean == "standardize":
        yield (
            "config.augment: color noise needs the scale of pixel values, which mean='standardize' changes; "
            "set config.augment.color_std=0"
        )
    if data.source not in (*NO_FILES, "tfds") and not data.path:
        yield "config.data.path is not set: --config.data.path=FOLDER says where the images are"
    if data.source == "tfds" and data.name is None and data.path is None:
        yield "config.data.name is not set for tfds"
    if data.skip_unreadable and data.source not in LISTED:
        yield (
            f"config.data.skip_unreadable is for the sources {', '.join(LISTED)}, not {data.source!r}; a store leaves "
            "unreadable images out when it is prepared, with --max-bad-share"
        )


def _step_faults(spec: Config) -> Iterator[str]:
    train = spec.train
    if train.batch_size % train.accumulate:
        yield (
            f"config.train.batch_size={train.batch_size} is not divisible by accumulate={train.accumulate}"
        )
    if train.accumulate > 1 and train.steps_per_dispatch > 1:
        yield "config.train: with accumulate, each part is a dispatch of its own: leave out steps_per_dispatch"
    if train.steps_per_dispatch > 1 and spec.data.placement == "host":
        yield "config.train.steps_per_dispatch needs all images on the devices: --config.data.placement=device"
    if train.split_towers:
        yield from (f"config.train.split_towers: {one}" for one in _split_tower_faults(spec.model))
    if train.split_dense:
        yield from (f"config.train.split_dense: {one}" for one in _split_dense_faults(spec))
    if train.label_smoothing and train.loss != "cross_entropy":
        yield "config.train.label_smoothing is for the loss cross_entropy"


def _schedule_faults(spec: Config) -> Iterator[str]:
    schedule = spec.schedule
    yield from _rate_faults("config.schedule.weights", schedule.weights)
    if schedule.biases is not None:
        yield from _rate_faults("config.schedule.biases", schedule.biases)
    for name, changes in schedule.layer_factors.items():
        if not _is_rising([epoch for epoch, _ in changes]):
            yield f"config.schedule.layer_factors.{name}={changes}: each must be later than the one before"
    if schedule.biases is not None and schedule.biases.kind == "plateau":
        yield "config.schedule.biases cannot be 'plateau': leave it None to follow the weights"


def _rate_faults(path: str, rate: RateSpec) -> Iterator[str]:
    if rate.kind == "dexp" and rate.plateaus < 2:
        yield f"{path}.plateaus: dexp needs 2 or more"
    if not _is_rising(rate.drops):
        yield f"{path}.drops={rate.drops}: each must be later than the one before"


def _split_tower_faults(model: ModelSpec) -> Iterator[str]:
    """Why the towers of `model` cannot be placed on different devices."""
    towers, layers = model.towers, model.layers
    if towers < 2:
        yield f"the net has {towers} tower; set config.model.towers"
    for name, layer in layers:
        sharded = not geometry.is_replicated(model, name)
        features = layer.features or model.num_classes
        if layer.groups > 1 and layer.groups % towers:
            yield f"layer {name} has {layer.groups} groups, which is not a multiple of {towers} towers"
        if sharded and (features or towers) % towers:
            yield f"layer {name} has {features} features, which is not a multiple of {towers} towers"
    yield from operations.sharding_faults(model)
    if layers[0][1].groups > 1:
        yield f"layer {layers[0][0]} has groups, but every tower sees the whole image"


def _split_dense_faults(spec: Config) -> Iterator[str]:
    """Why the units of the fully-connected layers cannot be split over devices."""
    if spec.train.split_towers:
        yield "split_towers splits them already; set one of the two"
    for name, layer in spec.model.fcs:
        if layer.groups > 1:
            yield f"layer {name} has {layer.groups} groups, and only layers without groups are split"


def _is_rising(epochs: Sequence[float]) -> bool:
    return all(earlier < later for earlier, later in itertools.pairwise(epochs))
