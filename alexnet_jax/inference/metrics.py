"""Top-1 and top-5 error (as in the paper) and negative log-likelihood (NLL) of predictions.

Also their confusion matrix and most confident errors, and the expected calibration error (ECE) with its reliability
diagram, after Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks" (2017), section 2. The
confidence of a prediction is the probability of its most probable class.

Labels are int [n], one class for each image, or bool [n classes], the set of right classes of each image, as in ReaL
(Beyer, Henaff, Kolesnikov, Zhai and van den Oord, "Are we done with ImageNet?", 2020). A prediction is right if it is
any of them. UNDEFINED names what needs one class for each image.
"""

from typing import Any, NamedTuple

import numpy as np

#: Metrics that are not defined for sets of labels, by their keys in JSON; their functions raise ValueError.
UNDEFINED = ("nll", "confusion", "class_error")
#: Of intervals.
CONFIDENCE = 0.95


def summarize(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Compute the errors of class probabilities [n classes] against labels [n] or sets of labels [n classes].

    A tie with a wrong class counts as an error.

    Returns:
        "count", "top1_error" and "top5_error" (fractions; the latter only for more than 5 classes), "nll" (nats; not
        for sets of labels).
    """
    n, classes = probabilities.shape
    ranks = rank(probabilities, labels)
    summary = {"count": n, "top1_error": float(np.mean(ranks > 1))}
    if classes > 5:
        summary["top5_error"] = float(np.mean(ranks > 5))
    if labels.ndim > 1:
        return summary
    likelihoods = probabilities[np.arange(n), labels].astype(np.float64)
    summary["nll"] = float(-np.mean(np.log(np.maximum(likelihoods, np.finfo(np.float32).tiny))))
    return summary


def rank(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the rank [n] of the label, or of the most probable one of a set; 1 is the most probable class.

    Wrong classes with the same probability as the label, or with NaN, rank before it.
    """
    right = _right(probabilities, labels)
    likelihoods = np.where(right, probabilities, -np.inf).max(axis=1)
    return 1 + (~(probabilities < likelihoods[:, None]) & ~right).sum(axis=1)


def predicted_classes(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the most probable class of each image [n]; if a label ties with a wrong class, the wrong class."""
    right = _right(probabilities, labels)
    is_right = rank(probabilities, labels) == 1
    candidates = np.where(right == is_right[:, None], probabilities.astype(np.float64), -np.inf)
    return candidates.argmax(axis=1)


def _right(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which classes are right: bool [n classes]."""
    return labels if labels.ndim > 1 else labels[:, None] == np.arange(probabilities.shape[1])


class Confused(NamedTuple):
    """How many images of one class were predicted to be of another."""

    label: int
    predicted: int
    images: int


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count images by label (row) and predicted class (column): int [classes classes].

    A tie with the label counts as the other class. Raises ValueError for sets of labels.
    """
    if labels.ndim > 1:
        raise ValueError("a confusion matrix needs one label for each image")
    classes = probabilities.shape[1]
    cells = labels.astype(np.int64) * classes + predicted_classes(probabilities, labels)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def per_class_errors(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The top-1 error of each class [classes]; NaN for a class without images."""
    matrix = confusion(probabilities, labels)
    counts = matrix.sum(axis=1)
    found = np.full(len(matrix), np.nan)
    np.divide(counts - np.diag(matrix), counts, out=found, where=counts > 0)
    return found


def most_confused(matrix: np.ndarray, number: int = 10) -> list[Confused]:
    """The `number` largest counts off the diagonal of a confusion matrix, largest first, without zeros."""
    errors = matrix - np.diag(np.diag(matrix))
    largest = np.argsort(-errors, axis=None, kind="stable")[:number]
    pairs = zip(*np.unravel_index(largest, matrix.shape), strict=True)
    found = [Confused(int(a), int(b), int(errors[a, b])) for a, b in pairs]
    return [one for one in found if one.images]


def hardest(probabilities: np.ndarray, labels: np.ndarray, number: int = 24) -> np.ndarray:
    """Indices of at most `number` wrong predictions, the most confident first."""
    wrong = np.flatnonzero(rank(probabilities, labels) > 1)
    confidence = probabilities[wrong].max(axis=1)
    return wrong[np.argsort(-confidence, kind="stable")][:number]


class Reliability(NamedTuple):
    """Predictions by confidence, in bins of equal width over [0, 1]. Arrays have the shape [bins]."""

    #: Number of images whose confidence is in (m / bins, (m + 1) / bins].
    counts: np.ndarray
    #: Their mean confidence; NaN in an empty bin.
    confidence: np.ndarray
    #: Their top-1 accuracy; NaN in an empty bin.
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The ECE: mean |accuracy - confidence| over the images, in [0, 1]."""
        full = self.counts > 0
        gaps = np.abs(self.accuracy[full] - self.confidence[full])
        return float(np.average(gaps, weights=self.counts[full]))


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    """The reliability diagram of probabilities [n classes] and labels [n], n > 0. A tie counts as an error."""
    confidence = np.asarray(probabilities, np.float64).max(axis=1)
    correct = rank(probabilities, labels) == 1
    # Bins are closed above, so a confidence of 1 belongs to the last one.
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(bin_of, minlength=bins)
    means = np.full((2, bins), np.nan)
    for mean, values in zip(means, (confidence, correct), strict=True):
        sums = np.bincount(bin_of, weights=values, minlength=bins)
        np.divide(sums, counts, out=mean, where=counts > 0)
    return Reliability(counts, means[0], means[1])


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = 15
) -> float:
    """The ECE of probabilities [n classes] and labels [n], in [0, 1]; biased upwards for small n."""
    return reliability(probabilities, labels, bins).error


def percentile_interval(resampled: np.ndarray) -> tuple[float, float] | None:
    """Compute the bootstrap percentile interval; None if nothing was resampled or a value is not defined."""
    if not len(resampled) or not np.isfinite(resampled).all():
        return None
    tails = [100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2]
    low, high = np.percentile(resampled, tails)
    return float(low), float(high)
