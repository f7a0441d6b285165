"""Top-1 and top-5 error (as in the paper) and negative log-likelihood (NLL) of predictions."""

from typing import Any

import numpy as np


def summarize(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Compute the errors of class probabilities [n classes] against labels [n].

    A tie with another class counts as an error.

    Returns:
        "count", "top1_error" and "top5_error" (fractions; the latter only for more than 5 classes), "nll" (nats).
    """
    n, classes = probabilities.shape
    ranks = rank(probabilities, labels)
    summary = {"count": n, "top1_error": float(np.mean(ranks > 1))}
    if classes > 5:
        summary["top5_error"] = float(np.mean(ranks > 5))
    of_label = probabilities[np.arange(n), labels].astype(np.float64)
    summary["nll"] = float(-np.mean(np.log(np.maximum(of_label, np.finfo(np.float32).tiny))))
    return summary


def rank(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the rank of each label [n] by probability; 1 is the most probable class.

    Classes with the same probability as the label, or with NaN, rank before the label.
    """
    of_label = probabilities[np.arange(len(labels)), labels]
    return (~(probabilities < of_label[:, None])).sum(axis=1)


def predicted_classes(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the most probable class of each image [n]; if the label ties with another class, the other class."""
    n = np.arange(len(labels))
    others = np.array(probabilities, np.float64)
    others[n, labels] = -np.inf
    return np.where(rank(probabilities, labels) == 1, labels, others.argmax(axis=1))
