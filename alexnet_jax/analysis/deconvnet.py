"""What in an image makes a map of a convolution strong: deconvolutional networks (Zeiler and Fergus, 2014).

Command: alexnet figures deconvnet --workdir runs/mine [--layer conv3] [--map 0 7]
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures, pictures
from alexnet_jax.analysis.saliency import last_maps
from alexnet_jax.errors import ConfigError
from alexnet_jax.specs import ConvSpec

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network

SIDE = 3
"""A map is shown by its SIDE x SIDE strongest images, as in the article's Figure 2."""


def main(arguments: list[str]) -> None:
    parser = figures.parser(
        "Draw what makes maps strong, in the images where they are strongest: figures/deconvnet.png and .json."
    )
    pictures.add_arguments(parser)
    parser.add_argument(
        "--layer", help="a convolution such as conv3; default: the last one, before its pool"
    )
    parser.add_argument(
        "--map", type=int, nargs="+", help="numbers of maps, from 0; default: four, equally far apart"
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
    """A PNG at `path` and its numbers as JSON beside it.

    For each of `maps` its nine strongest images: the projections, each with its own contrast, and beside them the
    patches that the activations see.
    """
    strongest = strengths(net, split.images, layer, maps)
    towers, every = net.trained.config.model.towers, _shape(net, layer)[-1]
    blocks, rows = [], []
    for number, of_map in zip(maps, np.moveaxis(strongest, 1, 0), strict=True):
        best = np.argsort(-of_map[:, 0], kind="stable")[: SIDE**2]
        pixels = np.asarray(split.images[best])
        projected = project(net, pixels, layer, np.full(len(best), number))
        seen = pictures.crops(net, pixels)
        places = of_map[best, 1:].astype(int)
        windows = [window(net, layer, place) for place in places]
        blocks.append([[image[w] for image, w in zip(images, windows, strict=True)]
                       for images in (_contrasted(projected), seen)])  # fmt: skip
        images = [
            {
                "image": f"{split_name} {index}",
                "label": net.class_names[split.labels[index]],
                "activation": float(of_map[index, 0]),
                "place": place.tolist(),
            }
            for index, place in zip(best.tolist(), places, strict=True)
        ]
        rows.append({"map": number, "tower": number * towers // every + 1, "images": images})
    numbers = {"step": net.trained.step, "layer": layer, "maps": rows}
    return figures.save(_draw(blocks, numbers, towers), numbers, path)


def strengths(net: "Network", images, layer: str, maps: list[int]) -> np.ndarray:
    """float32 [n maps 3]: of each of `maps` the largest activation in each image, and its row and column."""
    import jax.numpy as jnp

    def of_images(variables, pixels):
        inputs = net.inputs(pixels)[:, 0]
        features: Any = net.model.apply(variables, inputs, train=False)[1]
        wanted = features[layer][..., np.array(maps)].astype(jnp.float32)
        flat = wanted.reshape(len(pixels), -1, len(maps))
        places = jnp.unravel_index(flat.argmax(axis=1), wanted.shape[1:3])
        return jnp.stack([flat.max(axis=1), *places], axis=-1)

    return np.concatenate(
        list(net.map_batches(net.jitted(f"strengths {layer} {maps}", of_images), images))
    )


def project(net: "Network", pixels: np.ndarray, layer: str, maps: np.ndarray) -> np.ndarray:
    """The largest activation of map maps[i] in image i, back at the input: float32 [n c c 3], over the center crop.

    pixels uint8 [n s s 3], maps int [n]; all other activations of `layer` are 0. Raises ConfigError where `layer` is
    no feature of a convolution.
    """
    import jax
    import jax.numpy as jnp

    shape = _shape(net, layer)

    def of_batch(variables, pixels, maps):
        inputs = net.inputs(pixels)[:, 0]
        features: Any = net.model.apply(variables, inputs, train=False)[1]
        features = {name: x.astype(jnp.float32) for name, x in features.items()}
        chosen = jax.nn.one_hot(maps, shape[-1])[:, None, None, :]
        own = jnp.where(chosen > 0, features[layer], -jnp.inf).reshape(len(maps), -1)
        largest = jax.nn.one_hot(own.argmax(axis=1), own.shape[1]) * own.max(axis=1, keepdims=True)
        start = largest.reshape(-1, *shape)
        return deconvolve(net, variables, inputs, features, layer, start)

    return net.in_batches(f"project {layer}", of_batch, pixels, np.asarray(maps))


def deconvolve(
    net: "Network",
    variables,
    inputs,
    features: dict,
    layer: str,
    x,
    rectify: Callable | None = None,
):
    """`x` [n h w maps] at `layer` -> [n c c 3] at the input, backwards through what the net did to `inputs`.

    Section 2.1 of the article, stage for stage: a max-pool puts each value where its window's maximum was (the
    switches; the first of equal ones) and adds where windows overlap, ReLUs rectify (`rectify`, by default ReLU
    itself), convolutions apply their kernels transposed, without biases. The article says nothing of response
    normalization: it is passed through unchanged, as are dropout and activations other than ReLU. An average pool
    spreads each value over its window; batch normalization multiplies by its factors.
    """
    import jax

    model = net.trained.config.model
    rectify = rectify or jax.nn.relu
    for stage in reversed(stages(net, layer)):
        before = inputs if stage.before is None else features[stage.before]
        match stage.operation:
            case "linear":
                kernel = variables["params"][stage.name]["kernel"]
                x = _transposed(stage.row, kernel, before, x)
            case "act" if model.activation == "relu":
                x = rectify(x)
            case "pool":
                x = unpool(before, x, stage.row.pool)
            case "batch_norm":
                var = variables["batch_stats"][stage.name]["var"] + model.batch_norm.epsilon
                x = x * variables["params"][stage.name]["scale"] / var**0.5
    return x


def unpool(before, x, pool):
    """`x` [n h w c] at the outputs of a pool -> at its inputs `before`: at the maxima, or spread equally."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from alexnet_jax.model import ops

    if pool.kind == "average":

        def average(before):
            return ops.average_pool(
                before, window=pool.window, stride=pool.stride, rounding=pool.rounding
            )

        return jax.vjp(average, before)[1](x)[0]

    # A last window may hang over the border: nothing there is the maximum.
    over = [
        max((count - 1) * pool.stride + pool.window - size, 0)
        for count, size in zip(x.shape[1:3], before.shape[1:3], strict=True)
    ]

    def maximum(before):
        return lax.reduce_window(
            before, -jnp.inf, lax.max, (1, pool.window, pool.window, 1),
            (1, pool.stride, pool.stride, 1), ((0, 0), (0, over[0]), (0, over[1]), (0, 0)),
        )  # fmt: skip

    # Its gradient goes to the first maximum of a window; that of ops.max_pool goes to all.
    return jax.vjp(maximum, before)[1](x)[0]


class Stage(NamedTuple):
    name: str
    """Of the row."""
    row: ConvSpec
    operation: str
    before: str | None
    """The feature that it is applied to; None: the input."""


def stages(net: "Network", layer: str) -> list[Stage]:
    """What leads from the input to `layer`, in order. Raises ConfigError."""
    found, before = [], None
    for name, row in net.trained.config.model.convs:
        for operation in ("linear", *row.ops):
            found.append(Stage(name, row, operation, before))
            before = f"{name}/{operation}"
            if before == layer:
                return found
        if name == layer:
            return found
    raise ConfigError(
        f"{layer!r} is no feature of a convolution; the rows are "
        f"{', '.join(name for name, _ in net.trained.config.model.convs)}"
    )


def window(net: "Network", layer: str, place) -> tuple[slice, slice]:
    """The rows and columns of the crop that the activation of `layer` at `place` (row, column) sees.

    Where it sees beyond the border, the window is moved inwards: all of a layer have the same size.
    """
    crop, slices = net.trained.config.augment.crop_size, []
    for index in place:
        first = last = int(index)
        for stage in reversed(stages(net, layer)):
            if stage.operation == "linear":
                first = first * stage.row.stride - stage.row.pad[0]
                last = last * stage.row.stride - stage.row.pad[0] + stage.row.kernel - 1
            elif stage.operation == "pool" and stage.row.pool:
                first = first * stage.row.pool.stride
                last = last * stage.row.pool.stride + stage.row.pool.window - 1
        size = min(last - first + 1, crop)
        first = min(max(first, 0), crop - size)
        slices.append(slice(first, first + size))
    return slices[0], slices[1]


def _transposed(row: ConvSpec, kernel, before, x):
    import jax
    import jax.numpy as jnp

    from alexnet_jax.kernels import convolution

    def linear(before):
        if row.kind == "local":
            return convolution.locally_connected(before, kernel, stride=row.stride, pad=row.pad)
        return convolution.convolution(
            before, kernel, stride=row.stride, pad=row.pad, groups=row.groups
        )

    return jax.vjp(linear, jnp.zeros_like(before))[1](x)[0]


def _shape(net: "Network", layer: str) -> tuple[int, ...]:
    stages(net, layer)
    return net.shape_of(layer)


def _contrasted(projected: np.ndarray) -> np.ndarray:
    """uint8; 0 is mid-gray, the largest value of each image is full scale."""
    largest = np.abs(projected).max(axis=(1, 2, 3), keepdims=True)
    scaled = 0.5 + 0.5 * projected / np.where(largest > 0, largest, 1)
    return np.rint(255 * scaled).astype(np.uint8)


def _draw(blocks, numbers: dict, towers: int):
    from matplotlib.figure import Figure

    columns = min(2, len(blocks))
    lines = -(-len(blocks) // columns)
    figure = Figure(figsize=(5.6 * columns, 3.05 * lines), layout="constrained")
    parts = np.atleast_2d(figure.subfigures(lines, columns, squeeze=False))
    for part, block, row in zip(parts.flat, blocks, numbers["maps"], strict=False):
        tower = f", tower {row['tower']}" if towers > 1 else ""
        left, right = part.subplots(1, 2)
        strongest = row["images"][0]["activation"]
        figures.show(left, _mosaic(block[0]), f"{numbers['layer']}, map {row['map']}{tower}")
        figures.show(right, _mosaic(block[1]), f"where it is strongest: up to {strongest:.3g}")
    return figure


def _mosaic(tiles: list[np.ndarray]) -> np.ndarray:
    """Tiles of one size as one image, SIDE in a row, white between them."""
    height, width = tiles[0].shape[:2]
    gap = max(height // 24, 1)
    canvas = np.full((SIDE * (height + gap) - gap, SIDE * (width + gap) - gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // SIDE * (height + gap), i % SIDE * (width + gap)
        canvas[y : y + height, x : x + width] = tile
    return canvas


if __name__ == "__main__":
    cli.run(main)
