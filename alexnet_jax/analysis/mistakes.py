"""Draw confused classes, calibration and the most confident mistakes of a network.

alexnet figures mistakes --workdir W [--split test] [--views center]

Writes confusion.png, calibration.png and hardest.png, and a JSON file with the numbers of each, to figures/ in the
run folder or to --out DIR. Uses saved predictions if they exist, and otherwise computes them as alexnet evaluate does.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import cli, specs
from alexnet_jax.analysis import figures
from alexnet_jax.inference import metrics
from alexnet_jax.inference.metrics import Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Maximum number of classes for a matrix; with more, the classes and pairs with the most errors are listed.
MAX_MATRIX = 30
#: Number of classes and of pairs in these lists.
LISTED = 25
#: Images in a row of hardest.png.
COLUMNS = 6
#: Characters of a class name.
WIDTH = 22


def main(arguments: list[str]) -> None:
    """Run `alexnet figures mistakes`."""
    from alexnet_jax.evaluation import target as targets

    parser = cli.parser(__doc__ or "")
    targets.add_arguments(parser)
    targets.add_protocol(parser)
    options = parser.parse_args(arguments)
    target = targets.from_arguments(options)
    views = options.views
    split = target.split_name(options.split, views)
    folder = Path(options.out) if options.out else target.folder / "figures"
    probabilities, labels = target.obtain(split, views)
    images = target.split(split).images
    target.check_images()
    names = target.class_names
    protocol: dict[str, Any] = {
        "net": str(target.path),
        "step": target.trained.step,
        "data": target.data,
        "split": split,
        "views": views,
    }
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
    """Draw the confusion matrix and the error of each class, and write them as JSON beside the PNG.

    The JSON has "class_names", "confusion", "class_error" (null for a class without images) and "most_confused", as
    computed by inference.metrics, besides the keys of `protocol`.

    Args:
      probabilities: [n classes].
      labels: [n].
      protocol: "step", "split", "views" and other keys to record in the JSON.
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
        "class_error": _with_nulls(errors),
        "most_confused": [{"label": names[a], "answer": names[b], "count": n} for a, b, n in pairs],
    }
    return figures.save(figure, protocol | {"count": len(labels)} | numbers, path)


def plot_calibration(
    probabilities: np.ndarray, labels: np.ndarray, path: Path, protocol: dict[str, Any]
) -> Path:
    """Draw the reliability diagram (Guo et al., 2017, Figure 1), and write its numbers as JSON beside the PNG.

    The JSON has {"expected_calibration_error", "bins": [{"low", "high", "count", "confidence", "accuracy"}]}, with
    null for the means of empty bins.
    """
    found = metrics.reliability(probabilities, labels)
    edges = np.linspace(0, 1, len(found.counts) + 1).tolist()
    means = (_with_nulls(found.confidence), _with_nulls(found.accuracy))
    bins = [
        {"low": low, "high": high, "count": count, "confidence": confidence, "accuracy": accuracy}
        for low, high, count, confidence, accuracy in zip(
            edges[:-1], edges[1:], found.counts.tolist(), *means, strict=True
        )
    ]
    numbers = {"expected_calibration_error": found.error, "bins": bins}
    figure = _draw_calibration(found, edges)
    figure.suptitle(f"{_title(protocol)}: calibration error {found.error:.1%}", fontsize=10)
    return figures.save(figure, protocol | {"count": len(labels)} | numbers, path)


def plot_hardest(
    probabilities: np.ndarray, labels: np.ndarray, images: Any, names: Sequence[str], path: Path,
    protocol: dict[str, Any], count: int = 24,
) -> Path:  # fmt: skip
    """Draw the most confident mistakes, and write them as JSON beside the PNG.

    The JSON has {"hardest": [{"index", "label", "answer", "probability"}]}: the index in the split, the true and the
    predicted class, and its probability.

    Args:
      images: The images of the split: `images[int array]` -> uint8 [b s s 3].
      count: Maximum number of mistakes.
    """
    indices = metrics.hardest(probabilities, labels, count)
    predicted = metrics.predicted_classes(probabilities, labels)
    hardest = [
        {"index": int(i), "label": names[int(labels[i])], "answer": names[int(predicted[i])],
         "probability": float(probabilities[i].max())}
        for i in indices
    ]  # fmt: skip
    figure = _draw_sheet(images[indices] if len(indices) else [], hardest)
    shown = "the most confident mistakes" if hardest else "no mistakes"
    figure.suptitle(f"{_title(protocol)}:\n{shown}", fontsize=10)
    return figures.save(figure, protocol | {"count": len(labels), "hardest": hardest}, path)


