"""Visualize the features of a convolution with a deconvolutional network (Zeiler and Fergus, 2014).

Command: alexnet figures deconvnet --workdir runs/mine [--layer conv3] [--map 0 7]
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures, pictures
from alexnet_jax.analysis.saliency import last_maps
from alexnet_jax.errors import ConfigError
from alexnet_jax.model import operations
from alexnet_jax.model.geometry import tower_of

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network

#: Each map is shown with the SIDE x SIDE images that activate it most strongly, as in Figure 2 of the article.
SIDE = 3


def main(arguments: list[str]) -> None:
    """Run `alexnet figures deconvnet`."""
    parser = figures.parser(
        "Draw the image structures that activate feature maps most strongly: figures/deconvnet.png and .json."
    )
    pictures.add_arguments(parser)
    parser.add_argument(
        "--layer", help="a convolution such as conv3; default: the last one, before its pool"
    )
    parser.add_argument(
        "--map", type=int, nargs="+", help="indices of maps, from 0; default: four, evenly spaced"
    )  # fmt: skip
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "deconvnet.png"
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    layer = options.layer or last_maps(net)
    count = _shape(net, layer)[-1]
    maps = options.map or sorted({count * (2 * i + 1) // 8 for i in range(4)})
    if not all(0 <= number < count for number in maps):
        raise ConfigError(f"--map: the maps of {layer} go from 0 to {count - 1}")
    name, dataset = pictures.load_split(net.trained, options.data_path, options.split)
    print(plot(net, dataset.splits[name], name, layer, maps, path))


def plot(net: "Network", split, split_name: str, layer: str, maps: list[int], path: Path) -> Path:
    """Draw a PNG at `path`, and write its numbers as JSON beside it.

    For each of `maps` it shows the nine images with the strongest activations: their projections, each normalized to
    full contrast, and the receptive fields in the images.
    """
    strongest = strengths(net, split.images, layer, maps)
    towers, count = net.trained.config.model.towers, _shape(net, layer)[-1]
    blocks, rows = [], []
    for number, activations in zip(maps, np.moveaxis(strongest, 1, 0), strict=True):
        best = np.argsort(-activations[:, 0], kind="stable")[: SIDE**2]
        pixels = np.asarray(split.images[best])
        projected = project(net, pixels, layer, np.full(len(best), number))
        crops = pictures.crops(net, pixels)
        places = activations[best, 1:].astype(int)
        windows = [window(net, layer, place) for place in places]
        blocks.append([[image[w] for image, w in zip(images, windows, strict=True)]
                       for images in (_contrasted(projected), crops)])  # fmt: skip
        images = [
            {
                "image": f"{split_name} {index}",
                "label": net.class_names[split.labels[index]],
                "activation": float(activations[index, 0]),
                "place": place.tolist(),
            }
            for index, place in zip(best.tolist(), places, strict=True)
        ]
        rows.append({"map": number, "tower": tower_of(number, count, towers) + 1, "images": images})
    numbers = {"step": net.trained.step, "layer": layer, "maps": rows}
    return figures.save(_draw(blocks, numbers, towers), numbers, path)


def strengths(net: "Network", images, layer: str, maps: Sequence[int]) -> np.ndarray:
    """Return the largest activation of each of `maps` in each image, and its row and column: float32 [n maps 3]."""
    return all_strengths(net, images, {layer: maps})[layer]


def all_strengths(
    net: "Network", images, wanted: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Return `strengths` of some maps or units of several features, computed in one pass over the images."""
    import jax.numpy as jnp

    def largest(variables, pixels):
        features, found = net.all_features(variables, pixels), []
        for name, maps in wanted.items():
            x = features[name][..., np.array(maps)].astype(jnp.float32)
            x = x.reshape(len(pixels), *(x.shape[1:-1] or (1, 1)), len(maps))
            flat = x.reshape(len(pixels), -1, len(maps))
            places = jnp.unravel_index(flat.argmax(axis=1), x.shape[1:3])
            found.append(jnp.stack([flat.max(axis=1), *places], axis=-1))
        return jnp.concatenate(found, axis=1)

    key = f"strengths {[(name, list(maps)) for name, maps in wanted.items()]}"
    together = np.concatenate(list(net.map_batches(net.jitted(key, largest), images)))
    ends = np.cumsum([len(maps) for maps in wanted.values()])
    return dict(zip(wanted, np.split(together, ends[:-1], axis=1), strict=True))


