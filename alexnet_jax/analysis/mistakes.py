"""Draw the mistakes of a network: confused classes, calibration, and the most confident mistakes.

alexnet figures mistakes --workdir W [--split test] [--views center]

Writes confusion.png, calibration.png and hardest.png to figures/ of the run, or to --out DIR, and their numbers as
JSON beside each. Saved predictions are used if there are any; otherwise they are computed, as by alexnet evaluate.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import cli, specs
from alexnet_jax.analysis import figures
from alexnet_jax.inference import metrics
from alexnet_jax.inference.metrics import Reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Up to so many classes the whole matrix is drawn; with more, the classes and pairs with the most errors.
MAX_MATRIX = 30
#: Classes and pairs listed otherwise.
LISTED = 25
#: Columns of the sheet of mistakes.
COLUMNS = 6


def main(arguments: list[str]) -> None:
    from alexnet_jax.evaluation import target

    parser = cli.parser(__doc__ or "")
    target.add_arguments(parser)
    target.add_protocol(parser)
    options = parser.parse_args(arguments)
    target = target.from_arguments(options)
    view = options.views
    split = target.split_name(options.split, view)
    probabilities, labels = target.obtain(split, view)
    images = target.split(split).images
    target.check_images()
    folder = Path(options.out) if options.out else target.folder / "figures"
    names = target.trained.class_names
    protocol: dict[str, Any] = {
        "net": str(target.path),
        "step": target.trained.step,
        "data": target.data,
    }
    protocol |= {"split": split, "views": view}
    print(plot_confusion(probabilities, labels, names, folder / "confusion.png", protocol))
    print(plot_calibration(probabilities, labels, folder / "calibration.png", protocol))
    print(plot_hardest(probabilities, labels, images, names, folder / "hardest.png", protocol))


def plot_confusion(
    probabilities: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    path: Path,
    protocol: dict[str, Any],
) -> Path:
    """Draw the confusion matrix of probabilities [n classes] and labels [n], and the error of each class.

    The JSON beside the PNG has {"class_names", "confusion", "class_error", "most_confused"}, as inference.metrics
    computes them, and `protocol`: "step", "split", "views". Errors of classes without images are null.
    """
    matrix = metrics.confusion(probabilities, labels)
    errors = metrics.per_class_errors(probabilities, labels)
    pairs = metrics.most_confused(matrix, LISTED)
    small = len(names) <= MAX_MATRIX
    figure = _draw_matrix(matrix, errors, names) if small else _draw_lists(errors, pairs, names)
    error = metrics.summarize(probabilities, labels)["top1_error"]
    figure.suptitle(f"{_title(protocol)}: top-1 error {error:.1%}", fontsize=10)
    numbers = {
        "class_names": list(names),
        "confusion": matrix.tolist(),
        "class_error": _nulls(errors),
        "most_confused": [{"label": names[a], "answer": names[b], "count": n} for a, b, n in pairs],
    }
    return figures.save(figure, protocol | {"count": len(labels)} | numbers, path)


def plot_calibration(
    probabilities: np.ndarray, labels: np.ndarray, path: Path, protocol: dict[str, Any]
) -> Path:
    """Draw the reliability diagram (Guo et al., 2017, Figure 1), and write its numbers as JSON beside it.

    {"expected_calibration_error", "bins": [{"low", "high", "count", "confidence", "accuracy"}]}; null in empty bins.
    """
    found = metrics.reliability(probabilities, labels)
    edges = np.linspace(0, 1, len(found.counts) + 1).tolist()
    means = (_nulls(found.confidence), _nulls(found.accuracy))
    bins = [
        {"low": low, "high": high, "count": count, "confidence": confidence, "accuracy": accuracy}
        for low, high, count, confidence, accuracy in zip(
            edges[:-1], edges[1:], found.counts.tolist(), *means, strict=True
        )
    ]
    numbers = {"expected_calibration_error": found.error, "bins": bins}
    figure = _draw_calibration(found, edges)
    figure.suptitle(_title(protocol), fontsize=10)
    return figures.save(figure, protocol | {"count": len(labels)} | numbers, path)


def plot_hardest(
    probabilities: np.ndarray, labels: np.ndarray, images: Any, names: Sequence[str], path: Path,
    protocol: dict[str, Any],    count: int = 24,
) -> Path:  # fmt: skip
    """Draw the most confident mistakes, and write them as JSON beside the PNG.

    {"hardest": [{"index", "label", "answer", "probability"}]}; "index" is that of the split.

    Args:
      images: `images[int array]` -> uint8 [b s s 3].
    """
    indices = metrics.hardest(probabilities, labels, count)
    predicted = metrics.predicted_classes(probabilities, labels)
    hardest = [
        {"index": int(i), "label": names[int(labels[i])], "answer": names[int(predicted[i])],
         "probability": float(probabilities[i].max())}
        for i in indices
    ]  # fmt: skip
    figure = _draw_sheet(images[indices] if len(indices) else [], hardest)
    figure.suptitle(f"{_title(protocol)}: the most confident mistakes", fontsize=10)
    return figures.save(figure, protocol | {"count": len(labels), "hardest": hardest}, path)


def _draw_matrix(matrix: np.ndarray, errors: np.ndarray, names: Sequence[str]) -> "Figure":
    """Rows are labels, in shares of their images; beside each row the error of its class."""
    from matplotlib.figure import Figure

    n = len(names)
    side = max(3.0, 0.42 * n)
    figure = Figure(figsize=(1.3 * side + 2.0, side + 1.4), layout="constrained")
    cells, bars = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    # aspect="auto": rows as high as the bars beside them.
    cells.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = 8 if n <= 12 else 5.5
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            style: dict[str, Any] = {
                "color": "white" if share > 0.55 else "black",
                "fontsize": size,
            }
            cells.text(column, row, f"{100 * share:.0f}", ha="center", va="center", **style)
    short = [_short(name) for name in names]
    cells.set_xticks(range(n), short, rotation=90, fontsize=8)
    cells.set_yticks(range(n), short, fontsize=8)
    cells.set_xlabel("prediction")
    cells.set_ylabel("label (% of its images)")
    bars.barh(range(n), 100 * np.nan_to_num(errors), color="C3", alpha=0.7)
    bars.set_xlabel("error (%)")
    figures.plain(bars)
    bars.tick_params(axis="y", length=0, labelleft=False)
    return figure


def _draw_lists(
    errors: np.ndarray, pairs: Sequence[metrics.Confused], names: Sequence[str]
) -> "Figure":
    """The classes with the highest errors, and the pairs confused most often."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    classes, confused = figure.subplots(1, 2)
    worst = np.argsort(-np.nan_to_num(errors, nan=-1), kind="stable")[:LISTED]
    named = [_short(names[i]) for i in map(int, worst)]
    pair_names = [f"{_short(names[one.label])} as {_short(names[one.predicted])}" for one in pairs]
    classes.barh(range(len(named)), 100 * np.nan_to_num(errors[worst]), color="C3", alpha=0.7)
    confused.barh(range(len(pair_names)), [one.images for one in pairs], color="C0", alpha=0.7)
    classes.set_xlabel("error of the class (%)")
    confused.set_xlabel("images")
    confused.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes, texts in ((classes, named), (confused, pair_names)):
        axes.set_yticks(range(len(texts)), texts, fontsize=8)
        axes.set_ylim(max(len(texts), 1) - 0.5, -0.5)
        figures.plain(axes)
    return figure


