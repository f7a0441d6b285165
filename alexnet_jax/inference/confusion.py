"""The confusion matrix, errors by class, and the most confident errors."""

from typing import NamedTuple

import numpy as np

from alexnet_jax.inference import metrics


class Confused(NamedTuple):
    """How many images of one class were predicted to be of another."""

    label: int
    predicted: int
    images: int


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count images by label (row) and predicted class (column): int [classes classes].

    A tie with the label counts as the other class.
    """
    classes = probabilities.shape[1]
    cells = labels.astype(np.int64) * classes + metrics.predicted_classes(probabilities, labels)
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
    wrong = np.flatnonzero(metrics.rank(probabilities, labels) > 1)
    confidence = probabilities[wrong].max(axis=1)
    return wrong[np.argsort(-confidence, kind="stable")][:number]
