import dataclasses

import numpy as np
import pytest

from alexnet_jax import config as configs
from alexnet_jax.specs import RateSpec
from alexnet_jax.train import schedule
from configs import paper


def spec_with(weights: RateSpec | None = None, augment: dict | None = None, **changes):
    config = paper.get_config()
    config.data.path = "unused"
    spec = configs.parse(config)
    if weights is not None:
        changes["weights"] = weights
    return dataclasses.replace(
        spec,
        schedule=dataclasses.replace(spec.schedule, **changes),
        augment=dataclasses.replace(spec.augment, **(augment or {})),
    )


def weights_at(rate: RateSpec, epochs, total: float = 90.0) -> list[float]:
    spec = spec_with(rate)
    return [
        float(schedule.rates(spec, epoch, schedule.create(), total).weights) for epoch in epochs
    ]


def feed(rate: RateSpec, errors, count: int = 10_000) -> list[int]:
    """Drops after each evaluation, with these errors (fractions) of `count` images."""
    state, drops = schedule.create(), []
    for error in errors:
        state = schedule.update(rate, state, round(error * count), count)
        drops.append(int(state.drops))
    return drops


def test_epochs_drop_when_the_epoch_has_passed():
    rate = RateSpec("epochs", 0.01, factor=0.1, drops=(23.0, 51.0))
    rates = weights_at(rate, [0, 22.999, 23, 50.9, 51, 90])
    np.testing.assert_allclose(rates, [0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4], rtol=1e-6)


def test_no_drops_is_constant():
    assert len(set(weights_at(RateSpec("epochs", 0.01), [0, 1, 89]))) == 1


def test_exp_is_lr_cu():
    rates = weights_at(RateSpec("exp", 0.01, target=250.0), [0, 45, 90, 95])
    np.testing.assert_allclose(rates, [0.01, 0.01 / 250**0.5, 0.01 / 250, 0.01 / 250], rtol=1e-5)


def test_dexp_is_lr_cu():
    rate = RateSpec("dexp", 0.01, target=250.0, plateaus=4)
    rates = weights_at(rate, [0, 22.4, 22.5, 45, 67.5, 89.9, 90])
    levels = [0.01, 0.01, 0.0015874, 0.00025198, 0.00004, 0.00004, 0.00004]
    np.testing.assert_allclose(rates, levels, rtol=1e-4)


def test_linear_is_lr_cu():
    rates = weights_at(RateSpec("linear", 0.01, target=10.0), [0, 45, 90])
    np.testing.assert_allclose(rates, [0.01, 0.0055, 0.001], rtol=1e-6)


def test_poly_is_caffes():
    rate = RateSpec("poly", 8.0, power=2.0)
    np.testing.assert_allclose(weights_at(rate, [0, 45, 81, 90, 91]), [8, 2, 0.08, 0, 0], rtol=1e-5)
    line = RateSpec("poly", 8.0, power=1.0)
    np.testing.assert_allclose(weights_at(line, [45]), [4.0])


def test_a_warm_up_rises_from_zero_to_the_rate_and_then_the_schedule_goes_on():
    """As sgd_solver.cpp of NVIDIA's Caffe: linear to base_lr, then poly of the whole length."""
    rate = RateSpec("poly", 10.0, power=2.0, warmup_epochs=5.0)
    rates = weights_at(rate, [0, 1, 2.5, 4.999, 5, 50], total=100.0)
    np.testing.assert_allclose(rates, [0, 2, 5, 9.998, 9.025, 2.5], rtol=1e-5)
    drops = RateSpec("epochs", 0.01, drops=(3.0,), warmup_epochs=2.0)
    np.testing.assert_allclose(weights_at(drops, [1, 2, 3]), [0.005, 0.01, 0.001], rtol=1e-5)


def test_a_warm_up_of_the_weights_is_that_of_biases_that_follow_them():
    spec = spec_with(RateSpec("poly", 10.0, warmup_epochs=5.0), biases=None, bias_factor=2.0)
    found = schedule.rates(spec, 1.0, schedule.create(), 100.0)
    np.testing.assert_allclose(found.biases, 4.0)


def test_plateau_drops_after_patience_and_at_most_max_drops():
    rate = RateSpec("plateau", 0.01, max_drops=2, patience=3, min_improvement=0.001)
    assert feed(rate, [0.5, 0.5, 0.4, 0.4, 0.4]) == [0, 0, 0, 0, 0]
    assert feed(rate, [0.4] * 12) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    state = schedule.create()._replace(drops=np.asarray(2, np.int32))
    rates = schedule.rates(spec_with(rate), 1.0, state, 90.0)
    np.testing.assert_allclose(rates.weights, 1e-4, rtol=1e-6)


