"""Draw test images and their nearest training images by features of the last hidden layer (Figure 4 right, §6.1).

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

#: Neighbors of an image, as in Figure 4.
NEIGHBORS = 6


def main(arguments: list[str]) -> None:
    parser = figures.parser(__doc__ or "")
    pictures.add_arguments(parser, count=5)
    parser.add_argument(
        "--layer", help="the layer to compare; default: the last hidden one, such as fc7"
    )
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "neighbors.png"
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    shown = pictures.select(net, options)
    layer = options.layer or last_hidden(net.trained)
    train = pictures.load_dataset(net.trained, options.data_path).splits["train"]
    print(plot(net, shown, train, path, layer))


def plot(net: "Network", shown: Pictures, train: "Split", path: Path, layer: str) -> Path:
    """Draw each image and its six neighbors in a row of a PNG, and write the numbers as JSON beside it (§6.1).

    Args:
      train: The split to search. An image that it contains is its own neighbor.
    """
    queries = net.features(shown.pixels, layer)
    found, distances = nearest(queries, features(net, train.images, layer), NEIGHBORS)
    names, rows = net.class_names, list[dict[str, Any]]()
    for i, name in enumerate(shown.names):
        neighbors = [
            {"image": f"train {number}", "label": names[train.labels[number]], "distance": float(f"{far:.6g}")}
            for number, far in zip(found[i].tolist(), distances[i].tolist(), strict=True)
        ]  # fmt: skip
        label = None if shown.labels is None else names[shown.labels[i]]
        rows.append({"image": name, "label": label, "neighbors": neighbors})
    images = np.stack([train.images[numbers] for numbers in found])
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
    """Find the k nearest vectors to each query by exact Euclidean distance; of equal ones the first.

    Args:
      queries: [q ...].
      chunks: The vectors to search, [b ...] each; one chunk at a time is on the device.

    Returns:
      Indices [q k] and distances [q k].

    Raises:
      ConfigError: There are fewer than k vectors.
    """
    import jax
    import jax.numpy as jnp

    @jax.jit
    def merge(queries: Any, best: Any, numbers: Any, chunk: Any, start: Any) -> Any:
        def of_query(query: Any, best: Any, numbers: Any) -> Any:
            squares = jnp.square(chunk - query).sum(axis=1)
            squares = jnp.concatenate([best, squares])
            numbers = jnp.concatenate([numbers, start + jnp.arange(len(chunk))])
            least, places = jax.lax.top_k(-squares, k)  # stable: of equal ones the first
            return -least, numbers[places]

        return jax.lax.map(lambda row: of_query(*row), (queries, best, numbers))

    flat = jnp.asarray(queries.reshape(len(queries), -1))
    best = jnp.full((len(queries), k), jnp.inf)
    numbers, start = jnp.full((len(queries), k), -1), 0
    for chunk in chunks:
        best, numbers = merge(flat, best, numbers, chunk.reshape(len(chunk), -1), start)
        start += len(chunk)
    if start < k:
        raise ConfigError(f"{start} images have no {k} nearest")
    return np.asarray(numbers), np.sqrt(np.asarray(best))


def last_hidden(run: "TrainedModel") -> str:
    """The name of the last hidden layer, such as 'fc7'."""
    model = run.config.model
    return [name for name, _ in (*model.convs, *model.fcs)][-2]


def _draw(queries: np.ndarray, neighbors: np.ndarray, numbers: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    lines, columns = len(queries), 1 + neighbors.shape[1]
    figure = Figure(figsize=(1.4 * columns + 0.2, 1.62 * lines + 0.3), layout="constrained")
    # A narrow empty column separates the query from its neighbors.
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
