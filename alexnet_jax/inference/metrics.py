"""Errors of predictions as the paper counts them: top-1, top-5 and negative log-likelihood."""

import numpy as np


def summarize(probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """Errors over exactly the images given.

    probabilities [n classes], labels [n]. Errors are fractions, nll is in nats. A tie with another class is not
    credited. With fewer than 6 classes top-5 says nothing and is absent.
    """
    n, classes = probabilities.shape
    ranks = rank(probabilities, labels)
    summary = {"count": n, "top1_error": float(np.mean(ranks > 1))}
    if classes > 5:
        summary["top5_error"] = float(np.mean(ranks > 5))
    own = probabilities[np.arange(n), labels].astype(np.float64)
    summary["nll"] = float(-np.mean(np.log(np.maximum(own, np.finfo(np.float32).tiny))))
    return summary


def rank(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int [n]: the place of each label among the classes, 1 where it alone is the most probable.

    Classes as probable as the label, and NaN, come before it.
    """
    own = probabilities[np.arange(len(labels)), labels]
    return (~(probabilities < own[:, None])).sum(axis=1)


def answers(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int [n]: the most probable class of each image; of several, one that is not the label."""
    n = np.arange(len(labels))
    others = np.array(probabilities, np.float64)
    others[n, labels] = -np.inf
    return np.where(rank(probabilities, labels) == 1, labels, others.argmax(axis=1))
