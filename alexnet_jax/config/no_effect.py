"""Find keys that have no effect in a config because of the values of other keys.

A config file may have such keys: ablations switch off a part of the network and leave its constants. A key on the
command line is rejected if it has no effect.
"""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from alexnet_jax.specs import NO_FILES, Config, RateSpec


class Effect(NamedTuple):
    """A condition under which some keys have an effect."""

    #: Pattern of the keys, for fnmatch.
    pattern: str
    #: Whether a key has an effect in a config, before the switches are applied.
    holds: Callable[[Config, str], bool]
    #: The reason for a key without effect, as the end of an error message.
    needs: str


def faults(config: Config, given: Iterable[str]) -> list[str]:
    """Describe the keys in `given` that have no effect in `config`, with one sentence per reason."""
    idle: dict[str, list[str]] = {}
    for key in given:
        for effect in EFFECTS:
            if fnmatchcase(key, effect.pattern) and not effect.holds(config, key):
                idle.setdefault(effect.needs, []).append(key)
                break
    return [
        f"{', '.join(f'config.{key}' for key in keys)} would change nothing: {needs}"
        for needs, keys in idle.items()
    ]


def _rate(config: Config, key: str) -> RateSpec:
    """Return the learning-rate schedule to which a key such as "schedule.biases.factor" applies."""
    found = getattr(config.schedule, key.split(".")[1])
    return found or config.schedule.weights


def _kind(*kinds: str) -> Callable[[Config, str], bool]:
    return lambda config, key: _rate(config, key).kind in kinds


def _has_op(operation: str) -> Callable[[Config, str], bool]:
    return lambda config, key: operation in _operations(config)


def _operations(config: Config) -> set[str]:
    return {op for _, layer in config.model.layers for op in (*layer.pre_ops, *layer.ops)}


def _pools(config: Config, key: str) -> bool:
    layer = dict(config.model.convs).get(key.split(".")[2])
    return layer is None or layer.pool is None or "pool" in layer.ops


def _adam(config: Config, key: str) -> bool:
    return config.optimizer.kind in ("adam", "adamw")


def _dropout(config: Config, key: str) -> bool:
    return "dropout" in _operations(config) and config.model.dropout.rate > 0


def _needs_path(config: Config, key: str) -> bool:
    return config.data.source not in NO_FILES


#: Checked in order, up to the first that does not hold for a key.
EFFECTS = (
    Effect("model.activation", _has_op("act"), "no layer has 'act'"),
    Effect("model.lrn_constants.within_towers",
           lambda config, _: "lrn" in _operations(config) and config.model.towers > 1,
           "it is for layers with 'lrn' in two towers or more (model.towers)"),
    Effect("model.lrn_constants.*", _has_op("lrn"), "no layer has 'lrn'"),
    Effect("model.spatial_norm.*", _has_op("spatial_norm"), "no layer has 'spatial_norm'"),
    Effect("model.batch_norm.*", _has_op("batch_norm"), "no layer has 'batch_norm'"),
    Effect("model.dropout.rate", _has_op("dropout"), "no layer has 'dropout'"),
    Effect("model.dropout.scale_at", _dropout, "no layer has 'dropout' with a rate above 0"),
    Effect("model.convs.*.pool*", _pools, "the layer has no 'pool' in `then`"),
    Effect("model.*.init_std", lambda config, _: config.model.init == "gaussian",
           "it is for model.init=gaussian"),
    Effect("data.path", _needs_path,
           "the sources digits and synthetic read no files; --config.data.source=folder does"),
    Effect("data.name", lambda config, _: config.data.source == "tfds", "it is for data.source=tfds"),
    Effect("augment.min_area", lambda config, _: config.augment.crop == "random_resized",
           "it is for augment.crop=random_resized"),
    Effect("augment.crop_chunk", lambda config, _: config.augment.crop != "center" or config.augment.flip,
           "crops have no random numbers (augment.crop=center, augment.flip=False)"),
    Effect("augment.color_[bro]*", lambda config, _: config.augment.color_std > 0,
           "there is no color noise (augment.color_std=0)"),
    Effect("optimizer.momentum", lambda config, _: config.optimizer.kind in ("momentum", "lars"),
           "it is for optimizer.kind=momentum and lars; adam and adamw have b1 and b2"),
    Effect("optimizer.trust_*", lambda config, _: config.optimizer.kind == "lars",
           "it is for optimizer.kind=lars"),
    Effect("optimizer.b[12]", _adam, "it is for optimizer.kind=adam and adamw"),
    Effect("optimizer.epsilon", _adam, "it is for optimizer.kind=adam and adamw"),
    Effect("schedule.bias_factor", lambda config, _: config.schedule.biases is None,
           "biases have their own schedule, schedule.biases"),
    Effect("schedule.*.factor", _kind("plateau", "epochs"), "it is for the kinds plateau and epochs"),
    Effect("schedule.*.max_drops", _kind("plateau"), "it is for the kind plateau"),
    Effect("schedule.*.patience", _kind("plateau"), "it is for the kind plateau"),
    Effect("schedule.*.min_improvement", _kind("plateau"), "it is for the kind plateau"),
    Effect("schedule.*.drops", _kind("epochs"), "it is for the kind epochs"),
    Effect("schedule.*.target", _kind("exp", "dexp", "linear"), "it is for the kinds exp, dexp and linear"),
    Effect("schedule.*.plateaus", _kind("dexp"), "it is for the kind dexp"),
    Effect("schedule.*.power", _kind("poly"), "it is for the kind poly"),
    Effect("train.exact", _dropout, "it is for dropout, and no layer has 'dropout' with a rate above 0"),
)  # fmt: skip