def project(net: "Network", pixels: np.ndarray, layer: str, maps: np.ndarray) -> np.ndarray:
    """Project the largest activation of map maps[i] in image i back to the input: float32 [n c c 3].

    All other activations of `layer` are set to 0. Raises ConfigError if `layer` is not a feature of a convolution.

    Args:
        net: The network.
        pixels: uint8 [n s s 3]; the center crops are used.
        layer: A feature such as "conv3".
        maps: int [n].
    """
    import jax
    import jax.numpy as jnp

    shape = _shape(net, layer)

    def project_batch(variables, pixels, maps):
        inputs = net.inputs(pixels)[:, 0]
        features: Any = net.model.apply(variables, inputs, train=False)[1]
        features = {name: x.astype(jnp.float32) for name, x in features.items()}
        chosen = jax.nn.one_hot(maps, shape[-1])[:, None, None, :]
        flat = jnp.where(chosen > 0, features[layer], -jnp.inf).reshape(len(maps), -1)
        is_largest = jax.nn.one_hot(flat.argmax(axis=1), flat.shape[1])
        start = (is_largest * flat.max(axis=1, keepdims=True)).reshape(-1, *shape)
        return deconvolve(net, variables, inputs, features, layer, start)

    return net.in_batches(f"project {layer}", project_batch, pixels, np.asarray(maps))


def deconvolve(
    net: "Network",
    variables,
    inputs,
    features: dict,
    layer: str,
    x,
    rectify: Callable | None = None,
):
    """Project `x` [n h w maps] at `layer` back to the input [n c c 3], through the operations applied to `inputs`.

    As in section 2.1 of the article: max-pooling puts each value at the position of the maximum of its window (the
    first of equal values) and adds where windows overlap; ReLUs rectify with `rectify`, by default ReLU;
    convolutions apply their transposed kernels, without biases. Response normalization (which the article does not
    mention), dropout and other activations pass values through unchanged. Average pooling spreads each value over its
    window, and batch normalization multiplies by its scale.
    """
    import jax

    steps = path_to(net, layer)
    for node, previous in reversed(list(zip(steps, [None, *steps], strict=False))):
        inversion = operations.Inversion(
            node,
            net.trained.config.model,
            variables["params"][node.layer],
            variables["batch_stats"].get(node.layer, {}),
            features[previous.feature] if previous else inputs,
            rectify or jax.nn.relu,
        )
        x = node.operation.invert(x, inversion)
    return x


def path_to(net: "Network", layer: str) -> list[operations.Node]:
    """Return the operations from the input to `layer`, in order. Raises ConfigError."""
    path: list[operations.Node] = []
    for name, spec in net.trained.config.model.convs:
        for node in operations.nodes(name, spec):
            path.append(node)
            if node.feature == layer:
                return path
        if name == layer:
            return path
    raise ConfigError(
        f"{layer!r} is not a feature of a convolution; the layers are "
        f"{', '.join(name for name, _ in net.trained.config.model.convs)}"
    )


def window(net: "Network", layer: str, place) -> tuple[slice, slice]:
    """Return the receptive field of the activation of `layer` at `place` (row, column), as slices of the crop.

    A window that extends over the border is moved inward, so that all windows of a layer have the same size.
    """
    crop, slices = net.trained.config.augment.crop_size, []
    for index in place:
        first = last = int(index)
        for node in reversed(path_to(net, layer)):
            if seen := node.operation.window(node):
                first = first * seen.stride - seen.pad
                last = last * seen.stride - seen.pad + seen.size - 1
        size = min(last - first + 1, crop)
        first = min(max(first, 0), crop - size)
        slices.append(slice(first, first + size))
    return slices[0], slices[1]


def _shape(net: "Network", layer: str) -> tuple[int, ...]:
    path_to(net, layer)
    return net.shape_of(layer)


def _contrasted(projected: np.ndarray) -> np.ndarray:
    """Convert projections to uint8: 0 is mid-gray, and the largest magnitude in each image is full scale."""
    largest = np.abs(projected).max(axis=(1, 2, 3), keepdims=True)
    scaled = 0.5 + 0.5 * projected / np.where(largest > 0, largest, 1)
    return np.rint(255 * scaled).astype(np.uint8)


def _draw(blocks, numbers: dict, towers: int):
    from matplotlib.figure import Figure

    columns = min(2, len(blocks))
    rows = math.ceil(len(blocks) / columns)
    figure = Figure(figsize=(5.6 * columns, 3.05 * rows), layout="constrained")
    parts = np.atleast_2d(figure.subfigures(rows, columns, squeeze=False))
    for part, block, row in zip(parts.flat, blocks, numbers["maps"], strict=False):
        tower = f", tower {row['tower']}" if towers > 1 else ""
        left, right = part.subplots(1, 2)
        strongest = row["images"][0]["activation"]
        figures.show(left, _mosaic(block[0]), f"{numbers['layer']}, map {row['map']}{tower}")
        figures.show(right, _mosaic(block[1]), f"image patches, activation up to {strongest:.3g}")
    return figure


def _mosaic(tiles: Sequence[np.ndarray]) -> np.ndarray:
    return figures.mosaic(np.stack(tiles), SIDE, SIDE, gap=max(len(tiles[0]) // 24, 1))


if __name__ == "__main__":
    cli.run(main)