def _draw_calibration(found: Reliability, edges: Sequence[float]) -> "Figure":
    """Accuracy by confidence, above a histogram of confidence."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 6), layout="constrained")
    diagram, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    full = found.counts > 0
    lefts, width = np.array(edges[:-1]), edges[1]
    options: dict[str, Any] = {
        "align": "edge",
        "width": width,
        "edgecolor": "white",
        "linewidth": 0.5,
    }
    accuracy = np.where(full, found.accuracy, 0)
    diagram.bar(lefts, accuracy, color="C0", alpha=0.8, label="accuracy", **options)
    diagram.plot(found.confidence[full], found.accuracy[full], ".", color="black", ms=5)
    diagram.plot([0, 1], [0, 1], "--", color="gray", label="perfect calibration")
    diagram.set_ylabel("accuracy")
    diagram.set_ylim(0, 1)
    title = f"calibration error {found.error:.1%}"
    diagram.legend(frameon=False, loc="upper left", title=title, alignment="left")
    histogram.bar(lefts, 100 * found.counts / found.counts.sum(), color="gray", **options)
    histogram.set_ylabel("images (%)")
    histogram.set_xlabel("confidence: probability of the prediction")
    histogram.set_xlim(0, 1)
    for axes in (diagram, histogram):
        figures.plain(axes)
    return figure


def _draw_sheet(images: Any, hardest: Sequence[dict[str, Any]]) -> "Figure":
    from matplotlib.figure import Figure

    rows = max(1, -(-len(hardest) // COLUMNS))
    figure = Figure(figsize=(1.65 * COLUMNS, 2.05 * rows + 0.4), layout="constrained")
    places = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for axes in figure.axes:
        axes.set_axis_off()
    for axes, image, one in zip(places, images, hardest, strict=False):
        axes.imshow(image, interpolation="nearest")
        predicted = f"predicted {_short(one['answer'])}, {one['probability']:.0%}"
        axes.set_title(f"{predicted}\nlabel {_short(one['label'])}", fontsize=8)
    return figure


def _title(protocol: dict[str, Any]) -> str:
    return (
        f"{protocol['split']}, {specs.views_in_words(protocol['views'])}, step {protocol['step']:,}"
    )


def _short(name: str) -> str:
    return figures.literal(textwrap.shorten(name, 22, placeholder="…") or name[:22])


def _nulls(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


if __name__ == "__main__":
    cli.run(main)
