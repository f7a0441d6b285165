"""Whether two nets differ, from their answers to the same images: the statistics of a difference of errors.

alexnet compare A B [--split test] [--views center]
alexnet compare --first A1 A2 A3 --second B1 B2 B3

A and B are run folders or .safetensors files; A1, A2, A3 are trained alike but for the seed. In the functions an
answer is `wrong` (True) or right; `[s n]` are the answers of s nets, trained alike but for the seed, to n images.
"""

import json
from typing import NamedTuple

import numpy as np

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError
from alexnet_jax.inference import metrics as errors
from alexnet_jax.inference.predictions import Predictions


class McNemar(NamedTuple):
    """Of two nets: the images that only one of them gets wrong."""

    only_first: int
    only_second: int
    p: float
    """Exact, two-sided: under the hypothesis that either is as likely."""


class Difference(NamedTuple):
    """Error of the second group of nets less that of the first, as fractions, with the bounds of its interval."""

    mean: float
    low: float
    high: float


def main(arguments: list[str]) -> None:
    from alexnet_jax.evaluation import target

    parser = cli.parser(__doc__ or "")
    parser.add_argument("nets", nargs="*", metavar="NET", help="two nets, A B")
    parser.add_argument(
        "--first", nargs="+", metavar="NET", help="or several, alike but for the seed"
    )
    parser.add_argument("--second", nargs="+", metavar="NET", help="and the others")
    target.add_protocol(parser)
    parser.add_argument("--data-path", metavar="PATH", help="where the images are now")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    groups = (
        (options.nets[:1], options.nets[1:]) if options.nets else (options.first, options.second)
    )
    if (
        not all(groups)
        or len(options.nets) not in (0, 2)
        or (options.nets and (options.first or options.second))
    ):
        raise ConfigError("two nets are compared, A B, or two groups, --first A1 A2 --second B1 B2")
    views, paths = options.views, [*groups[0], *groups[1]]
    split, found = target.obtain_all(paths, options.split, views, options.data_path)
    nets = [f"{one.path}, step {one.run.step:,}" for one, _ in found]
    predictions = [answered for _, answered in found]
    report = {"split": split, "views": views} | compare(
        predictions[: len(groups[0])], predictions[len(groups[0]) :]
    )
    print(json.dumps(report | {"nets": nets}, indent=1) if options.json else _text(report, nets))


def compare(first: list[Predictions], second: list[Predictions]) -> dict:
    """{"count", "errors": [{"top1_error", ...} of each net], "top1": {"difference", "low", "high", "p"}, "top5": ...}.

    Of two groups of nets' predictions of the same images: the error of the second less that of the first, with the
    interval of `bootstrap`, and p by McNemar's test, of pairs as in `mcnemar_of_seeds`; it is None between groups
    of unequal size. One net each adds "only_first" and "only_second", as McNemar has them.
    """
    count, classes = first[0].probabilities.shape
    report: dict = {"count": count, "errors": [errors.summarize(*one) for one in (*first, *second)]}
    for top in (1, 5) if classes > 5 else (1,):
        groups = [np.array([one.wrong(top) for one in group]) for group in (first, second)]
        mean, low, high = bootstrap(*groups)
        paired = len(first) == len(second)
        found = {"difference": mean, "low": low, "high": high,
                 "p": mcnemar_of_seeds(*groups) if paired else None}  # fmt: skip
        if len(first) == len(second) == 1:
            found |= mcnemar(groups[0][0], groups[1][0])._asdict()
        report[f"top{top}"] = found
    return report


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's (1947) test of two nets, from their `wrong` [n], by the exact binomial distribution.

    It says whether these two nets differ. Nets that differ by their seed alone often do.
    """
    from scipy import stats

    a, b = int((first & ~second).sum()), int((second & ~first).sum())
    return McNemar(a, b, float(stats.binomtest(a, a + b).pvalue) if a + b else 1.0)


def mcnemar_of_seeds(first: np.ndarray, second: np.ndarray) -> float:
    """One p-value for the pairs of nets [s n] with the same seed: twice the mean of McNemar's.

    Twice the mean is valid however the tests depend on each other (Vovk and Wang, 2020); these share their images.
    """
    ps = [mcnemar(a, b).p for a, b in zip(first, second, strict=True)]
    return ps[0] if len(ps) == 1 else min(1.0, 2 * float(np.mean(ps)))


def bootstrap(
    first: np.ndarray, second: np.ndarray, *, confidence: float = 0.95, resamples: int = 2000
) -> Difference:
    """The difference of the errors of two groups of nets, `wrong` [s n] and [t n], with a percentile interval.

    Images are drawn anew, the same for all nets, and so are the nets of each group (Owen, 2007, of both ways of a
    table). With one net in a group the interval says nothing of what another seed would give; with two or three it
    is somewhat too narrow. One image cannot be drawn anew: the interval is then all of -1 to 1.
    """
    from scipy import stats

    first, second = (
        np.atleast_2d(first).astype(np.float32),
        np.atleast_2d(second).astype(np.float32),
    )
    mean = float(second.mean(dtype=float) - first.mean(dtype=float))
    several = [nets for nets in (first, second) if len(nets) > 1]
    images = first.shape[1]
    if images < 2:
        return Difference(mean, -1.0, 1.0)

    def difference(*drawn):
        *seeds, indices = drawn
        seeds = iter(seeds)
        # How often each image was drawn: a product with a matrix instead of a copy of it.
        weights = np.bincount(indices, minlength=images).astype(np.float32) / images
        errors = [nets @ weights for nets in (first, second)]
        one, other = (e[next(seeds)].mean() if len(e) > 1 else e[0] for e in errors)
        return other - one

    data = [*(np.arange(len(nets)) for nets in several), np.arange(images)]
    found = stats.bootstrap(
        data, difference, n_resamples=resamples, vectorized=False, paired=False, method="percentile",
        confidence_level=confidence, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return Difference(mean, float(found.low), float(found.high))


def holm(ps: list[float]) -> list[float]:
    """p-values of several comparisons, adjusted by Holm (1979): so that one false alarm among all is as rare."""
    order = np.argsort(ps)
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted


def _text(report: dict, nets: list[str]) -> str:
    tops = [top for top in (1, 5) if f"top{top}" in report]
    rows: list[tuple[str, ...]] = [("net", *(f"top-{top} error" for top in tops), "NLL")]
    for net, found in zip(nets, report["errors"], strict=True):
        rows.append(
            (net, *(f"{found[f'top{top}_error']:.2%}" for top in tops), f"{found['nll']:.4f}")
        )
    lines = [f"{report['split']}, {report['views']}, {report['count']:,} images", ""]
    lines += [*cli.table(rows, right=(1, 2, 3)), ""]
    for top in tops:
        found = report[f"top{top}"]
        low, mean, high = (f"{100 * found[key]:+.2f}" for key in ("low", "difference", "high"))
        lines.append(
            f"top-{top}: the second less the first {mean} points, 95 % interval {low} to {high}"
        )
        if "only_first" in found:
            lines.append(f"  wrong only in the first {found['only_first']:,}, only in the second "
                         f"{found['only_second']:,}: McNemar p = {found['p']:.2g}")  # fmt: skip
        elif found["p"] is not None:
            lines.append(f"  McNemar, twice the mean p of the pairs: {found['p']:.2g}")
    if len(nets) == 2:
        lines += [
            "",
            "The interval and p are of these two nets: nets that differ by their seed alone often differ so.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
