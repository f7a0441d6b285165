import numpy as np
import pytest

from alexnet_jax.evaluation import compare


def answers(only_first: int, only_second: int, both: int, neither: int):
    """(first, second) bool [n], with so many images of each kind."""
    kinds = ((1, 0, only_first), (0, 1, only_second), (1, 1, both), (0, 0, neither))
    return (
        np.repeat([k[0] for k in kinds], [k[2] for k in kinds]).astype(bool),
        np.repeat([k[1] for k in kinds], [k[2] for k in kinds]).astype(bool),
    )


def test_mcnemar_looks_at_the_images_that_divide_the_nets():
    # Sign test of 5 against 15: 2 * sum of C(20, k) for k <= 5, over 2^20.
    assert compare.mcnemar(*answers(5, 15, 100, 880)) == (
        5,
        15,
        pytest.approx(0.04138947, rel=1e-6),
    )
    assert compare.mcnemar(*answers(5, 15, 0, 0)).p == compare.mcnemar(*answers(5, 15, 9, 999)).p
    assert compare.mcnemar(*answers(0, 0, 10, 10)).p == 1


def test_several_seeds_give_twice_the_mean_p():
    one, other = answers(5, 15, 100, 880)
    assert compare.mcnemar_of_seeds(one[None], other[None]) == pytest.approx(0.04138947)
    both = compare.mcnemar_of_seeds(np.array([one, one]), np.array([other, one]))
    assert both == 1.0
    assert compare.mcnemar_of_seeds(np.array([one] * 2), np.array([other] * 2)) == pytest.approx(
        2 * 0.04138947
    )


def test_the_bootstrap_of_one_net_each_has_the_width_of_the_paired_error():
    one, other = answers(300, 400, 500, 8800)
    found = compare.bootstrap(one, other)
    assert found.mean == pytest.approx(0.01)
    d = other.astype(float) - one
    half = 1.96 * d.std() / np.sqrt(len(d))
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert found == compare.bootstrap(one, other)  # no chance in it


def test_the_bootstrap_knows_of_seeds():
    """Nets that differ much by their seed widen the interval; images alone would not tell."""
    draw = np.random.default_rng(0)
    steady = np.array([draw.random(1000) < 0.3 for _ in range(4)])
    restless = np.array([draw.random(1000) < rate for rate in (0.2, 0.26, 0.34, 0.4)])
    narrow = compare.bootstrap(steady, steady[::-1], resamples=500)
    wide = compare.bootstrap(steady, restless, resamples=500)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_holm_as_in_his_example():
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert compare.holm([]) == []
    assert compare.holm([0.9, 0.8]) == [1.0, 1.0]
