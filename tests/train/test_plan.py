"""What happens at which step."""

import pytest

from alexnet_jax import config
from alexnet_jax.errors import ConfigError
from alexnet_jax.train.plan import Plan


def plan(*overrides: str, examples=382) -> Plan:
    found = config.load("tests/tiny.py", [f"--config.{override}" for override in overrides])
    return Plan(config.parse(found), examples)


def test_the_last_step_follows_from_the_epochs_or_the_limit():
    assert plan().last_step == 48
    assert plan("train.epochs=1.5").last_step == 18
    assert plan("train.max_steps=14").last_step == 14
    assert plan("train.max_steps=100").last_step == 48


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
    from alexnet_jax.train import schedule

    many = plan("train.steps_per_dispatch=3")
    dispatch = next(iter(plan("train.steps_per_dispatch=3").dispatches(0)))
    rates = many.dispatch_rates(dispatch, schedule.create())
    assert rates.weights.shape == (3,)
    (one,) = [next(plan().dispatches(0))]
    assert plan().dispatch_rates(one, schedule.create()).weights.shape == ()
