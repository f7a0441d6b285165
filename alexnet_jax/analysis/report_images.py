"""Image sections of the report: first-layer kernels, predictions, and nearest neighbors."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from alexnet_jax.analysis import filters
from alexnet_jax.analysis import neighbors as nearest
from alexnet_jax.analysis.report_evaluation import SavedPredictions, first
from alexnet_jax.data.pipeline import identity, splits
from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.inference import metrics
from alexnet_jax.inference.network import Network
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.pages.render import data_uri, render

#: Images in each group of predictions, and classes listed for each image.
IMAGES, TOP = 10, 3
#: Kernels in a row, which are large enough to be seen on a phone.
COLUMNS = 8
#: Number of queries, and number of training images searched for their neighbors: searching ImageNet takes hours.
QUERIES, SEARCHED = 5, 1000
#: Images below this size are PNG and enlarged without smoothing; larger ones are JPEG, a tenth of the size.
SMALL = 128


def kernels(run: TrainedModel) -> Markup:
    """Render the first-layer kernels of each tower (§6.1, Figure 3). Raises ConfigError."""
    model = run.config.model
    kernel = np.asarray(run.params[model.convs[0][0]]["kernel"], np.float32)
    if kernel.ndim != 4 or kernel.shape[2] != 3:
        raise ConfigError("the first layer is not a convolution of 3 color channels")
    scores = filters.color_scores(kernel).reshape(model.towers, -1).mean(axis=1)
    zoom = max(1, 44 // kernel.shape[1])
    towers = []
    for tower, tiles in enumerate(np.split(filters.tiles(kernel), model.towers)):
        grid = _grid(tiles)
        name = f"Tower {tower + 1}" if model.towers > 1 else "All"
        towers.append({"name": name, "score": scores[tower], "width": zoom * grid.shape[1], "uri": data_uri(grid),
                       "count": len(tiles)})  # fmt: skip
    return render("kernels.html", towers=towers)


def _grid(tiles: np.ndarray) -> np.ndarray:
    """Arrange images uint8 [n h w 3] in a grid, an RGBA image with transparent gaps of one pixel."""
    count, height, width, _ = tiles.shape
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    grid = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + 1), i % columns * (width + 1)
        grid[y : y + height, x : x + width, :3] = tile
        grid[y : y + height, x : x + width, 3] = 255
    return grid


def predictions(
    saved: list[SavedPredictions], run: TrainedModel, dataset: Callable[[], splits.Dataset]
) -> Markup:
    """Render predictions for random images, and the most confident mistakes.

    Raises:
      DataError: No predictions are saved, or the images have changed since then.
    """
    shown = first(saved)
    probabilities, labels = shown.predictions
    split = dataset().splits.get(shown.split)
    recorded = (identity.read_record(shown.folder) or {}).get(f"{shown.split}_digests")
    if (
        split is None
        or not np.array_equal(split.labels, labels)
        or (recorded is not None and recorded.tolist() != np.asarray(split.digests).tolist())
    ):
        raise DataError("the images have changed since these predictions were saved")

    def examples(indices: np.ndarray) -> list[dict[str, Any]]:
        images = np.asarray(split.images[indices]) if len(indices) else []
        return [
            _image(pixels, run.class_names[labels[i]])
            | {"top": _top(probabilities[i], int(labels[i]), run.class_names)}
            for pixels, i in zip(images, indices, strict=True)
        ]

    groups = [
        ("Random images", examples(_random_indices(len(labels), IMAGES))),
        ("Most confident mistakes", examples(metrics.hardest(probabilities, labels, IMAGES))),
    ]
    return render("images.html", source=str(shown), groups=groups)


def _top(
    probabilities: np.ndarray, label: int, names: Sequence[str]
) -> list[tuple[str, float, bool]]:
    """Return the most probable classes: (name, probability, whether it is the label)."""
    best = np.argsort(-probabilities, kind="stable")[:TOP].tolist()
    return [(names[int(i)], float(probabilities[i]), i == label) for i in best]


def neighbors(run: TrainedModel, dataset: splits.Dataset) -> Markup:
    """Render held-out images and their nearest neighbors among a sample of the training images (§6.1)."""
    name = splits.default(dataset.splits)
    shown = _random_images(dataset.splits[name], QUERIES)
    train = _random_images(dataset.splits["train"], SEARCHED)
    pixels = np.asarray(shown.images[np.arange(len(shown.labels))])
    net, layer = Network(run), nearest.last_hidden(run)
    queries, features = net.features(pixels, layer), nearest.features(net, train.images, layer)
    neighbor_indices, _ = nearest.nearest(
        queries, features, min(nearest.NEIGHBORS, len(train.labels))
    )
    rows = []
    for i, indices in enumerate(neighbor_indices):
        names = [run.class_names[label] for label in (shown.labels[i], *train.labels[indices])]
        images = [pixels[i], *train.images[indices]]
        rows.append([_image(*pair) for pair in zip(images, names, strict=True)])
    count = f"{len(train.labels):,}"
    return render("neighbors.html", split=name, layer=layer, count=count, rows=rows)


def _random_images(split: splits.Split, count: int) -> splits.Split:
    """Select at most `count` random images of a split, in the order of the split."""
    return splits.take(split, _random_indices(len(split.labels), count))


def _random_indices(images: int, count: int) -> np.ndarray:
    """Draw at most `count` distinct indices below `images`, sorted."""
    return np.sort(np.random.default_rng(0).permutation(images)[:count])


def _image(pixels: np.ndarray, name: str) -> dict[str, Any]:
    """Return the arguments of the image macro in macros.html."""
    small = len(pixels) < SMALL
    return {"name": name, "small": small, "uri": data_uri(pixels, "PNG" if small else "JPEG")}
