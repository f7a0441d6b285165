"""Whether two nets differ, from their answers to the same images: the statistics of a difference of errors.

An answer is `wrong` (True) or right. `[s n]` are the answers of s nets, trained alike but for the seed, to n images.
"""

from typing import NamedTuple

import numpy as np


class McNemar(NamedTuple):
    """Of two nets: the images that only one of them gets wrong."""

    only_first: int
    only_second: int
    p: float
    """Exact, two-sided: under the hypothesis that either is as likely."""


class Difference(NamedTuple):
    """Error of the second group of nets less that of the first, as fractions, with the bounds of its interval."""

    mean: float
    low: float
    high: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's (1947) test of two nets, from their `wrong` [n], by the exact binomial distribution.

    It says whether these two nets differ. Nets that differ by their seed alone often do.
    """
    from scipy import stats

    a, b = int((first & ~second).sum()), int((second & ~first).sum())
    return McNemar(a, b, float(stats.binomtest(a, a + b).pvalue) if a + b else 1.0)


def mcnemar_of_seeds(first: np.ndarray, second: np.ndarray) -> float:
    """One p-value for the pairs of nets [s n] with the same seed: twice the mean of McNemar's.

    Twice the mean is valid however the tests depend on each other (Vovk and Wang, 2020); these share their images.
    """
    ps = [mcnemar(a, b).p for a, b in zip(first, second, strict=True)]
    return ps[0] if len(ps) == 1 else min(1.0, 2 * float(np.mean(ps)))


def bootstrap(
    first: np.ndarray, second: np.ndarray, *, confidence: float = 0.95, resamples: int = 2000
) -> Difference:
    """The difference of the errors of two groups of nets, `wrong` [s n] and [t n], with a percentile interval.

    Images are drawn anew, the same for all nets, and so are the nets of each group (Owen, 2007, of both ways of a
    table). With one net in a group the interval says nothing of what another seed would give; with two or three it
    is somewhat too narrow.
    """
    from scipy import stats

    first, second = (
        np.atleast_2d(first).astype(np.float32),
        np.atleast_2d(second).astype(np.float32),
    )
    several = [nets for nets in (first, second) if len(nets) > 1]
    images = first.shape[1]

    def difference(*drawn):
        *seeds, indices = drawn
        seeds = iter(seeds)
        # How often each image was drawn: a product with a matrix instead of a copy of it.
        weights = np.bincount(indices, minlength=images).astype(np.float32) / images
        errors = [nets @ weights for nets in (first, second)]
        one, other = (e[next(seeds)].mean() if len(e) > 1 else e[0] for e in errors)
        return other - one

    data = [*(np.arange(len(nets)) for nets in several), np.arange(images)]
    found = stats.bootstrap(
        data, difference, n_resamples=resamples, vectorized=False, paired=False, method="percentile",
        confidence_level=confidence, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    mean = float(second.mean(dtype=float) - first.mean(dtype=float))
    return Difference(mean, float(found.low), float(found.high))


def holm(ps: list[float]) -> list[float]:
    """p-values of several comparisons, adjusted by Holm (1979): so that one false alarm among all is as rare."""
    order = np.argsort(ps)
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted
