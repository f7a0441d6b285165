"""The parts of a report that are about answers: what is taken for what, how sure, and on which images."""

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from alexnet_jax.analysis import filters
from alexnet_jax.analysis import neighbors as nearest
from alexnet_jax.data.pipeline import identity, splits
from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.inference import calibration, confusion
from alexnet_jax.inference import metrics as errors
from alexnet_jax.inference import predictions as kept_predictions
from alexnet_jax.inference.network import Network
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.pages import charts
from alexnet_jax.pages.html import Html, data_uri, fill, join, table

CLASSES = 20
"""A confusion matrix of more cannot be read: the worst classes stand for it."""
PAIRS, IMAGES = 10, 10
PER_ROW = 16
QUERIES, AMONG = 5, 1000
"""Images whose neighbors are looked for, and training images among which: seconds, and not the hours of ImageNet."""


class Kept:
    """The predictions of a run for one split and view, read when they are first asked for."""

    def __init__(self, folder: Path, split: str, views: str, step: int):
        self.folder, self.split, self.views, self.step = folder, split, views, step

    @cached_property
    def predictions(self) -> kept_predictions.Predictions:
        return kept_predictions.load(self.folder, self.split, self.views, self.step)

    def errors(self) -> dict:
        return errors.summarize(*self.predictions)

    def __str__(self) -> str:
        count = len(self.predictions.labels)
        return f"{count:,} images of {self.split}, views: {self.views}, step {self.step:,}"


def find(folder: Path, step: int | None) -> list[Kept]:
    """The predictions of `step` (None: the newest with any), in the order of splits.PREFERRED, center crops first."""
    names = (path.name for path in folder.glob("predictions/*.npz"))
    matches = (re.fullmatch(r"(\w+)_([a-z]+)_(\d+)\.npz", name) for name in names)
    found = [Kept(folder, match[1], match[2], int(match[3])) for match in matches if match]
    step = step or max((one.step for one in found), default=0)
    found = [one for one in found if one.step == step]
    best = [*splits.PREFERRED, *sorted({one.split for one in found} - set(splits.PREFERRED))]
    return sorted(found, key=lambda one: (best.index(one.split), one.views != "center", one.views))


def classes(kept: list[Kept], run: TrainedModel | None) -> Html:
    """Errors by class, and which classes are taken for which. Raises DataError."""
    one = _first(kept)
    matrix = confusion.confusion(*one.predictions)
    share = confusion.per_class_errors(*one.predictions)
    names = run.class_names if run else [f"class {i}" for i in range(len(matrix))]
    order = np.argsort(-share, kind="stable")  # NaN, of classes without images, last
    order = [i for i in order if np.isfinite(share[i])]
    pairs = [
        (names[pair.label], names[pair.answer], pair.count)
        for pair in confusion.most_confused(matrix, PAIRS)
    ]
    few = len(matrix) <= CLASSES
    parts = [fill('<p class="muted small">{kept}; top-1.</p>', kept=one)]
    if few:
        parts += [Html("<h3>Label by row, answer by column</h3>"), charts.matrix(matrix, names)]
    shown = order if few else order[:CLASSES]
    parts.append(
        fill(
            '<div class="halves"><div><h3>{title}</h3>{bars}</div><div><h3>Most often confused</h3>{pairs}</div></div>',
            title="Error of each class" if few else f"Error of the {CLASSES} hardest classes",
            bars=charts.bars([(names[i], float(share[i])) for i in shown]),
            pairs=table(("label", "answer", "images"), pairs, numbers=(2,)),
        )
    )
    return join(parts)


def confidence(kept: list[Kept]) -> Html:
    """Whether the net is right as often as it says. Raises DataError."""
    one = _first(kept)
    found = calibration.reliability(*one.predictions)
    text = (
        "A bar on the line: of the answers given with that probability, as many are right. The expected calibration "
        f"error, the mean distance from it over images, is {100 * found.error:.1f} points in {len(found.counts)} bins "
        "(Guo et al., 2017)."
    )
    return fill(
        '<p class="muted small">{kept}.</p><div class="halves">{chart}<p class="small">{text}</p></div>',
        kept=one,
        chart=charts.reliability(found.counts, found.confidence, found.accuracy),
        text=text,
    )


def images(kept: list[Kept], run: TrainedModel, dataset: Callable[[], splits.Dataset]) -> Html:
    """Answers to some images of `dataset()`, by chance, and the surest mistakes. Raises DataError."""
    one = _first(kept)
    probabilities, labels = one.predictions
    split = dataset().splits.get(one.split)
    begun = (identity.read_record(one.folder) or {}).get(f"{one.split}_digests")
    if (
        split is None
        or not np.array_equal(split.labels, labels)
        or (begun is not None and begun.tolist() != np.asarray(split.digests).tolist())
    ):
        raise DataError("the images that are there now are not those that were answered")
    parts = []
    for title, numbers in (
        ("Some of them, by chance", _some(len(labels), IMAGES)),
        ("The surest mistakes", confusion.hardest(probabilities, labels, IMAGES)),
    ):
        if len(numbers):
            made = (
                _answered(picture, probabilities[i], int(labels[i]), run.class_names)
                for picture, i in zip(np.asarray(split.images[numbers]), numbers, strict=True)
            )
            template = '<h3>{title}</h3><div class="answers">{made}</div>'
            parts.append(fill(template, title=title, made=join(made)))
    return fill('<p class="muted small">{kept}.</p>', kept=one) + join(parts)


