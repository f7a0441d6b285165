"""Write an atlas of a trained network: for each layer a page with what its maps respond to, and an index.

alexnet atlas --workdir runs/mine [--layers conv1 conv5] [--maps 16] [--out DIR]

Writes index.html and a page for each layer into WORKDIR/atlas. Each page is one file, smaller than about 5 MB. Where
there are no images, as for a weights file alone, the atlas leaves out what needs them.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_jax import cli, files
from alexnet_jax.analysis import (
    activations,
    atlas_pages,
    deconvnet,
    figures,
    maximization,
    pictures,
    tuning,
)
from alexnet_jax.analysis.atlas_pages import Examples, Layer
from alexnet_jax.analysis.maximization import Recipe
from alexnet_jax.data.pipeline import splits
from alexnet_jax.errors import ConfigError, DataError, StorageError, listed
from alexnet_jax.model import geometry

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network

#: Maps of a layer that are shown by default, and at most: more would make pages of more than 5 MB.
MAPS, MOST_MAPS = 16, 100
#: Images in which the strongest activations are searched, by default.
IMAGES = 1000

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Run `alexnet atlas`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", required=True, help="a run folder, or a .safetensors file")
    cli.add_step(parser)
    parser.add_argument(
        "--layers", nargs="+", metavar="LAYER", help="such as conv1 fc8; default: all"
    )
    parser.add_argument(
        "--maps", type=int, default=MAPS, metavar="N",
        help=f"maps or units shown of each layer, evenly spaced, at most {MOST_MAPS}; default: {MAPS}",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, default=maximization.DEFAULT.steps, metavar="N",
        help=f"optimization steps for each picture; default: {maximization.DEFAULT.steps}",
    )  # fmt: skip
    pictures.add_arguments(parser)
    parser.add_argument(
        "--count", type=int, default=IMAGES, metavar="N",
        help=f"random images of the split to search; default: {IMAGES}",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of pictures and images; default: 0")
    parser.add_argument("--out", metavar="DIR", help="folder of the pages; default: WORKDIR/atlas")
    options = parser.parse_args(arguments)
    _check(options)
    folder = figures.folder(options, "atlas")
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    layers = choose(net, options.layers, options.maps)
    split, reason = _find_images(net, options)
    recipe = Recipe(steps=options.steps, seed=options.seed)
    print(write(net, layers, folder, recipe, split, options.count, reason))


def _check(options: argparse.Namespace) -> None:
    faults = []
    if not 1 <= options.maps <= MOST_MAPS:
        faults.append(f"--maps is from 1 to {MOST_MAPS}, not {options.maps}")
    faults += [
        f"--{name} is at least {least}, not {value}"
        for name, least in (("steps", 1), ("count", 1), ("seed", 0))
        if (value := getattr(options, name)) < least
    ]
    if faults:
        raise ConfigError("; ".join(faults))


def _find_images(
    net: "Network", options: argparse.Namespace
) -> tuple[tuple[str, splits.Split] | None, str]:
    """Return (name, split), or None and why there are no images.

    Raises DataError if --split or --data-path asks for images.
    """
    try:
        name, dataset = pictures.load_split(net.trained, options.data_path, options.split)
    except DataError as error:
        if options.split or options.data_path:
            raise
        log.warning("no images: %s", error)
        return None, str(error)
    return (name, dataset.splits[name]), ""


def choose(net: "Network", names: Sequence[str] | None, maps: int) -> list[Layer]:
    """List layers with `maps` evenly spaced maps of each, or all if there are fewer. Raises ConfigError."""
    config, found, cost = net.trained.config, [], 0
    known = [name for name, _ in config.model.layers]
    if unknown := [name for name in names or () if name not in known]:
        raise ConfigError(
            f"--layers: there is no {listed(unknown)}; the layers are {', '.join(known)}"
        )
    described = {
        layer.name: layer
        for layer in geometry.layers(config.model, config.augment.crop_size, len(net.class_names))
    }
    measured = activations.features(net)
    for name, (feature, towers) in zip(known, measured.items(), strict=True):
        cost += described[name].multiply_adds
        if names and name not in names:
            continue
        *places, count = net.shapes[feature]
        kind = "maps" if places else "classes" if name == known[-1] else "units"
        shown = np.unique((np.arange(min(maps, count)) + 0.5) * count // min(maps, count))
        shown = shown.astype(int).tolist()
        field = described[name].receptive_field
        found.append(Layer(name, kind, feature, count, towers, shown, field, cost))
    return found


def write(
    net: "Network", layers: Sequence[Layer], folder: Path, recipe: Recipe = maximization.DEFAULT,
    split: tuple[str, splits.Split] | None = None, count: int = IMAGES, reason: str = "",
) -> Path:  # fmt: skip
    """Write the pages of `layers` and the index into `folder`, with progress on standard error; return the index.

    Args:
      recipe: How pictures are optimized.
      split: Its name and images, of which `count` random ones are searched; None: none.
      reason: Why there are no images.

    Raises:
      StorageError: A page cannot be written.
    """
    _say(cost(net, layers, recipe, 0 if split is None else min(count, len(split[1].labels))))
    examples = None if split is None else search(net, layers, *split, count, recipe.seed)
    facts = f"{net.trained.config.name}, step {net.trained.step:,}"
    names, summaries = [layer.name for layer in layers], []
    for layer in layers:
        start = time.monotonic()
        feature = maximization.before_activation(net, layer.name)
        optimized = maximization.maximize(net, feature, np.array(layer.maps), recipe)
        page, summary = atlas_pages.layer_page(
            net, layer, optimized, examples, names, facts, reason
        )
        _write(folder / f"{layer.name}.html", page)
        summaries.append(summary)
        shown = f"{len(layer.maps)} of {layer.count} {layer.kind}"
        _say(f"{layer.name}: {shown}, {time.monotonic() - start:.0f} s")
    path = folder / "index.html"
    _write(path, atlas_pages.index_page(net, summaries, examples, facts, reason, recipe))
    return path


def cost(net: "Network", layers: Sequence[Layer], recipe: Recipe, images: int) -> str:
    """Describe the work: a step is a forward and a backward pass, which is as much as two forward ones."""
    pictures_made = sum(len(layer.maps) for layer in layers)
    products = sum(3 * recipe.steps * len(layer.maps) * layer.multiply_adds for layer in layers)
    products += images * layers[-1].multiply_adds
    if layers[0].name == net.trained.config.model.convs[0][0]:
        products += tuning.GRATINGS * layers[0].multiply_adds
    return (
        f"{pictures_made} pictures of {recipe.steps} steps and {images:,} images: "
        f"about {products / 1e6:,.0f} million multiply-adds"
    )


def search(
    net: "Network", layers: Sequence[Layer], name: str, split: splits.Split, count: int, seed: int
) -> Examples:
    """Measure the maps of all layers in `count` random images of a split, or all if there are fewer, in memory."""
    chosen = splits.drawn(len(split.labels), count, seed)
    pixels = np.asarray(split.images[chosen])
    wanted = {layer.feature: layer.maps for layer in layers}
    strengths = deconvnet.all_strengths(net, pixels, wanted)
    return Examples(name, pixels, split.labels[chosen], strengths)


def _write(path: Path, page: str) -> None:
    try:
        files.write_atomically(path, page)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
