import numpy as np
import pytest

from alexnet_jax.inference import metrics as errors


def test_top1_and_top5_match_a_literal_count():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(12), size=101)
    labels = rng.integers(0, 12, 101)
    order = np.argsort(-probabilities, axis=1)
    summary = errors.summarize(probabilities, labels)
    assert summary["count"] == 101
    assert summary["top1_error"] == sum(o[0] != y for o, y in zip(order, labels, strict=True)) / 101
    assert (
        summary["top5_error"]
        == sum(y not in o[:5] for o, y in zip(order, labels, strict=True)) / 101
    )
    assert summary["nll"] == pytest.approx(-np.mean(np.log(probabilities[np.arange(101), labels])))


def test_a_tie_is_an_error():
    assert errors.summarize(np.full((4, 10), 0.1), np.arange(4))["top1_error"] == 1.0


def test_top5_is_absent_below_6_classes():
    assert "top5_error" not in errors.summarize(np.eye(5), np.arange(5))


def test_probability_zero_gives_a_finite_nll():
    assert np.isfinite(errors.summarize(np.eye(6), np.array([1, 1, 1, 1, 1, 1]))["nll"])


def test_what_is_not_a_number_is_wrong():
    probabilities = np.array([[0.7, 0.2, 0.1], [np.nan, np.nan, np.nan]])
    assert errors.rank(probabilities, np.array([1, 0])).tolist() == [2, 3]
    assert errors.summarize(probabilities, np.array([0, 0]))["top1_error"] == 0.5
