"""Where a net is wrong: classes it takes for others, whether it knows, and its most confident mistakes.

alexnet mistakes --workdir W [--split test] [--views center]

Writes confusion.png, calibration.png and hardest.png to figures/ of the run, or to --out DIR, and their numbers as
JSON beside each. Saved predictions are used where there are; else they are computed, as by
alexnet_jax.evaluation.evaluate.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_jax import cli, specs
from alexnet_jax.analysis import figures
from alexnet_jax.inference import calibration, confusion
from alexnet_jax.inference import metrics as errors
from alexnet_jax.inference.calibration import Reliability

MOST_CELLS = 30
"""Classes up to which the whole matrix is drawn; above it, the classes and pairs with the most errors."""
_LISTED = 25
_COLUMNS = 6


def main(arguments: list[str]) -> None:
    from alexnet_jax.evaluation import target

    parser = cli.parser(__doc__ or "")
    target.add_arguments(parser)
    target.add_protocol(parser)
    options = parser.parse_args(arguments)
    one = target.from_arguments(options)
    view = options.views
    split = one.split_name(options.split, view)
    probabilities, labels = one.obtain(split, view)
    images = one.split(split).images
    one.check_images()
    folder = Path(options.out) if options.out else one.folder / "figures"
    names = one.run.class_names
    protocol: dict = {"net": str(one.path), "step": one.run.step, "data": one.data}
    protocol |= {"split": split, "views": view}
    print(plot_confusion(probabilities, labels, names, folder / "confusion.png", protocol))
    print(plot_calibration(probabilities, labels, folder / "calibration.png", protocol))
    print(plot_hardest(probabilities, labels, images, names, folder / "hardest.png", protocol))


def plot_confusion(
    probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], path: Path, protocol: dict
) -> Path:
    """The confusion matrix of probabilities [n classes] and labels [n], and the error of each class, as a PNG.

    The JSON beside it has {"class_names", "confusion", "class_error", "most_confused"}, as evaluation.confusion
    has them, and `protocol`, what they are of: "step", "split", "views". Errors of classes without images are null.
    """
    matrix = confusion.confusion(probabilities, labels)
    wrong = confusion.per_class_errors(probabilities, labels)
    pairs = confusion.most_confused(matrix, _LISTED)
    small = len(names) <= MOST_CELLS
    figure = _matrix(matrix, wrong, names) if small else _lists(wrong, pairs, names)
    error = errors.summarize(probabilities, labels)["top1_error"]
    figure.suptitle(f"{_said(protocol)}: top-1 error {error:.1%}", fontsize=10)
    numbers = {
        "class_names": list(names),
        "confusion": matrix.tolist(),
        "class_error": _nulls(wrong),
        "most_confused": [{"label": names[a], "answer": names[b], "count": n} for a, b, n in pairs],
    }
    return figures.save(figure, protocol | {"count": len(labels)} | numbers, path)


def plot_calibration(
    probabilities: np.ndarray, labels: np.ndarray, path: Path, protocol: dict
) -> Path:
    """The reliability diagram (Guo et al., 2017, Figure 1) as a PNG, and as JSON beside it.

    {"expected_calibration_error", "bins": [{"low", "high", "count", "confidence", "accuracy"}]}; null in empty bins.
    """
    found = calibration.reliability(probabilities, labels)
    edges = np.linspace(0, 1, len(found.counts) + 1).tolist()
    means = (_nulls(found.confidence), _nulls(found.accuracy))
    bins = [
        {"low": low, "high": high, "count": count, "confidence": confidence, "accuracy": accuracy}
        for low, high, count, confidence, accuracy in zip(
            edges[:-1], edges[1:], found.counts.tolist(), *means, strict=True
        )
    ]
    numbers = {"expected_calibration_error": found.error, "bins": bins}
    figure = _diagram(found, edges)
    figure.suptitle(_said(protocol), fontsize=10)
    return figures.save(figure, protocol | {"count": len(labels)} | numbers, path)


def plot_hardest(
    probabilities: np.ndarray, labels: np.ndarray, images, names: Sequence[str], path: Path, protocol: dict,
    number: int = 24,
) -> Path:  # fmt: skip
    """A sheet of the images answered wrongly with the highest probability, and the list of them as JSON.

    images[int array] -> uint8 [b s s 3]. {"hardest": [{"index", "label", "answer", "probability"}]}; "index" counts
    in the order of the split.
    """
    indices = confusion.hardest(probabilities, labels, number)
    answers = errors.predicted_classes(probabilities, labels)
    hardest = [
        {"index": int(i), "label": names[int(labels[i])], "answer": names[int(answers[i])],
         "probability": float(probabilities[i].max())}
        for i in indices
    ]  # fmt: skip
    figure = _sheet(images[indices] if len(indices) else [], hardest)
    figure.suptitle(f"{_said(protocol)}: the most confident mistakes", fontsize=10)
    return figures.save(figure, protocol | {"count": len(labels), "hardest": hardest}, path)


def _matrix(matrix: np.ndarray, wrong: np.ndarray, names: Sequence[str]):
    """Rows are labels, in shares of their images; the error of each class is beside its row."""
    from matplotlib.figure import Figure

    n = len(names)
    side = max(3.0, 0.42 * n)
    figure = Figure(figsize=(1.3 * side + 2.0, side + 1.4), layout="constrained")
    cells, bars = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    cells.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")  # as high as the bars
    size = 8 if n <= 12 else 5.5
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            style = {"color": "white" if share > 0.55 else "black", "fontsize": size}
            cells.text(column, row, f"{100 * share:.0f}", ha="center", va="center", **style)
    short = [_short(name) for name in names]
    cells.set_xticks(range(n), short, rotation=90, fontsize=8)
    cells.set_yticks(range(n), short, fontsize=8)
    cells.set_xlabel("answer")
    cells.set_ylabel("label (% of its images)")
    bars.barh(range(n), 100 * np.nan_to_num(wrong), color="C3", alpha=0.7)
    bars.set_xlabel("error (%)")
    figures.plain(bars)
    bars.tick_params(axis="y", length=0, labelleft=False)
    return figure


def _lists(wrong: np.ndarray, pairs: Sequence[confusion.Confused], names: Sequence[str]):
    """The classes with the highest errors, and the pairs confused most often."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), layout="constrained")
    classes, confused = figure.subplots(1, 2)
    worst = np.argsort(-np.nan_to_num(wrong, nan=-1), kind="stable")[:_LISTED]
    named = [_short(names[i]) for i in map(int, worst)]
    said = [f"{_short(names[one.label])} as {_short(names[one.answer])}" for one in pairs]
    classes.barh(range(len(named)), 100 * np.nan_to_num(wrong[worst]), color="C3", alpha=0.7)
    confused.barh(range(len(said)), [one.count for one in pairs], color="C0", alpha=0.7)
    classes.set_xlabel("error of the class (%)")
    confused.set_xlabel("images")
    confused.xaxis.get_major_locator().set_params(integer=True)
    for axes, texts in ((classes, named), (confused, said)):
        axes.set_yticks(range(len(texts)), texts, fontsize=8)
        axes.set_ylim(max(len(texts), 1) - 0.5, -0.5)
        figures.plain(axes)
    return figure


