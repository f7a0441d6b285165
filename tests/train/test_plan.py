"""What happens at which step."""

import numpy as np
import pytest

from alexnet_jax import config
from alexnet_jax.errors import ConfigError
from alexnet_jax.train import schedule
from alexnet_jax.train.plan import Plan


def plan(*overrides: str, examples=382) -> Plan:
    found = config.load("tests/tiny.py", [f"--config.{override}" for override in overrides])
    return Plan(config.parse(found), examples)


def test_the_last_step_follows_from_the_epochs_or_the_limit():
    assert plan().last_step == 48
    assert plan("train.epochs=1.5").last_step == 18
    assert plan("train.max_steps=14").last_step == 14
    assert plan("train.max_steps=100").last_step == 48


def test_a_minimum_of_steps_stretches_the_schedule_to_them():
    cosine = ("schedule.weights.kind=cosine", "train.min_steps=96")
    few, many = plan(*cosine, examples=7), plan(*cosine, examples=1000)
    assert (few.last_step, many.last_step) == (96, 125)
    assert plan(*cosine, "train.max_steps=10", examples=7).last_step == 10
    half, end = (float(few.rates(step, schedule.create()).weights) for step in (48, 96))
    assert np.isclose(half, 0.001) and end == 0  # of 0.002
    assert many.total_epochs == 4


def test_a_minimum_of_steps_adds_no_evaluations():
    assert plan(examples=382).evaluate_every == 12  # of 48 steps
    assert plan("train.min_steps=96", examples=382).evaluate_every == 24
    assert plan("train.min_steps=96", examples=16).evaluate_every == 24


def stalled(evaluations: int, drops: int = 0) -> schedule.ScheduleState:
    return schedule.create()._replace(stalled=np.int32(evaluations), drops=np.int32(drops))


def test_a_run_ends_when_the_error_has_not_fallen_for_a_share_of_its_steps():
    patient = plan("schedule.weights.kind=cosine", "train.patience=0.5")
    assert (patient.evaluate_every, patient.last_step) == (12, 48)
    assert not patient.is_stalled(stalled(1)) and patient.is_stalled(stalled(2))
    assert not plan("schedule.weights.kind=cosine").is_stalled(stalled(99))


def test_a_rate_that_can_still_be_lowered_is_lowered_first():
    plateau = plan("train.patience=0.5")
    assert not plateau.is_stalled(stalled(2, drops=2)) and plateau.is_stalled(stalled(2, drops=3))


def test_more_steps_than_can_be_counted_are_refused():
    with pytest.raises(ConfigError, match=r"of 1,000,000,000 images is .* steps, more than"):
        _ = plan("train.epochs=1e6", examples=10**9).last_step


def test_the_last_step_is_evaluated_and_saved():
    short = plan("train.max_steps=14")
    assert [step for step in range(1, 15) if short.is_logged(step)] == [4, 8, 12]
    assert [step for step in range(1, 15) if short.is_evaluated(step)] == [12, 14]
    assert [step for step in range(1, 15) if short.is_saved(step)] == [6, 12, 14]
    series = plan("train.max_steps=14", "train.keep_powers_of_two=True")
    assert [step for step in range(15) if series.is_saved(step)] == [0, 1, 2, 4, 6, 8, 12, 14]


def test_dispatches_end_where_something_is_due():
    many = plan("train.max_steps=14", "train.steps_per_dispatch=3", "train.log_every=5")
    found = list(many.dispatches(0))
    assert [step for dispatch in found for step in dispatch.steps] == list(range(14))
    assert [len(dispatch.steps) for dispatch in found] == [3, 1, 1, 1, 3, 1, 1, 1, 1, 1]
    assert [dispatch.is_first for dispatch in found] == [True, True, *8 * [False]]
    assert [dispatch.steps.start for dispatch in plan("train.max_steps=14").dispatches(12)] == [
        12,
        13,
    ]


def test_rates_of_a_dispatch_of_several_steps_are_stacked():
    many = plan("train.steps_per_dispatch=3")
    dispatch = next(iter(plan("train.steps_per_dispatch=3").dispatches(0)))
    rates = many.dispatch_rates(dispatch, schedule.create())
    assert rates.weights.shape == (3,)
    (one,) = [next(plan().dispatches(0))]
    assert plan().dispatch_rates(one, schedule.create()).weights.shape == ()
