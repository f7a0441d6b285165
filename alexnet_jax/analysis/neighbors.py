"""Test images and the training images whose last hidden layer is nearest to theirs (Figure 4 right, §6.1).

Command: alexnet neighbors --workdir runs/mine [--layer fc7]
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures, pictures
from alexnet_jax.analysis.pictures import Pictures
from alexnet_jax.errors import ConfigError

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network
    from alexnet_jax.inference.trained import TrainedModel

NEIGHBORS = 6


def main(arguments: list[str]) -> None:
    parser = figures.parser(
        "Draw images and their nearest training images: figures/neighbors.png and .json."
    )
    pictures.add_arguments(parser, count=5)
    parser.add_argument(
        "--layer", help="whose distances count; default: the last hidden one, such as fc7"
    )
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "neighbors.png"
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    shown = pictures.chosen(net, options)
    layer = options.layer or last_hidden(net.run)
    train = pictures.load(net.run, options.data_path).splits["train"]
    print(plot(net, shown, train, path, layer))


def plot(net: "Network", shown: Pictures, train, path: Path, layer: str) -> Path:
    """A PNG at `path` and its numbers as JSON beside it (§6.1): a row for each image, then its six neighbors.

    train: the Split in which they are looked for. An image that is itself among them is its own neighbor.
    """
    queries = net.features(shown.pixels, layer)
    found, distances = nearest(queries, features(net, train.images, layer), NEIGHBORS)
    names, rows = net.class_names, []
    for i, name in enumerate(shown.names):
        neighbors = [
            {"image": f"train {number}", "label": names[train.labels[number]], "distance": float(f"{far:.6g}")}
            for number, far in zip(found[i].tolist(), distances[i].tolist(), strict=True)
        ]  # fmt: skip
        label = None if shown.labels is None else names[shown.labels[i]]
        rows.append({"image": name, "label": label, "neighbors": neighbors})
    images = np.stack([train.images[numbers] for numbers in found])
    numbers = {"step": net.run.step, "layer": layer, "images": rows}
    return figures.save(_draw(shown.pixels, images, numbers), numbers, path)


def features(net: "Network", images, layer: str) -> Iterable[np.ndarray]:
    """The outputs [b ...] of `layer` for all of `images`, batch after batch."""
    batch = net.run.config.evaluation.batch_size
    for start in range(0, len(images), batch):
        yield net.features(images[np.arange(start, min(start + batch, len(images)))], layer)


def nearest(
    queries: np.ndarray, chunks: Iterable[np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of all rows of `chunks` [b ...] the k nearest to each of `queries` [q ...]: (numbers [q k], distances [q k]).

    Euclidean distances, exact: as roots of sums of squared differences, of every row. Of rows equally near the one
    with the lower number comes first. Chunks go through the device one at a time. Raises ConfigError for fewer than
    k rows.
    """
    import jax
    import jax.numpy as jnp

    @jax.jit
    def merged(queries, best, numbers, chunk, start):
        def one(query, best, numbers):
            squares = jnp.square(chunk - query).sum(axis=1)
            squares = jnp.concatenate([best, squares])
            numbers = jnp.concatenate([numbers, start + jnp.arange(len(chunk))])
            least, places = jax.lax.top_k(-squares, k)  # of equal ones the first
            return -least, numbers[places]

        return jax.lax.map(lambda row: one(*row), (queries, best, numbers))

    flat = jnp.asarray(queries.reshape(len(queries), -1))
    best = jnp.full((len(queries), k), jnp.inf)
    numbers, start = jnp.full((len(queries), k), -1), 0
    for chunk in chunks:
        best, numbers = merged(flat, best, numbers, chunk.reshape(len(chunk), -1), start)
        start += len(chunk)
    if start < k:
        raise ConfigError(f"{start} images have no {k} nearest")
    return np.asarray(numbers), np.sqrt(np.asarray(best))


def last_hidden(run: "TrainedModel") -> str:
    """The name of the row before the last, such as 'fc7'."""
    model = run.config.model
    return [name for name, _ in (*model.convs, *model.fcs)][-2]


def _draw(queries, neighbors, numbers: dict):
    from matplotlib.figure import Figure

    lines, columns = len(queries), 1 + neighbors.shape[1]
    figure = Figure(figsize=(1.4 * columns + 0.2, 1.62 * lines + 0.3), layout="constrained")
    # A narrow column apart: what is asked, and what is found.
    grid = figure.subplots(lines, columns + 1, squeeze=False, width_ratios=(1, 0.12, *[1] * (columns - 1)))  # fmt: skip
    for axes, query, found, row in zip(grid, queries, neighbors, numbers["images"], strict=True):
        axes[1].set_axis_off()
        figures.show(axes[0], query, figures.short(row["label"] or Path(row["image"]).name, 18))
        for place, image, neighbor in zip(axes[2:], found, row["neighbors"], strict=True):
            same = row["label"] in (None, neighbor["label"])
            color = "black" if same else figures.WRONG
            figures.show(place, image, figures.short(neighbor["label"], 18), color)
    return figure


if __name__ == "__main__":
    cli.run(main)
