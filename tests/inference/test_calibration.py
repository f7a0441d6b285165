import math

import numpy as np
import pytest

from alexnet_jax.inference import metrics


def literal(probabilities, labels, bins):
    """(count, mean confidence, accuracy) of each bin, and the ECE, as in the article: (m - 1) / M < p <= m / M."""
    members = [[] for _ in range(bins)]
    for row, label in zip(probabilities, labels, strict=True):
        best = max(row)
        right = row[label] == best and list(row).count(best) == 1
        [place] = [m for m in range(bins) if m / bins < best <= (m + 1) / bins]
        members[place].append((best, right))
    rows, error = [], 0.0
    for part in members:
        if not part:
            rows.append((0, math.nan, math.nan))
            continue
        confidence, accuracy = (sum(column) / len(part) for column in zip(*part, strict=True))
        rows.append((len(part), confidence, accuracy))
        error += len(part) / len(labels) * abs(accuracy - confidence)
    return rows, error


@pytest.mark.parametrize("bins", [1, 8, 15])
def test_bins_and_error_are_those_of_the_article(bins):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(5, 0.3), 500).astype(np.float32)
    probabilities[:3] = [[0.5, 0.5, 0, 0, 0], [1, 0, 0, 0, 0], [0.25, 0.75, 0, 0, 0]]
    labels = rng.integers(0, 5, 500)
    labels[:3] = 0
    rows, error = literal(probabilities.astype(float), labels, bins)
    found = metrics.reliability(probabilities, labels, bins)
    assert found.counts.tolist() == [count for count, _, _ in rows]
    np.testing.assert_allclose(found.confidence, [c for _, c, _ in rows])
    np.testing.assert_allclose(found.accuracy, [a for _, _, a in rows])
    assert found.error == pytest.approx(error)
    assert metrics.expected_calibration_error(probabilities, labels, bins) == found.error


def test_a_net_that_is_right_as_often_as_it_says_has_no_error():
    probabilities = np.repeat([[0.7, 0.3]], 10, axis=0)
    assert metrics.expected_calibration_error(
        probabilities, np.array([0] * 7 + [1] * 3)
    ) == pytest.approx(0, abs=1e-12)
    sure_and_wrong = np.repeat([[1.0, 0.0]], 10, axis=0)
    assert metrics.expected_calibration_error(sure_and_wrong, np.ones(10, int)) == 1.0
