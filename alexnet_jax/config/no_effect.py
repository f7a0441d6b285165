"""Which keys of a config have an effect only beside certain others.

A key that a config inherits may have none: ablations and variants switch parts off and leave their constants. One that
is given on the command line is meant to change something, and is refused where it would not.
"""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple

from alexnet_jax.specs import Config, RateSpec


class Effect(NamedTuple):
    """Keys that `pattern` (as of fnmatch) fits have an effect where `holds`."""

    pattern: str
    holds: Callable[[Config, str], bool]
    """Of a config, its switches not applied, and the key."""
    needs: str
    """What `holds` asks for, as the second half of a sentence."""


def faults(config: Config, given: Iterable[str]) -> list[str]:
    """A sentence for each group of the keys `given` that changes nothing in `config`."""
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
    """The schedule that the key ("schedule.biases.factor") is of."""
    found = getattr(config.schedule, key.split(".")[1])
    return found or config.schedule.weights


def _kind(*kinds: str) -> Callable[[Config, str], bool]:
    return lambda config, key: _rate(config, key).kind in kinds


def _in_a_row(operation: str) -> Callable[[Config, str], bool]:
    return lambda config, key: operation in _operations(config)


def _operations(config: Config) -> set[str]:
    rows = (*config.model.convs, *config.model.fcs)
    return {name for _, row in rows for name in (*row.pre_ops, *row.ops)}


def _pools(config: Config, key: str) -> bool:
    row = dict(config.model.convs).get(key.split(".")[2])
    return row is None or row.pool is None or "pool" in row.ops


def _adam(config: Config, key: str) -> bool:
    return config.optimizer.kind in ("adam", "adamw")


def _dropout(config: Config, key: str) -> bool:
    return "dropout" in _operations(config) and config.model.dropout.rate > 0


def _needs_path(config: Config, key: str) -> bool:
    return config.data.source not in ("digits", "synthetic")


EFFECTS = (
    Effect("model.activation", _in_a_row("act"), "no row has 'act'"),
    Effect("model.lrn_constants.within_towers",
           lambda config, _: "lrn" in _operations(config) and config.model.towers > 1,
           "it is for rows with 'lrn' in two towers or more (model.towers)"),
    Effect("model.lrn_constants.*", _in_a_row("lrn"), "no row has 'lrn'"),
    Effect("model.spatial_norm.*", _in_a_row("spatial_norm"), "no row has 'spatial_norm'"),
    Effect("model.batch_norm.*", _in_a_row("batch_norm"), "no row has 'batch_norm'"),
    Effect("model.dropout.rate", _in_a_row("dropout"), "no row has 'dropout'"),
    Effect("model.dropout.scale_at", _dropout, "no row has 'dropout' with a rate above 0"),
    Effect("model.convs.*.pool*", _pools, "the row has no 'pool' in `then`"),
    Effect("model.*.init_std", lambda config, _: config.model.init == "gaussian",
           "it is for model.init=gaussian"),
    Effect("data.path", _needs_path,
           "the sources digits and synthetic read no files; --config.data.source=folder does"),
    Effect("data.name", lambda config, _: config.data.source == "tfds", "it is for data.source=tfds"),
    Effect("augment.min_area", lambda config, _: config.augment.crop == "random_resized",
           "it is for augment.crop=random_resized"),
    Effect("augment.crop_chunk", lambda config, _: config.augment.crop != "center" or config.augment.flip,
           "nothing is drawn for a crop (augment.crop=center, augment.flip=False)"),
    Effect("augment.color_[bro]*", lambda config, _: config.augment.color_std > 0,
           "there is no color noise (augment.color_std=0)"),
    Effect("optimizer.momentum", lambda config, _: config.optimizer.kind == "momentum",
           "it is for optimizer.kind=momentum; adam and adamw have b1 and b2"),
    Effect("optimizer.b[12]", _adam, "it is for optimizer.kind=adam and adamw"),
    Effect("optimizer.epsilon", _adam, "it is for optimizer.kind=adam and adamw"),
    Effect("schedule.bias_factor", lambda config, _: config.schedule.biases is None,
           "schedule.biases gives the rate of biases"),
    Effect("schedule.*.factor", _kind("plateau", "epochs"), "it is for the kinds plateau and epochs"),
    Effect("schedule.*.max_drops", _kind("plateau"), "it is for the kind plateau"),
    Effect("schedule.*.patience", _kind("plateau"), "it is for the kind plateau"),
    Effect("schedule.*.min_improvement", _kind("plateau"), "it is for the kind plateau"),
    Effect("schedule.*.drops", _kind("epochs"), "it is for the kind epochs"),
    Effect("schedule.*.target", _kind("exp", "dexp", "linear"), "it is for the kinds exp, dexp and linear"),
    Effect("schedule.*.plateaus", _kind("dexp"), "it is for the kind dexp"),
    Effect("train.exact", _dropout, "no row has 'dropout' with a rate above 0, which alone it is about"),
)  # fmt: skip
"""Tried in order; a key may have several, all of which must hold."""
