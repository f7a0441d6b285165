"""Errors of predictions as the paper counts them: top-1, top-5 and negative log-likelihood."""

import numpy as np


def summarize(probabilities: np.ndarray, labels: np.ndarray) -> dict:
    """Errors over exactly the images given.

    probabilities [n classes], labels [n]. Errors are fractions, nll is in nats. A tie with another class is not
    credited. With fewer than 6 classes top-5 says nothing and is absent.
    """
    n, classes = probabilities.shape
    own = probabilities[np.arange(n), labels]
    rank = (probabilities >= own[:, None]).sum(axis=1)  # 1: the label alone is on top
    summary = {"count": n, "top1_error": float(np.mean(rank > 1))}
    if classes > 5:
        summary["top5_error"] = float(np.mean(rank > 5))
    tiny = np.finfo(np.float32).tiny
    summary["nll"] = float(-np.mean(np.log(np.maximum(own.astype(np.float64), tiny))))
    return summary
