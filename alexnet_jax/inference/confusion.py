"""Which classes a net takes for which, and where it is most sure and wrong."""

from typing import NamedTuple

import numpy as np

from alexnet_jax.inference import metrics as errors


class Confused(NamedTuple):
    """`count` images of the class `label` were answered `answer`."""

    label: int
    answer: int
    count: int


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int [classes classes]: images by their label (row) and the most probable class (column).

    The diagonal counts the right answers; a tie with the label counts as the other class.
    """
    classes = probabilities.shape[1]
    places = labels.astype(np.int64) * classes + errors.answers(probabilities, labels)
    return np.bincount(places, minlength=classes**2).reshape(classes, classes)


def per_class_errors(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 [classes]: the share of the images of each class that are wrong, top-1; NaN without images."""
    matrix = confusion(probabilities, labels)
    counts = matrix.sum(axis=1)
    found = np.full(len(matrix), np.nan)
    np.divide(counts - np.diag(matrix), counts, out=found, where=counts > 0)
    return found


def most_confused(matrix: np.ndarray, number: int = 10) -> list[Confused]:
    """The `number` largest counts of a confusion matrix off its diagonal, largest first; those of 0 are left out."""
    wrong = matrix - np.diag(np.diag(matrix))
    places = np.argsort(-wrong, axis=None, kind="stable")[:number]
    pairs = zip(*np.unravel_index(places, matrix.shape), strict=True)
    found = [Confused(int(a), int(b), int(wrong[a, b])) for a, b in pairs]
    return [one for one in found if one.count]


def hardest(probabilities: np.ndarray, labels: np.ndarray, number: int = 24) -> np.ndarray:
    """int [at most number]: the images answered wrongly with the highest probability, the most confident first."""
    wrong = np.flatnonzero(errors.rank(probabilities, labels) > 1)
    confidence = probabilities[wrong].max(axis=1)
    return wrong[np.argsort(-confidence, kind="stable")][:number]
