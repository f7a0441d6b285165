"""Draw images and their nearest training images in the feature space of the last hidden layer (Figure 4 right, §6.1).

alexnet figures neighbors --workdir runs/mine [--layer fc7]

Writes figures/neighbors.png and neighbors.json.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures, pictures
from alexnet_jax.analysis.pictures import Pictures
from alexnet_jax.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet_jax.data.pipeline.splits import Split
    from alexnet_jax.inference.network import Network
    from alexnet_jax.inference.trained import TrainedModel

#: Number of neighbors for each image, as in Figure 4.
NEIGHBORS = 6


def main(arguments: list[str]) -> None:
    """Run `alexnet figures neighbors`."""
    parser = figures.parser(__doc__ or "")
    pictures.add_arguments(parser, count=5)
    parser.add_argument(
        "--layer", help="the layer to compare; default: the last hidden one, such as fc7"
    )
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "neighbors.png"
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    layer = options.layer or last_hidden(net.trained)
    net.shape_of(layer)  # raises ConfigError before any work
    # Unreadable --images are reported before the dataset is read.
    dataset = None if options.images else pictures.load_dataset(net.trained, options.data_path)
    shown = pictures.select(net, options, dataset)
    dataset = dataset or pictures.load_dataset(net.trained, options.data_path)
    print(plot(net, shown, dataset.splits["train"], path, layer))


def plot(net: "Network", shown: Pictures, train: "Split", path: Path, layer: str) -> Path:
    """Draw each image and its six neighbors in a row of a PNG, and write their labels and distances as JSON (§6.1).

    Args:
      train: The split to search. A query that is in this split is found as its own nearest neighbor.
    """
    queries = net.features(shown.pixels, layer)
    nearest_indices, distances = nearest(queries, features(net, train.images, layer), NEIGHBORS)
    names, rows = net.class_names, list[dict[str, Any]]()
    for i, name in enumerate(shown.names):
        neighbors = [
            {"image": f"train {index}", "label": names[train.labels[index]], "distance": float(f"{distance:.6g}")}
            for index, distance in zip(nearest_indices[i].tolist(), distances[i].tolist(), strict=True)
        ]  # fmt: skip
        label = None if shown.labels is None else names[shown.labels[i]]
        rows.append({"image": name, "label": label, "neighbors": neighbors})
    images = np.stack([train.images[indices] for indices in nearest_indices])
    numbers = {"step": net.trained.step, "layer": layer, "images": rows}
    return figures.save(_draw(shown.pixels, images, numbers), numbers, path)


def features(net: "Network", images: Any, layer: str) -> Iterable[np.ndarray]:
    """Yield the outputs [b ...] of a layer for all images, batch by batch."""
    batch = net.trained.config.evaluation.batch_size
    for start in range(0, len(images), batch):
        yield net.features(images[np.arange(start, min(start + batch, len(images)))], layer)


def nearest(
    queries: np.ndarray, chunks: Iterable[np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest vectors to each query by exact Euclidean distance; ties go to the lower index.

    Args:
      queries: [q ...].
      chunks: The vectors to search, as arrays [b ...]; the device holds one of them at a time.

    Returns:
      Indices [q k] over all chunks, and distances [q k].

    Raises:
      ConfigError: The chunks contain fewer than k vectors.
    """
    import jax
    import jax.numpy as jnp

    @jax.jit
    def merge(queries: Any, best: Any, indices: Any, chunk: Any, start: Any) -> Any:
        def merge_one(query: Any, best: Any, indices: Any) -> Any:
            squares = jnp.square(chunk - query).sum(axis=1)
            squares = jnp.concatenate([best, squares])
            indices = jnp.concatenate([indices, start + jnp.arange(len(chunk))])
            negated, positions = jax.lax.top_k(-squares, k)  # ties: lower index first
            return -negated, indices[positions]

        return jax.lax.map(lambda query: merge_one(*query), (queries, best, indices))

    flat = jnp.asarray(queries.reshape(len(queries), -1))
    best = jnp.full((len(queries), k), jnp.inf)  # squared distances
    indices, start = jnp.full((len(queries), k), -1), 0
    for chunk in chunks:
        best, indices = merge(flat, best, indices, chunk.reshape(len(chunk), -1), start)
        start += len(chunk)
    if start < k:
        raise ConfigError(f"cannot find {k} nearest images among {start}")
    return np.asarray(indices), np.sqrt(np.asarray(best))


def last_hidden(trained: "TrainedModel") -> str:
    """Return the name of the last hidden layer, such as 'fc7'."""
    model = trained.config.model
    return [name for name, _ in model.layers][-2]


def _draw(queries: np.ndarray, neighbors: np.ndarray, numbers: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    rows, columns = len(queries), 1 + neighbors.shape[1]
    figure = Figure(figsize=(1.4 * columns + 0.2, 1.62 * rows + 0.3), layout="constrained")
    # A narrow empty column separates the query from its neighbors.
    grid = figure.subplots(rows, columns + 1, squeeze=False, width_ratios=(1, 0.12, *[1] * (columns - 1)))  # fmt: skip
    for axes, query, images, row in zip(grid, queries, neighbors, numbers["images"], strict=True):
        axes[1].set_axis_off()
        figures.show(axes[0], query, figures.short(row["label"] or Path(row["image"]).name, 18))
        for cell, image, neighbor in zip(axes[2:], images, row["neighbors"], strict=True):
            same = row["label"] in (None, neighbor["label"])
            color = "black" if same else figures.WRONG
            figures.show(cell, image, figures.short(neighbor["label"], 18), color)
    title = f"left: the image; right: its nearest training images by {numbers['layer']}"
    if any(row["label"] for row in numbers["images"]):
        title += "\nred: another label"
    figure.suptitle(title, fontsize=10)
    return figure


if __name__ == "__main__":
    cli.run(main)
