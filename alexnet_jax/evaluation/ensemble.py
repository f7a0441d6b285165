"""An ensemble of nets: the mean of their probabilities, over nets and views (§6, Table 2).

alexnet ensemble --workdir A B C [--split test] [--views ten] [--search]

A, B and C are run folders or .safetensors files of the same classes. Saved predictions are used where there are.
--search finds weights of the nets on one half of the images, and reports errors of the other half alone.
"""

import json

import numpy as np

from alexnet_jax import cli
from alexnet_jax.config import published
from alexnet_jax.data.pipeline.splits import held_out
from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.inference import calibration
from alexnet_jax.inference import metrics as errors

_HALVES = 0x68616C66


def main(arguments: list[str]) -> None:
    from alexnet_jax.evaluation import target

    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", nargs="+", required=True, metavar="W", help="two nets or more")
    parser.add_argument(
        "--search", action="store_true", help="weights, found on half of the images"
    )
    target.add_protocol(parser)
    parser.add_argument("--data-path", metavar="PATH", help="where the images are now")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if len(options.workdir) < 2:
        raise ConfigError("an ensemble has two nets or more: --workdir A B")
    split, found = target.obtain_all(
        options.workdir, options.split, options.views, options.data_path
    )
    probabilities = [predictions.probabilities for _, predictions in found]
    report = {
        "split": split,
        "views": options.views,
        "nets": [{"net": str(one.path), "step": one.run.step} for one, _ in found],
    } | ensemble(probabilities, found[0][1].labels, search=options.search)
    print(json.dumps(report, indent=1) if options.json else _text(report))


def ensemble(probabilities: list[np.ndarray], labels: np.ndarray, *, search: bool = False) -> dict:
    """Errors of each net's probabilities [n classes], of their mean, and with `search` of a weighted mean.

    {"count", "searched", "each": [errors], "mean": errors, "weighted": errors, "weights": [...]}; errors as of
    errors.summarize, and "calibration_error". With `search`, weights are those of `best_weights` on a half of each
    class, drawn by a fixed seed; "searched" counts it, and all errors are of the images of the other half alone.
    """
    kept, report = np.ones(len(labels), bool), {}
    if search:
        kept = held_out(labels, 0.5, np.random.default_rng(_HALVES))
        if kept.all() or not kept.any():
            raise DataError("--search needs two images or more of a class")
        own = np.array([one[~kept, labels[~kept]] for one in probabilities])
        report["weights"] = best_weights(own).tolist()
    labels = labels[kept]
    kept_probabilities = [one[kept] for one in probabilities]
    report |= {
        "count": len(labels),
        "searched": int((~kept).sum()),
        "each": [_errors(one, labels) for one in kept_probabilities],
        "mean": _errors(np.mean(kept_probabilities, axis=0), labels),
    }
    if search:
        weighted = np.tensordot(report["weights"], kept_probabilities, 1)
        report["weighted"] = _errors(weighted, labels)
    return report


def best_weights(own: np.ndarray, tolerance: float = 1e-6, rounds: int = 20_000) -> np.ndarray:
    """Weights [k], not negative, of sum 1, of the mixture of nets with the least negative log-likelihood.

    own: [k n], the probability that each net gives to the label of each image. This is expectation maximization for
    the proportions of a mixture (Dempster, Laird and Rubin, 1977). The NLL is convex in the weights, and the largest
    gain less 1 bounds what is still to be won: it stops when that is below `tolerance`, in nats.
    """
    own = np.maximum(np.asarray(own, np.float64), np.finfo(np.float32).tiny)
    weights = np.full(len(own), 1 / len(own))
    for _ in range(rounds):
        gains = (own / (weights @ own)).mean(axis=1)
        if gains.max() - 1 < tolerance:
            break
        weights *= gains
    return weights / weights.sum()


def _errors(probabilities: np.ndarray, labels: np.ndarray) -> dict:
    error = calibration.expected_calibration_error(probabilities, labels)
    return errors.summarize(probabilities, labels) | {"calibration_error": error}


def _text(report: dict) -> str:
    weights = report.get("weights")
    rows: list[tuple[str, ...]] = [
        ("", "step", "weight", "top-1 error", "top-5 error", "NLL", "ECE")
    ]
    for i, (net, found) in enumerate(zip(report["nets"], report["each"], strict=True)):
        weight = f"{weights[i]:.3f}" if weights else ""
        rows.append((net["net"], f"{net['step']:,}", weight, *_cells(found)))
    rows.append((f"mean of {len(report['nets'])} nets", "", "", *_cells(report["mean"])))
    if weights:
        rows.append(("weighted mean", "", "", *_cells(report["weighted"])))
    images = f"all {report['count']:,} images"
    if weights:
        images = (
            f"{report['count']:,} images; the weights were found on the other {report['searched']:,}, "
            "which count nowhere below"
        )
    paper = [("the paper's ensembles: Table 2, ten views", "top-1 / top-5, %")]
    for model, top1, top5, _ in published.TABLE_2:
        if top1 and top5 and model.endswith(("CNNs", "CNNs*")):
            paper.append((model, f"{100 * top1:.1f} / {100 * top5:.1f}"))
    return "\n".join([
        f"{report['split']}, {report['views']}, {images}", "",
        *cli.table(rows, right=(1, 2, 3, 4, 5, 6)), "",
        *evaluate.published_errors(), "", *cli.table(paper, right=(1,)),
    ])  # fmt: skip


def _cells(found: dict) -> tuple[str, ...]:
    top5 = f"{found['top5_error']:.2%}" if "top5_error" in found else ""
    return (f"{found['top1_error']:.2%}", top5, f"{found['nll']:.4f}", f"{found['calibration_error']:.2%}")  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
