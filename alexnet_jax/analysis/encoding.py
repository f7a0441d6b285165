"""Encoding models: predict responses of voxels or neurons from the features of a layer, by ridge regression."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

FOLDS = 5
#: Penalties to choose from, as multiples of the mean squared norm of the centered features of an image.
PENALTIES = 10.0 ** np.arange(-5, 5.5, 0.5)


class Encoding(NamedTuple):
    """How well held-out responses are predicted.

    Attributes:
        correlation: Mean over the folds of Pearson's correlation between predicted and held-out responses; NaN for
            a response that is constant.
        r2: 1 - the sum of squared errors over that of predicting the mean of the training images, over all folds.
        penalty: Geometric mean over the folds of the chosen penalty.
    """

    correlation: Float[np.ndarray, " v"]
    r2: Float[np.ndarray, " v"]
    penalty: Float[np.ndarray, " v"]


def folds(images: int, count: int, generator: np.random.Generator) -> list[Int[np.ndarray, " b"]]:
    """Divide images into `count` random test sets, whose sizes differ by at most one."""
    return [np.sort(part) for part in np.array_split(generator.permutation(images), count)]


def encode(
    products: Float[np.ndarray, "n n"],
    responses: Float[np.ndarray, "n v"],
    tests: Sequence[Int[np.ndarray, " b"]],
) -> Encoding:
    """Predict responses by ridge regression with an intercept, cross-validated over the test sets `tests`.

    The dual form needs only inner products of features, [n n], so the number of features does not matter. For each
    response and test set, the penalty of PENALTIES with the smallest leave-one-out error within the training images is
    chosen. That error is exact, in closed form: with the hat matrix H, the residual of image i divided by 1 - H_ii.

    Args:
        products: Inner products of the features of the images, from any common origin.

    Returns:
        Values for each response; all are NaN for features that are the same for all images.
    """
    n, v = responses.shape
    correlations, penalties = np.full((len(tests), v), np.nan), np.empty((len(tests), v))
    errors, totals = np.zeros(v), np.zeros(v)
    for fold, test in enumerate(tests):
        train = np.setdiff1d(np.arange(n), test)
        predicted, penalties[fold] = _fit(products, responses, train, test)
        held_out = responses[test]
        correlations[fold] = _correlation(predicted, held_out)
        errors += np.square(held_out - predicted).sum(axis=0)
        totals += np.square(held_out - responses[train].mean(axis=0)).sum(axis=0)
    varies = np.isfinite(penalties).all(axis=0) & (np.ptp(responses, axis=0) > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = Encoding(
            correlations.mean(axis=0), 1 - errors / totals, np.exp(np.log(penalties).mean(axis=0))
        )
    return Encoding(*(np.where(varies, values, np.nan) for values in found))


def _fit(
    products: Float[np.ndarray, "n n"],
    responses: Float[np.ndarray, "n v"],
    train: Int[np.ndarray, " a"],
    test: Int[np.ndarray, " b"],
) -> tuple[Float[np.ndarray, "b v"], Float[np.ndarray, " v"]]:
    """Return the predictions for `test` of a fit to `train`, and the penalty of each response."""
    k = products[np.ix_(train, train)].astype(np.float64)
    columns, total = k.mean(axis=0), k.mean()
    k -= columns[:, None] + columns - total
    others = products[np.ix_(test, train)].astype(np.float64)
    others -= others.mean(axis=1, keepdims=True) + columns - total
    mean = responses[train].mean(axis=0)
    scale = np.trace(k) / len(k)
    if scale <= 0:
        return np.broadcast_to(mean, (len(test), len(mean))), np.full(len(mean), np.nan)
    values, vectors = np.linalg.eigh(k / scale)
    values = np.maximum(values, 0)
    values[0] = 0  # of the constant vector, since `k` is centered
    projected = vectors.T @ (responses[train] - mean)
    squares, lowest = np.square(vectors), np.full(len(mean), np.inf)
    penalties = np.empty(len(mean))
    for penalty in PENALTIES:
        kept = penalty / (values + penalty)  # of the residual
        residuals = vectors @ (kept[:, None] * projected)
        residuals /= (squares @ kept - 1 / len(k))[:, None]
        error = np.square(residuals).sum(axis=0)
        penalties = np.where(error < lowest, penalty, penalties)
        lowest = np.minimum(error, lowest)
    weights = vectors @ (projected / (values[:, None] + penalties))
    return mean + others / scale @ weights, penalties


def _correlation(
    first: Float[np.ndarray, "n v"], second: Float[np.ndarray, "n v"]
) -> Float[np.ndarray, " v"]:
    """Correlate columns; 0 for predictions that are constant, and responses that are constant in a fold."""
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    norms = np.sqrt(np.square(first).sum(axis=0) * np.square(second).sum(axis=0))
    return (first * second).sum(axis=0) / np.where(norms > 0, norms, 1)


def median_interval(
    values: Float[np.ndarray, " v"], resamples: int, generator: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Return the median of the values that are not NaN, and the medians of as many values drawn with replacement."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.nan, np.empty(0)
    medians = [np.median(generator.choice(known, len(known))) for _ in range(resamples)]
    return float(np.median(known)), np.array(medians)
