"""Whether a net is right as often as it says: reliability diagrams and the expected calibration error.

After Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks" (2017), section 2. The confidence
of an answer is the probability of the most probable class.
"""

from typing import NamedTuple

import numpy as np

from alexnet_jax.inference import metrics as errors


class Reliability(NamedTuple):
    """The images by their confidence, in bins of equal width over [0, 1]; all are float64 [bins] but counts."""

    counts: np.ndarray
    """int [bins]: images whose confidence is in (m / bins, (m + 1) / bins]."""
    confidence: np.ndarray
    """Mean confidence of those; NaN in an empty bin."""
    accuracy: np.ndarray
    """Share of those that are right, top-1; NaN in an empty bin."""

    @property
    def error(self) -> float:
        """Mean of |accuracy - confidence| over the images: 0 is perfect, 1 the worst."""
        full = self.counts > 0
        gaps = np.abs(self.accuracy[full] - self.confidence[full])
        return float(np.average(gaps, weights=self.counts[full]))


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    """The reliability diagram of probabilities [n classes] and labels [n], n > 0. A tie counts as wrong."""
    confidence = np.asarray(probabilities, np.float64).max(axis=1)
    right = errors.rank(probabilities, labels) == 1
    # Intervals are closed above, and so 1 belongs to the last.
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    means = np.full((2, bins), np.nan)
    for mean, values in zip(means, (confidence, right), strict=True):
        sums = np.bincount(place, weights=values, minlength=bins)
        np.divide(sums, counts, out=mean, where=counts > 0)
    return Reliability(counts, *means)


def expected_calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = 15
) -> float:
    """ECE: the mean over all images of how far the accuracy of their bin is from its confidence, in [0, 1].

    Few images bias it upwards, as each bin then has chance in it.
    """
    return reliability(probabilities, labels, bins).error
