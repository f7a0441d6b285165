"""Learning-rate schedules (§5: divided by 10 when the validation error stalls; the 2012 lr.cu), on the host."""

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from alexnet_jax.specs import Config, RateSpec


class Rates(NamedTuple):
    """Values of the schedule for one step; 0-d float32 arrays."""

    weights: np.ndarray
    #: Rate of biases, and of the scale and offset of batch normalization.
    biases: np.ndarray
    #: Layer -> factor of both of its rates; 0 freezes it.
    layers: dict[str, np.ndarray]
    #: Standard deviation of the color augmentation.
    color_std: np.ndarray


class ScheduleState(NamedTuple):
    """State of the plateau schedule and of train.patience; 0-d arrays, part of a checkpoint."""

    #: Number of times that the rate was lowered.
    drops: np.ndarray
    #: Evaluations since the best one, or since the last drop.
    stalled: np.ndarray
    #: Lowest validation error (fraction) so far.
    best: np.ndarray


def create() -> ScheduleState:
    """Return the state before any evaluation."""
    return _state(0, 0, np.inf)


def rates(spec: Config, epoch: float, state: ScheduleState, total_epochs: float) -> Rates:
    """Return the rates of a step that begins after `epoch` (a float) of `total_epochs` epochs."""
    schedule, augment = spec.schedule, spec.augment
    weights = _rate(schedule.weights, epoch, state, total_epochs)
    if schedule.biases is None:
        biases = weights * schedule.bias_factor
    else:
        biases = _rate(schedule.biases, epoch, state, total_epochs)
    layers = [name for name, _ in spec.model.layers]
    factors = {layer: _factor(schedule.layer_factors.get(layer, ()), epoch) for layer in layers}
    colored = augment.color_off_epoch is None or epoch < augment.color_off_epoch
    return Rates(
        weights=np.asarray(weights, np.float32),
        biases=np.asarray(biases, np.float32),
        layers={layer: np.asarray(factor, np.float32) for layer, factor in factors.items()},
        color_std=np.asarray(augment.color_std if colored else 0.0, np.float32),
    )


def update(
    spec: RateSpec, state: ScheduleState, wrong: int, count: int, *, stops_early: bool = False
) -> ScheduleState:
    """Return the state after an evaluation with errors on `wrong` of `count` validation images.

    Only the 'plateau' schedule, and a run that `stops_early`, have a state. Numbers of images are compared, not
    fractions, so that the result does not depend on rounding: `best` is a float32, which is exact to one of 8 million
    images.
    """
    if spec.kind != "plateau" and not stops_early:
        return state
    drops, stalled, best = int(state.drops), int(state.stalled), float(state.best)
    fallen = round(best * count) - wrong if math.isfinite(best) else count + 1
    # The decimal number in the config, not the float nearest to it.
    if fallen > 0 and fallen >= Fraction(repr(spec.min_improvement)) * count:
        return _state(drops, 0, wrong / count)
    if can_drop(spec, state) and stalled + 1 >= spec.patience:
        return _state(drops + 1, 0, best)
    return _state(drops, stalled + 1, best)


def can_drop(spec: RateSpec, state: ScheduleState) -> bool:
    """Whether a stalled validation error will lower the rate once more."""
    return spec.kind == "plateau" and int(state.drops) < spec.max_drops


def _state(drops: int, stalled: int, best: float) -> ScheduleState:
    return ScheduleState(
        drops=np.asarray(drops, np.int32),
        stalled=np.asarray(stalled, np.int32),
        best=np.asarray(best, np.float32),
    )


def _rate(spec: RateSpec, epoch: float, state: ScheduleState, total_epochs: float) -> float:
    if epoch < spec.warmup_epochs:
        return spec.learning_rate * epoch / spec.warmup_epochs
    done = min(epoch / total_epochs, 1.0)
    return spec.learning_rate * SCHEDULES[spec.kind](spec, epoch, done, state)


def _factor(changes: tuple[tuple[float, float], ...], epoch: float) -> float:
    """Return the factor of the latest (epoch, factor) in `changes` that has begun, or 1."""
    begun = [change for change in changes if change[0] <= epoch]
    return max(begun)[1] if begun else 1.0


def _plateau(spec: RateSpec, epoch: float, done: float, state: ScheduleState) -> float:
    return spec.factor ** int(state.drops)


def _epochs(spec: RateSpec, epoch: float, done: float, state: ScheduleState) -> float:
    return spec.factor ** sum(drop <= epoch for drop in spec.drops)


def _exp(spec: RateSpec, epoch: float, done: float, state: ScheduleState) -> float:
    return spec.target**-done


def _dexp(spec: RateSpec, epoch: float, done: float, state: ScheduleState) -> float:
    """lr.cu: `plateaus` levels of equal length, from 1 to 1 / target."""
    level = min(int(done * spec.plateaus), spec.plateaus - 1)
    return spec.target ** (-level / (spec.plateaus - 1))


def _linear(spec: RateSpec, epoch: float, done: float, state: ScheduleState) -> float:
    return 1 + (1 / spec.target - 1) * done


def _cosine(spec: RateSpec, epoch: float, done: float, state: ScheduleState) -> float:
    """Half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * done)) / 2


def _poly(spec: RateSpec, epoch: float, done: float, state: ScheduleState) -> float:
    return (1 - done) ** spec.power


SCHEDULES = {
    "plateau": _plateau,
    "epochs": _epochs,
    "exp": _exp,
    "dexp": _dexp,
    "linear": _linear,
    "cosine": _cosine,
    "poly": _poly,
}
