"""Test whether two networks, or two groups of seeds, differ in their errors on the same images.

alexnet compare A B [--split test] [--views center]
alexnet compare --first A1 A2 A3 --second B1 B2 B3

A and B are run folders or .safetensors files; A1, A2 and A3 differ only in their seed. The functions take bool arrays
`wrong`, of shape [n] for one network and n images, or [s n] for s networks.
"""

import json
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError
from alexnet_jax.evaluation import target
from alexnet_jax.evaluation.classes import scope_in_words
from alexnet_jax.inference import metrics
from alexnet_jax.inference.predictions import Predictions


class McNemar(NamedTuple):
    """McNemar's test of two networks."""

    #: Number of images that only the first network classifies wrongly.
    only_first: int
    #: Number of images that only the second network classifies wrongly.
    only_second: int
    #: Exact two-sided p-value of the hypothesis that both numbers have the same expectation.
    p: float


class Difference(NamedTuple):
    """The error of the second group of networks minus that of the first, as a fraction, with its interval."""

    mean: float
    low: float
    high: float


def main(arguments: list[str]) -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("nets", nargs="*", metavar="NET", help="two nets, A B")
    parser.add_argument(
        "--first", nargs="+", metavar="NET", help="or the first group: nets that differ in the seed"
    )
    parser.add_argument("--second", nargs="+", metavar="NET", help="the second group")
    target.add_protocol(parser)
    parser.add_argument("--data-path", metavar="PATH", help="where the images are now")
    target.add_classes(parser)
    target.add_labels(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    first, second = options.nets[:1], options.nets[1:]
    if not options.nets:
        first, second = options.first, options.second
    mixed = options.nets and (options.first or options.second)
    if not first or not second or len(options.nets) not in (0, 2) or mixed:
        raise ConfigError("give two nets, A B, or two groups, --first A1 A2 --second B1 B2")
    chosen = {"classes": options.classes, "labels": options.labels}
    targets = target.open_all([*first, *second], options.data_path, **chosen)
    split, predictions = target.obtain_all(targets, options.split, options.views)
    nets = [f"{one.path}, step {one.trained.step:,}" for one in targets]
    report = {"split": split, "views": options.views}
    if options.data_path or options.labels:
        report |= targets[0].scope()
    report |= compare(predictions[: len(first)], predictions[len(first) :])
    print(json.dumps(report | {"nets": nets}, indent=1) if options.json else _text(report, nets))


def compare(first: list[Predictions], second: list[Predictions]) -> dict[str, Any]:
    """Compare two groups of networks by their predictions of the same images, with labels or sets of labels.

    Returns:
        {"count", "errors": [errors of each network], "top1": comparison, "top5": comparison}. A comparison is
        {"difference", "low", "high"} from `bootstrap`; "p" from `mcnemar_of_seeds`, or None if the groups have
        different sizes; and, for two single networks, "only_first" and "only_second" from `mcnemar`.
    """
    count, classes = first[0].probabilities.shape
    errors = [metrics.summarize(*one) for one in (*first, *second)]
    report: dict[str, Any] = {"count": count, "errors": errors}
    for top in (1, 5) if classes > 5 else (1,):
        groups = [np.array([one.wrong(top) for one in group]) for group in (first, second)]
        mean, low, high = bootstrap(*groups)
        p = mcnemar_of_seeds(*groups) if len(first) == len(second) else None
        found = {"difference": mean, "low": low, "high": high, "p": p}
        if len(first) == len(second) == 1:
            found |= mcnemar(groups[0][0], groups[1][0])._asdict()
        report[f"top{top}"] = found
    return report


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Compute McNemar's (1947) exact test of two networks.

    The result applies to these two networks only: two seeds of one configuration often differ significantly.
    """
    from scipy import stats

    a, b = int((first & ~second).sum()), int((second & ~first).sum())
    return McNemar(a, b, float(stats.binomtest(a, a + b).pvalue) if a + b else 1.0)


def mcnemar_of_seeds(first: np.ndarray, second: np.ndarray) -> float:
    """Compute one p-value for pairs of networks [s n] with the same seed: twice the mean of McNemar's p-values.

    Twice the mean is valid for dependent tests (Vovk and Wang, 2020), and these are dependent: they share images.
    """
    ps = [mcnemar(a, b).p for a, b in zip(first, second, strict=True)]
    return ps[0] if len(ps) == 1 else min(1.0, 2 * float(np.mean(ps)))


def bootstrap(
    first: np.ndarray, second: np.ndarray, *, confidence: float = 0.95, resamples: int = 2000
) -> Difference:
    """Compute the difference of the errors of two groups of networks [s n] and [t n], with a percentile interval.

    The images (the same for all networks) and the networks of each group are resampled (Owen, 2007). With one network
    in a group, the interval does not include the variation between seeds; with two or three it is somewhat too narrow.
    With a single image it is -1 to 1.
    """
    from scipy import stats

    first = np.atleast_2d(first).astype(np.float32)
    second = np.atleast_2d(second).astype(np.float32)
    mean = float(second.mean(dtype=float) - first.mean(dtype=float))
    resampled = [nets for nets in (first, second) if len(nets) > 1]
    images = first.shape[1]
    if images < 2:
        return Difference(mean, -1.0, 1.0)

    def difference(*drawn: np.ndarray) -> float:
        *seeds, indices = drawn
        seeds = iter(seeds)
        # Weighting each image by how often it was drawn avoids copying the matrix.
        weights = np.bincount(indices, minlength=images).astype(np.float32) / images
        errors = [nets @ weights for nets in (first, second)]
        means = [e[next(seeds)].mean() if len(e) > 1 else e[0] for e in errors]
        return means[1] - means[0]

    data = [*(np.arange(len(nets)) for nets in resampled), np.arange(images)]
    found = stats.bootstrap(
        data, difference, n_resamples=resamples, vectorized=False, paired=False, method="percentile",
        confidence_level=confidence, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Difference(mean, float(found.low), float(found.high))


def proportion_interval(
    successes: int, count: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Compute the exact interval of a proportion (Clopper and Pearson, 1934), which is never too narrow."""
    from scipy import stats

    found = stats.binomtest(successes, count).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


def holm(ps: list[float]) -> list[float]:
    """Adjust the p-values of several comparisons by Holm's (1979) method, which bounds the familywise error rate."""
    order = np.argsort(ps)
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted


def _text(report: dict[str, Any], nets: list[str]) -> str:
    tops = [top for top in (1, 5) if f"top{top}" in report]
    nll = ("NLL",) if "nll" in report["errors"][0] else ()
    rows: list[tuple[str, ...]] = [("net", *(f"top-{top} error" for top in tops), *nll)]
    for net, found in zip(nets, report["errors"], strict=True):
        errors = (f"{found[f'top{top}_error']:.2%}" for top in tops)
        rows.append((net, *errors, *(f"{found[key.lower()]:.4f}" for key in nll)))
    lines = [f"{report['split']}, {report['views']}, {report['count']:,} images"]
    lines += [*scope_in_words(report), ""]
    lines += [*cli.table(rows, right=(1, 2, 3)), ""]
    for top in tops:
        found = report[f"top{top}"]
        low, mean, high = (f"{100 * found[key]:+.2f}" for key in ("low", "difference", "high"))
        lines.append(
            f"top-{top} error, second minus first: {mean} points, 95 % interval {low} to {high}"
        )
        if "only_first" in found:
            lines.append(f"  images that only the first gets wrong {found['only_first']:,}, only the second "
                         f"{found['only_second']:,}: McNemar p = {found['p']:.2g}")  # fmt: skip
        elif found["p"] is not None:
            lines.append(f"  McNemar, twice the mean p of the pairs: {found['p']:.2g}")
    if len(nets) == 2:
        lines += [
            "",
            "The interval and p apply to these two nets: nets that differ only in their seed often differ as much.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
