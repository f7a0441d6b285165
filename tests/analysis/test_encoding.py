"""Encoding models against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV

from alexnet_jax.analysis import encoding


@pytest.fixture
def random():
    return np.random.default_rng(0)


def data(random, features):
    x = random.normal(size=(50, features)) + 2
    y = x[:, :5] @ random.normal(size=(5, 4)) + np.array([0.1, 1, 4, 50]) * random.normal(
        size=(50, 4)
    )
    return x, y + 3


@pytest.mark.parametrize("features", [8, 200])
def test_it_is_ridgecv_in_each_fold(random, features):
    """With fewer and with more features than images; the penalty of each response by its leave-one-out error."""
    x, y = data(random, features)
    tests = encoding.folds(50, 5, random)
    found = encoding.encode((x - 7) @ (x - 7).T, y, tests)
    correlations, chosen, errors, totals = [], [], 0.0, 0.0
    for test in tests:
        train = np.setdiff1d(np.arange(50), test)
        scale = np.square(x[train] - x[train].mean(axis=0)).sum() / len(train)
        alphas = scale * encoding.PENALTIES
        cv = RidgeCV(alphas, alpha_per_target=True).fit(x[train], y[train])
        predicted = np.column_stack([
            Ridge(alpha).fit(x[train], y[train, i]).predict(x[test])
            for i, alpha in enumerate(cv.alpha_)
        ])  # fmt: skip
        chosen.append(cv.alpha_ / scale)
        correlations.append([np.corrcoef(predicted[:, i], y[test, i])[0, 1] for i in range(4)])
        errors = errors + np.square(y[test] - predicted).sum(axis=0)
        totals = totals + np.square(y[test] - y[train].mean(axis=0)).sum(axis=0)
    np.testing.assert_allclose(found.penalty, np.exp(np.log(chosen).mean(axis=0)), rtol=1e-6)
    np.testing.assert_allclose(found.correlation, np.mean(correlations, axis=0), atol=1e-6)
    np.testing.assert_allclose(found.r2, 1 - errors / totals, atol=1e-6)
    assert found.r2[0] > 0.2 > found.r2[3]


def test_every_image_is_held_out_once(random):
    tests = encoding.folds(23, 5, random)
    assert sorted(np.concatenate(tests)) == list(range(23))
    assert {len(test) for test in tests} == {4, 5}


def test_what_is_constant_has_no_value(random):
    x, y = data(random, 8)
    y[:, 1] = 3
    found = encoding.encode(x @ x.T, y, encoding.folds(50, 5, random))
    assert np.isnan(found.r2).tolist() == [False, True, False, False]
    assert np.isnan(found.correlation).tolist() == [False, True, False, False]
    dead = encoding.encode(np.ones((50, 50)), y, encoding.folds(50, 5, random))
    assert all(np.isnan(values).all() for values in dead)


def test_the_interval_of_the_median_is_over_responses(random):
    values = np.array([*random.normal(size=400), np.nan])
    median, drawn = encoding.median_interval(values, 300, random)
    assert median == np.median(values[:400]) and len(drawn) == 300
    assert np.std(drawn) == pytest.approx((np.pi / 2 / 400) ** 0.5, rel=0.3)
    assert encoding.median_interval(values[400:], 10, random)[1].size == 0