def neighbors(run: TrainedModel, dataset: splits.Dataset) -> Html:
    """Held-out images, and those of some training images that are nearest to them (§6.1)."""
    held_out = splits.default(dataset.splits)
    shown = _drawn(dataset.splits[held_out], QUERIES)
    train = _drawn(dataset.splits["train"], AMONG)
    pixels = np.asarray(shown.images[np.arange(len(shown.labels))])
    net, layer = Network(run), nearest.last_hidden(run)
    queries, rows = net.features(pixels, layer), nearest.features(net, train.images, layer)
    found, _ = nearest.nearest(queries, rows, min(nearest.NEIGHBORS, len(train.labels)))
    lines = []
    for i, numbers in enumerate(found):
        names = [run.class_names[label] for label in (shown.labels[i], *train.labels[numbers])]
        images = [pixels[i], *train.images[numbers]]
        lines.append(join(_named(*pair, names[0]) for pair in zip(images, names, strict=True)))
    text = (
        f"Left {held_out} images by chance, right those of {len(train.labels):,} training images, by chance, whose "
        f"{layer} is nearest; alexnet neighbors looks among all."
    )
    made = join(fill('<div class="near">{line}</div>', line=line) for line in lines)
    return fill('<p class="muted small">{text}</p>', text=text) + made


def _drawn(split: splits.Split, count: int) -> splits.Split:
    """At most `count` of its images, by chance, in their order."""
    return splits.take(split, _some(len(split.labels), count))


def _some(images: int, count: int) -> np.ndarray:
    """The numbers of at most `count` of so many images, by chance, in their order."""
    return np.sort(np.random.default_rng(0).permutation(images)[:count])


def _named(image, name: str, wanted: str) -> Html:
    return fill(
        '<figure>{image}<figcaption class="{right}">{name}</figcaption></figure>',
        image=_image(image, name),
        name=name,
        right="right" if name == wanted else "",
    )


def kernels(run: TrainedModel) -> Html:
    """The kernels of the first row, tower over tower (§6.1, Figure 3). Raises ConfigError."""
    model = run.config.model
    kernel = np.asarray(run.params[model.convs[0][0]]["kernel"], np.float32)
    if kernel.ndim != 4 or kernel.shape[2] != 3:
        raise ConfigError("the first row has no shared kernels over three colors")
    scores = filters.color_scores(kernel).reshape(model.towers, -1)
    gray = 0.5 + 0.5 * kernel / (np.abs(kernel).max() or 1)
    tiles = np.rint(255 * gray).astype(np.uint8).transpose(3, 0, 1, 2)
    parts = []
    for tower, of_tower in enumerate(np.split(tiles, model.towers)):
        name = f"Tower {tower + 1}" if model.towers > 1 else "All"
        grid = _grid(of_tower)
        zoom = max(1, 44 // kernel.shape[1])
        parts.append(
            fill(
                '<h3>{name} <span class="muted">color score {score}</span></h3>'
                '<img class="pixels" style="width:{width}px" src="{uri}" alt="{count} kernels">',
                name=name, score=f"{scores[tower].mean():.2f}", width=zoom * grid.shape[1], uri=data_uri(grid),
                count=len(of_tower),
            )
        )  # fmt: skip
    note = (
        "Mid-gray is zero, and one contrast holds for all. The color score is the share of a kernel's energy that is "
        "color: 0 is gray, and untrained kernels have 0.67."
    )
    return join(parts) + fill('<p class="muted small below">{note}</p>', note=note)


def _first(kept: list[Kept]) -> Kept:
    if not kept:
        raise DataError("there are no predictions of this step; alexnet evaluate writes them")
    return kept[0]


def _answered(picture, probabilities, label: int, names) -> Html:
    best = np.argsort(-probabilities, kind="stable")[:3]
    rows = join(
        fill(
            '<li class="{right}"><span class="name">{name}</span><span class="percent">{percent} %</span>'
            '<span class="track"><span style="width:{percent}%"></span></span></li>',
            right="right" if i == label else "",
            name=names[i],
            percent=f"{100 * probabilities[i]:.1f}",
        )
        for i in best
    )
    return fill(
        "<figure>{image}<figcaption><b>{name}</b></figcaption>"
        '<ol class="bars even">{rows}</ol></figure>',
        image=_image(picture, names[label]),
        name=names[label],
        rows=rows,
    )


def _image(pixels, name: str) -> Html:
    """Small ones with every pixel to be seen, large ones as JPEG, in a tenth of the bytes."""
    small = len(pixels) < 128
    return fill(
        '<img class="{kind}" src="{uri}" alt="{name}">',
        kind="pixels" if small else "",
        uri=data_uri(pixels, "PNG" if small else "JPEG"),
        name=name,
    )


def _grid(tiles: np.ndarray) -> np.ndarray:
    """uint8 [n h w 3] as one picture [.. .. 4] with see-through lines of a pixel between them."""
    count, height, width, _ = tiles.shape
    columns = min(count, PER_ROW)
    rows = -(-count // columns)
    grid = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + 1), i % columns * (width + 1)
        grid[y : y + height, x : x + width] = np.dstack([tile, np.full((height, width), 255, np.uint8)])  # fmt: skip
    return grid
