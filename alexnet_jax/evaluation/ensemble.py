"""Evaluate an ensemble: average the class probabilities of several networks (§6, Table 2).

alexnet ensemble --workdir A B C [--split test] [--views ten] [--search]

A, B and C are run folders or .safetensors files with the same classes. Saved predictions are reused.
--search fits a weight for each network on half of the images and reports the errors on the other half.
"""

import json
from typing import Any

import numpy as np

from alexnet_jax import cli
from alexnet_jax.config import published
from alexnet_jax.data.pipeline.splits import held_out
from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.evaluation import target
from alexnet_jax.evaluation.classes import scope_in_words
from alexnet_jax.evaluation.evaluate import (
    error_table,
    errors_of,
    published_errors,
)

_HALVES_SEED = 0x68616C66


def main(arguments: list[str]) -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", nargs="+", required=True, metavar="W", help="two nets or more")
    parser.add_argument(
        "--search", action="store_true", help="fit the weights of the nets on half of the images"
    )
    target.add_protocol(parser)
    parser.add_argument("--data-path", metavar="PATH", help="where the images are now")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if len(options.workdir) < 2:
        raise ConfigError("an ensemble needs two nets or more: --workdir A B")
    targets = target.open_all(options.workdir, options.data_path)
    split, found = target.obtain_all(targets, options.split, options.views)
    probabilities = [predictions.probabilities for predictions in found]
    report = {
        "split": split,
        "views": options.views,
        **(targets[0].scope() if options.data_path else {}),
        "nets": [{"net": str(one.path), "step": one.trained.step} for one in targets],
    } | ensemble(probabilities, found[0].labels, search=options.search)
    print(
        json.dumps(report, indent=1) if options.json else _text(report, probabilities[0].shape[1])
    )


def ensemble(
    probabilities: list[np.ndarray], labels: np.ndarray, *, search: bool = False
) -> dict[str, Any]:
    """Compute the errors of each network and of the mean of their probabilities.

    Args:
        probabilities: An array [n classes] for each network.
        search: Also fit a weighted mean (`best_weights`) on half of the images of each class, drawn with a fixed
            seed. All errors are then measured on the other half.

    Returns:
        {"count", "searched", "each": [errors], "mean": errors} and, with `search`, {"weighted": errors,
        "weights": [...]}. Errors are dicts as `errors_of` returns; "count" images were evaluated and "searched"
        were used to fit the weights.
    """
    kept, report = np.ones(len(labels), bool), {}
    if search:
        kept = held_out(labels, 0.5, np.random.default_rng(_HALVES_SEED))
        if kept.all() or not kept.any():
            raise DataError("--search needs a class with two images or more")
        likelihoods = np.array([one[~kept, labels[~kept]] for one in probabilities])
        report["weights"] = best_weights(likelihoods).tolist()
    labels = labels[kept]
    kept_probabilities = [one[kept] for one in probabilities]
    report |= {
        "count": len(labels),
        "searched": int((~kept).sum()),
        "each": [errors_of(one, labels) for one in kept_probabilities],
        "mean": errors_of(np.mean(kept_probabilities, axis=0), labels),
    }
    if search:
        weighted = np.tensordot(report["weights"], kept_probabilities, 1)
        report["weighted"] = errors_of(weighted, labels)
    return report


def best_weights(
    likelihoods: np.ndarray, tolerance: float = 1e-6, rounds: int = 20_000
) -> np.ndarray:
    """Fit the mixture weights [k] of k networks that minimize the negative log-likelihood (NLL).

    This is expectation maximization for the proportions of a mixture (Dempster, Laird and Rubin, 1977). The NLL is
    convex in the weights, and its distance from the minimum is at most the largest gain minus 1.

    Args:
        likelihoods: [k n], the probability that each network assigns to the true label of each image.
        tolerance: Distance from the minimum, in nats, at which to stop.
        rounds: Largest number of iterations.

    Returns:
        Nonnegative weights that sum to 1.
    """
    likelihoods = np.maximum(np.asarray(likelihoods, np.float64), np.finfo(np.float32).tiny)
    weights = np.full(len(likelihoods), 1 / len(likelihoods))
    for _ in range(rounds):
        gains = (likelihoods / (weights @ likelihoods)).mean(axis=1)
        if gains.max() - 1 < tolerance:
            break
        weights *= gains
    return weights / weights.sum()


def _text(report: dict[str, Any], classes: int) -> str:
    weights = report.get("weights")
    rows: list[tuple[tuple[str, ...], dict[str, Any]]] = []
    for i, (net, errors) in enumerate(zip(report["nets"], report["each"], strict=True)):
        weight = f"{weights[i]:.3f}" if weights else ""
        rows.append(((net["net"], f"{net['step']:,}", weight), errors))
    rows.append(((f"mean of {len(report['nets'])} nets", "", ""), report["mean"]))
    images = f"all {report['count']:,} images"
    if weights:
        rows.append((("weighted mean", "", ""), report["weighted"]))
        images = (
            f"{report['count']:,} images; the weights were fitted on the other {report['searched']:,}, "
            "which are in no error below"
        )
    lines = [f"{report['split']}, {report['views']}, {images}"]
    lines += [*scope_in_words(report), ""]
    lines += [*error_table(("", "step", "weight"), rows), *published_errors(classes)]
    if classes == published.CLASSES:
        paper = [("the paper's ensembles: Table 2, ten views", "top-1 / top-5, %")]
        for model, top1, top5, _ in published.TABLE_2:
            if top1 and top5 and model.endswith(("CNNs", "CNNs*")):
                paper.append((model, f"{100 * top1:.1f} / {100 * top5:.1f}"))
        lines += ["", *cli.table(paper, right=(1,))]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
