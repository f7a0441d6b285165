"""The pages of the atlas: one for each layer, with a card for each map, and the index."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from markupsafe import Markup

from alexnet_jax.analysis import deconvnet, filters, maximization, pictures, tuning
from alexnet_jax.analysis.maximization import Recipe
from alexnet_jax.evaluation import lesion
from alexnet_jax.model.geometry import tower_of
from alexnet_jax.pages import charts
from alexnet_jax.pages.render import data_uri, render

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network

#: Strongest images of each map, and classes with the highest mean activation.
BEST, TOP = 9, 3
#: Largest sides in pixels of optimized pictures and of patches, which bound the size of a page.
PICTURE, PATCH = 160, 72
#: Images up to this side are PNG and enlarged without smoothing; larger ones are WebP.
SMALL = 40
#: Pictures of each layer in the index.
IN_INDEX = 8
#: Properties of tuning.COMPARED for readers.
PROPERTIES = {
    "color_index": "color index (-1 brightness alone, 1 color alone)",
    "orientation_selectivity": "orientation selectivity (0 none, 1 one orientation)",
    "log2_frequency": "preferred spatial frequency (log2 of cycles per pixel)",
}


@dataclass(frozen=True)
class Layer:
    """A layer, and its maps or units that are shown."""

    name: str
    #: What is shown: maps, units or classes.
    kind: str
    #: The output of its activation function, or of the layer if it has none.
    feature: str
    #: How many there are, and the towers they are divided into.
    count: int
    towers: int
    #: Numbers of those shown.
    maps: list[int]
    #: Side of the receptive field in pixels, and multiply-adds per image from the input to this layer.
    field: int
    multiply_adds: int


class Examples(NamedTuple):
    """The images in which activations are measured."""

    split: str
    #: uint8 [n s s 3].
    pixels: np.ndarray
    #: int [n].
    labels: np.ndarray
    #: Feature -> float32 [n maps 3], as deconvnet.strengths.
    strengths: dict[str, np.ndarray]


def layer_page(
    net: "Network", layer: Layer, optimized: np.ndarray, examples: Examples | None,
    names: Sequence[str], facts: str, reason: str,
) -> tuple[Markup, dict[str, Any]]:  # fmt: skip
    """Render the page of a layer, and return with it what the index shows of the layer.

    Args:
      optimized: The picture of each map, uint8 [maps c c 3].
      examples: The images; None: there are none, for `reason`.
      names: The names of all layers of the atlas.
    """
    excited = maximization.excitation(net, layer.feature, np.array(layer.maps), optimized)
    y, x = _window(net, layer)
    cards: list[dict[str, Any]] = []
    for i, number in enumerate(layer.maps):
        tower = tower_of(number, layer.count, layer.towers) + 1 if layer.towers > 1 else None
        cards.append({"title": _title(net, layer, number), "tower": tower, "excited": float(excited[i]),
                      "picture": _thumbnail(optimized[i][y, x], PICTURE, "the optimized picture"),
                      "patches": None, "classes": None, "selectivity": None, "tuning": None})  # fmt: skip
    if examples is not None:
        for i, card in enumerate(cards):
            card |= _strongest(net, layer, i, examples)
    towers: list[tuple[str, ...]] = []
    if layer.name == net.trained.config.model.convs[0][0]:
        towers = _add_tuning(net, layer, cards)
    strip = [card["picture"] for card in cards[:IN_INDEX]]
    page = render(
        "atlas_layer.html", title=layer.name, facts=facts, layer=layer, layers=names, cards=cards,
        header=["mean over all maps", *(f"tower {i + 1}" for i in range(layer.towers)), "p"],
        towers=towers, examples=examples, reason=reason,
    )  # fmt: skip
    return page, {"layer": layer, "strip": strip}


def index_page(
    net: "Network", summaries: list[dict[str, Any]], examples: Examples | None, facts: str,
    reason: str, recipe: Recipe,
) -> Markup:  # fmt: skip
    """Render the index.

    Args:
      summaries: What `layer_page` returned for each layer.
    """
    return render(
        "atlas_index.html", title="Atlas", facts=facts, summaries=summaries, examples=examples,
        reason=reason, recipe=recipe, crop=net.trained.config.augment.crop_size,
    )  # fmt: skip


def class_selectivity(means: np.ndarray) -> float | None:
    """Return the class selectivity of a map (lesion.selectivity), from its mean activation by each class [k].

    None where it is not defined: for negative means, a map that is never active, and a single class.
    """
    found = lesion.selectivity(means[:, None])
    return None if found is None or means.max() <= 0 else float(found[0])


def _title(net: "Network", layer: Layer, number: int) -> str:
    if layer.kind == "classes":
        return net.class_names[number].replace("_", " ")  # so that long names wrap between words
    return f"{layer.kind.capitalize().removesuffix('s')} {number}"


def _window(net: "Network", layer: Layer, place: Any = None) -> tuple[slice, slice]:
    """The receptive field of a unit of the layer, by default the central one, as slices of the crop."""
    shape = net.shapes[layer.feature]
    if len(shape) == 1:
        return slice(None), slice(None)
    return deconvnet.window(
        net, layer.feature, (shape[0] // 2, shape[1] // 2) if place is None else place
    )


def _strongest(net: "Network", layer: Layer, i: int, examples: Examples) -> dict[str, Any]:
    """The patches that excite the i-th map shown most, and the classes by its mean activation."""
    found = examples.strengths[layer.feature][:, i]
    values = found[:, 0].astype(np.float64)
    if values.min() == values.max() <= 0:  # a silent map, which no image excites more than another
        return {"patches": []}
    best = np.argsort(-values, kind="stable")[:BEST]
    patches = []
    for j, crop in zip(best, pictures.crops(net, examples.pixels[best]), strict=True):
        y, x = _window(net, layer, found[j, 1:].astype(int))
        name = f"{net.class_names[examples.labels[j]]}, {values[j]:.3g}"
        patches.append(_thumbnail(crop[y, x], PATCH, name))
    present = np.unique(examples.labels)
    means = np.array([values[examples.labels == label].mean() for label in present])
    order, largest = np.argsort(-means, kind="stable")[:TOP], np.abs(means).max()
    classes = [
        (net.class_names[present[j]], max(means[j] / largest, 0.0), f"{means[j]:.3g}")
        for j in order
    ]
    negative = layer.kind == "classes" or values.min() < 0  # the index is for rates
    return {"patches": patches, "strongest": values.max(), "classes": classes,
            "selectivity": None if negative else class_selectivity(means)}  # fmt: skip


def _add_tuning(net: "Network", layer: Layer, cards: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Add kernel and tuning to the cards of the first layer, and return the rows of the table that compares towers.

    There are no rows for one tower, and nothing is added if the layer is locally connected.
    """
    kernel = np.asarray(net.trained.params[layer.name]["kernel"], np.float32)
    if kernel.ndim != 4:
        return []
    measured = tuning.measure(net)
    maps, tiles = tuning.describe(measured), filters.tiles(kernel)
    for card, number in zip(cards, layer.maps, strict=True):
        one = maps[number]
        card["tuning"] = {"kernel": _thumbnail(tiles[number], PICTURE, "kernel"), **one}
        if one["response"] > 0:
            curve = measured.orientations.tolist(), one["by_orientation"]
            card["tuning"]["curve"] = charts.polar("responses by orientation", *curve)
            card["tuning"]["colors"] = [
                (color, value / one["response"], f"{value:.3g}")
                for color, value in one["by_color"].items()
            ]
    if layer.towers == 1:
        return []
    return [
        (PROPERTIES[name], *("-" if mean is None else f"{mean:.2f}" for mean in found["means"]),
         "-" if found["p"] is None else f"{found['p']:.2g}")
        for name, found in tuning.compare(maps, layer.towers).items()
    ]  # fmt: skip


def _thumbnail(pixels: np.ndarray, largest: int, name: str) -> dict[str, Any]:
    """Return the arguments of the image macro in macros.html, for an image of at most `largest` pixels a side."""
    from PIL import Image

    if max(pixels.shape[:2]) > largest:
        pixels = np.asarray(
            Image.fromarray(pixels).resize((largest, largest), Image.Resampling.LANCZOS)
        )
    small = max(pixels.shape[:2]) <= SMALL
    return {"name": name, "small": small, "uri": data_uri(pixels, "PNG" if small else "WebP")}