def test_plateau_compares_with_the_best_so_that_a_slow_creep_counts():
    rate = RateSpec("plateau", 0.01, patience=3, min_improvement=0.001)
    assert feed(rate, 0.5 - 0.0004 * np.arange(9)) == [0] * 9
    assert feed(rate, 0.5 - 0.0002 * np.arange(5)) == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 30, 1000, 9999, 50_000, 1_281_167])
def test_a_constant_error_is_no_improvement_whatever_its_value(count):
    """What is stored as float32 must not look worse, or better, than the same error seen again."""
    rate = RateSpec("plateau", 0.01, max_drops=3, patience=2, min_improvement=0.0)
    for error in (0.0, 0.1, 0.3, 0.4, 1 / 3, 0.5, 0.7, 0.9, 1.0):
        assert feed(rate, [error] * 12, count) == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3], error


@pytest.mark.parametrize("least", [0.001, 0.002, 0.01, 0.05, 0.1])
def test_a_fall_of_exactly_min_improvement_is_one(least):
    """Wherever it begins: 0.3 to 0.299 as 0.7 to 0.699, with a fall of one image less beside it."""
    rate = RateSpec("plateau", 0.01, patience=1, min_improvement=least)
    for count in (1000, 50_000):
        needed = round(least * count)
        for before in range(needed, count, max(count // 97, 1)):
            state = schedule.update(rate, schedule.create(), before, count)
            enough = schedule.update(rate, state, before - needed, count)
            short = schedule.update(rate, state, before - needed + 1, count)
            assert (int(enough.drops), int(short.drops)) == (0, 1), (before, count)


def test_the_smallest_fall_counts_where_any_does():
    rate = RateSpec("plateau", 0.01, patience=1, min_improvement=0.0)
    for count in (3, 1_281_167, 2**23):
        state = schedule.update(rate, schedule.create(), count - 1, count)
        assert int(schedule.update(rate, state, count - 2, count).drops) == 0
        assert int(schedule.update(rate, state, count - 1, count).drops) == 1


@pytest.mark.parametrize("kind", ["epochs", "exp", "linear"])
def test_only_plateau_looks_at_the_error(kind):
    state = schedule.create()
    assert schedule.update(RateSpec(kind, 0.01), state, 1, 10) is state


def test_with_patience_every_kind_counts_the_evaluations_without_a_fall():
    rate, state = RateSpec("cosine", 0.01, patience=1), schedule.create()
    for wrong, stalled in ((50, 0), (50, 1), (60, 2), (49, 0)):
        state = schedule.update(rate, state, wrong, 100, stops_early=True)
        assert (int(state.stalled), int(state.drops)) == (stalled, 0)


def test_state_keeps_its_dtypes_for_the_checkpoint():
    state = schedule.update(RateSpec("plateau", 0.01), schedule.create(), 3, 10)
    assert [x.dtype for x in state] == [np.int32, np.int32, np.float32]


def test_biases_follow_the_weights_or_have_their_own_schedule():
    drop = RateSpec("epochs", 0.01, drops=(10.0,))
    followed = schedule.rates(
        spec_with(drop, biases=None, bias_factor=2.0), 11, schedule.create(), 90
    )
    np.testing.assert_allclose(followed.biases, 0.002, rtol=1e-6)
    own = spec_with(drop, biases=RateSpec("epochs", 0.02), bias_factor=7.0)
    np.testing.assert_allclose(
        schedule.rates(own, 11, schedule.create(), 90).biases, 0.02, rtol=1e-6
    )


def test_row_factors_begin_at_their_epoch_and_zero_is_exact():
    spec = spec_with(layer_factors={"conv1": ((67.0, 0.1), (72.0, 0.0))})
    factors = [schedule.rates(spec, epoch, schedule.create(), 90).layers for epoch in (66, 67, 72)]
    assert [float(f["conv1"]) for f in factors] == [1.0, float(np.float32(0.1)), 0.0]
    assert all(f["fc8"] == 1 for f in factors)
    assert set(factors[0]) == {"conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"}


def test_color_noise_ends_at_its_epoch():
    spec = spec_with(augment={"color_std": 0.1, "color_off_epoch": 67.0})
    noise = [
        float(schedule.rates(spec, epoch, schedule.create(), 90).color_std) for epoch in (66.9, 67)
    ]
    assert noise == [float(np.float32(0.1)), 0.0]
    assert schedule.rates(spec_with(), 89, schedule.create(), 90).color_std == np.float32(0.1)


def test_cosine_falls_slowly_at_both_ends_and_ends_at_zero():
    spec = spec_with(RateSpec("cosine", 0.01))
    weights = [
        float(schedule.rates(spec, epoch, schedule.create(), 90).weights)
        for epoch in (0, 30, 45, 90, 99)
    ]
    np.testing.assert_allclose(weights, [0.01, 0.0075, 0.005, 0, 0], atol=1e-9)