def _draw_matrix(matrix: np.ndarray, errors: np.ndarray, names: Sequence[str]) -> "Figure":
    """Draw the confusion matrix, each row in percent of the images of its label, and the error of each class."""
    from matplotlib.figure import Figure

    n = len(names)
    side = max(3.0, 0.42 * n)
    figure = Figure(figsize=(1.3 * side + 2.0, side + 1.4), layout="constrained")
    cells, bars = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    # aspect="auto" aligns the rows with the bars.
    cells.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = 8 if n <= 12 else 5.5
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            style: dict[str, Any] = {
                "color": "white" if share > 0.55 else "black",
                "fontsize": size,
            }
            cells.text(column, row, f"{100 * share:.0f}", ha="center", va="center", **style)
    short = [figures.short(name, WIDTH) for name in names]
    rotation = 0 if max(map(len, short)) <= 3 else 90
    cells.set_xticks(range(n), short, rotation=rotation, fontsize=8)
    cells.set_yticks(range(n), short, fontsize=8)
    cells.set_xlabel("prediction")
    cells.set_ylabel("label (% of its images)")
    _draw_bars(bars, 100 * errors, "C3", size)
    bars.set_xlabel("error (%)")
    figures.plain(bars)
    bars.tick_params(axis="y", length=0, labelleft=False)
    return figure


def _draw_lists(
    errors: np.ndarray, pairs: Sequence[metrics.Confused], names: Sequence[str]
) -> "Figure":
    """Draw bars for the classes with the highest errors and for the pairs confused most often."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    classes, confused = figure.subplots(1, 2)
    worst = np.argsort(-np.nan_to_num(errors, nan=-1), kind="stable")[:LISTED]
    class_names = [figures.short(names[i], WIDTH) for i in map(int, worst)]
    pair_names = [
        f"{figures.short(names[one.label], WIDTH)} as {figures.short(names[one.predicted], WIDTH)}"
        for one in pairs
    ]
    _draw_bars(classes, 100 * errors[worst], "C3", 8)
    _draw_bars(confused, np.array([one.images for one in pairs], float), "C0", 8)
    classes.set_xlabel("error of the class (%)")
    confused.set_xlabel("images")
    confused.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes, texts in ((classes, class_names), (confused, pair_names)):
        axes.set_yticks(range(len(texts)), texts, fontsize=8)
        axes.set_ylim(max(len(texts), 1) - 0.5, -0.5)
        figures.plain(axes)
    return figure


def _draw_bars(axes: "Axes", lengths: np.ndarray, color: str, size: float) -> None:
    """Draw horizontal bars with their lengths beside them; none where a length is NaN."""
    bars = axes.barh(range(len(lengths)), np.nan_to_num(lengths), color=color, alpha=0.7)
    texts = ["" if np.isnan(length) else f"{length:.3g}" for length in lengths]
    axes.bar_label(bars, texts, padding=2, fontsize=size)
    axes.set_xlim(0, 1.2 * max([*np.nan_to_num(lengths), 1]))


def _draw_calibration(found: Reliability, edges: Sequence[float]) -> "Figure":
    """Draw accuracy by confidence, and a histogram of confidence below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 6), layout="constrained")
    diagram, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    filled = found.counts > 0
    lefts, width = np.array(edges[:-1]), edges[1]
    options: dict[str, Any] = {
        "align": "edge",
        "width": width,
        "edgecolor": "white",
        "linewidth": 0.5,
    }
    percent = 100 * np.where(filled, found.accuracy, 0)
    diagram.bar(lefts, percent, color="C0", alpha=0.8, label="accuracy", **options)
    means: dict[str, Any] = {"color": "black", "ms": 5, "clip_on": False}
    diagram.plot(
        found.confidence[filled], percent[filled], ".", label="at the mean confidence", **means
    )
    diagram.plot([0, 1], [0, 100], "--", color="gray", label="perfect calibration")
    diagram.set_ylabel("accuracy (%)")
    diagram.set_ylim(0, 100)
    # Above the diagram, where it covers no bar.
    legend: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3}
    diagram.legend(frameon=False, fontsize=8, columnspacing=1, borderaxespad=0.2, **legend)
    shares = histogram.bar(lefts, 100 * found.counts / found.counts.sum(), color="gray", **options)
    texts = [f"{share:.2g}" if share else "" for share in shares.datavalues]
    histogram.bar_label(shares, texts, padding=1, fontsize=7)
    histogram.set_ylabel("images (%)")
    histogram.set_ylim(0, 1.15 * max(shares.datavalues))
    histogram.set_xlabel("confidence: probability of the prediction")
    histogram.set_xlim(0, 1)
    for axes in (diagram, histogram):
        figures.plain(axes)
    return figure


def _draw_sheet(images: Any, hardest: Sequence[dict[str, Any]]) -> "Figure":
    from matplotlib.figure import Figure

    columns = min(COLUMNS, max(2, len(hardest)))
    rows = math.ceil(len(hardest) / columns)
    size = (1.65 * columns, 1.95 * rows + 0.5)
    if not hardest:
        return Figure(figsize=size)  # a constrained layout needs axes
    figure = Figure(figsize=size, layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).flat
    for axes in figure.axes:
        axes.set_axis_off()
    for axes, image, one in zip(cells, images, hardest, strict=False):
        axes.imshow(image, interpolation="nearest")
        predicted = f"predicted {figures.short(one['answer'], WIDTH)}, {one['probability']:.0%}"
        axes.set_title(f"{predicted}\nlabel {figures.short(one['label'], WIDTH)}", fontsize=8)
    return figure


def _title(protocol: dict[str, Any]) -> str:
    return (
        f"{protocol['split']}, {specs.views_in_words(protocol['views'])}, step {protocol['step']:,}"
    )


def _with_nulls(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


if __name__ == "__main__":
    cli.run(main)
