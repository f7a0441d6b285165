"""Reliability diagrams and the expected calibration error (ECE).

After Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks" (2017), section 2. The confidence
of a prediction is the probability of its most probable class.
"""

from typing import NamedTuple

import numpy as np

from alexnet_jax.inference import metrics


class Reliability(NamedTuple):
    """Predictions grouped by confidence into bins of equal width over [0, 1]. Arrays have shape [bins]."""

    #: Number of images in each bin; bin m covers the confidences in (m / bins, (m + 1) / bins].
    counts: np.ndarray
    #: Mean confidence of the images in each bin; NaN in an empty bin.
    confidence: np.ndarray
    #: Top-1 accuracy of the images in each bin; NaN in an empty bin.
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """The ECE: |accuracy - confidence| of the bins, averaged over the images; in [0, 1]."""
        full = self.counts > 0
        gaps = np.abs(self.accuracy[full] - self.confidence[full])
        return float(np.average(gaps, weights=self.counts[full]))


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    """Compute the reliability diagram of probabilities [n classes] and labels [n], n > 0. Ties count as errors."""
    confidence = np.asarray(probabilities, np.float64).max(axis=1)
    correct = metrics.rank(probabilities, labels) == 1
    # A bin includes its upper limit, so a confidence of 1 is in the last bin.
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
    """Compute the ECE of probabilities [n classes] and labels [n], in [0, 1]; it is biased upwards for small n."""
    return reliability(probabilities, labels, bins).error