def _diagram(found: Reliability, edges: Sequence[float]):
    """Accuracy by confidence over the number of images by confidence."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 6), layout="constrained")
    diagram, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    full = found.counts > 0
    lefts, width = np.array(edges[:-1]), edges[1]
    options = {"align": "edge", "width": width, "edgecolor": "white", "linewidth": 0.5}
    accuracy = np.where(full, found.accuracy, 0)
    diagram.bar(lefts, accuracy, color="C0", alpha=0.8, label="accuracy", **options)
    diagram.plot(found.confidence[full], found.accuracy[full], ".", color="black", ms=5)
    diagram.plot([0, 1], [0, 1], "--", color="gray", label="as often right as it says")
    diagram.set_ylabel("accuracy")
    diagram.set_ylim(0, 1)
    title = f"calibration error {found.error:.1%}"
    diagram.legend(frameon=False, loc="upper left", title=title, alignment="left")
    histogram.bar(lefts, 100 * found.counts / found.counts.sum(), color="gray", **options)
    histogram.set_ylabel("images (%)")
    histogram.set_xlabel("confidence: probability of the answer")
    histogram.set_xlim(0, 1)
    for axes in (diagram, histogram):
        figures.plain(axes)
    return figure


def _sheet(images, hardest: Sequence[dict]):
    from matplotlib.figure import Figure

    rows = max(1, -(-len(hardest) // _COLUMNS))
    figure = Figure(figsize=(1.65 * _COLUMNS, 2.05 * rows + 0.4), layout="constrained")
    places = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for axes in figure.axes:
        axes.set_axis_off()
    for axes, image, one in zip(places, images, hardest, strict=False):
        axes.imshow(image, interpolation="nearest")
        said = f"says {_short(one['answer'])}, {one['probability']:.0%}"
        axes.set_title(f"{said}\nlabel {_short(one['label'])}", fontsize=8)
    return figure


def _said(protocol: dict) -> str:
    return f"{protocol['split']}, {specs.seen(protocol['views'])}, step {protocol['step']:,}"


def _short(name: str) -> str:
    return figures.literal(textwrap.shorten(name, 22, placeholder="…") or name[:22])


def _nulls(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


if __name__ == "__main__":
    cli.run(main)
