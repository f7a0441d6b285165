"""Give an image the activations of another, layer by layer and map by map (activation patching).

alexnet figures patching --workdir runs/mine [--images tulip.jpg rose.jpg] [--layer conv3 conv5]

The target image is predicted with the maps of a layer that the source image has. The effect is the change of the logit
of the source's class minus that of the target's class, as a fraction of their difference between the images: 0 is the
target, 1 is the source. Writes figures/patching.png and patching.json.
"""

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures, pictures
from alexnet_jax.analysis.pictures import Pictures
from alexnet_jax.errors import ConfigError
from alexnet_jax.model.geometry import tower_of, towers_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet_jax.inference.network import Network

#: How many random images of a split the pair is chosen from.
SEARCHED = 64
#: How many maps of a layer the table names.
NAMED = 3


def main(arguments: list[str]) -> None:
    """Run `alexnet figures patching`."""
    parser = figures.parser(__doc__ or "")
    pictures.add_arguments(parser)
    parser.add_argument(
        "--images", nargs=2, metavar=("SOURCE", "TARGET"), help="two image files; default: random images of --split "
        "that are predicted as different classes, correctly if possible",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, help="of the choice from --split; default: 0"
    )
    parser.add_argument("--layer", nargs="+", help="layers such as conv5; default: all")
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "patching.png"
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    layers = options.layer or [name for name, _ in net.trained.config.model.layers]
    for layer in layers:
        net.shape_of(layer)  # raises ConfigError before any work
    shown = _pair(net, options)
    numbers = effects(net, shown, layers)
    print(table(numbers))
    print(figures.save(_draw(pictures.crops(net, shown.pixels), numbers), numbers, path))


def _pair(net: "Network", options: argparse.Namespace) -> Pictures:
    """The source and the target image. Raises ConfigError and DataError."""
    if options.images:
        paths = pictures.list_files(options.images)
        if len(paths) != 2:
            raise ConfigError(f"--images are two files, not {len(paths)}")
        return Pictures(net.pixels(paths), None, list(map(str, paths)))
    name, dataset = pictures.load_split(net.trained, options.data_path, options.split)
    split = dataset.splits[name]
    found = pictures.sample(split, name, min(SEARCHED, len(split.labels)), options.seed)
    labels = np.asarray(found.labels)
    predicted = net.predict(found.pixels).argmax(axis=1)
    order = np.argsort(predicted != labels, kind="stable")  # the right ones first
    others = [i for i in order if predicted[i] != predicted[order[0]]]
    if not others:
        raise ConfigError(
            f"{len(predicted)} images of {name} are all predicted as {net.class_names[predicted[0]]}; choose two with "
            "--images"
        )
    pair = np.array([order[0], others[0]])
    return Pictures(found.pixels[pair], labels[pair], [found.names[i] for i in pair])


def effects(net: "Network", pair: Pictures, layers: list[str]) -> dict[str, Any]:
    """Patch the first image of `pair` into the second.

    Returns:
        {"step", "images": [{"image", "label", "predicted", "probabilities"}] of source and target, "layers"}.
        "probabilities" are those of the two predicted classes. "layers" has, for each of `layers`, {"layer", "effect",
        "probabilities", "towers", "maps"}: the effect of all maps and the probabilities after it, the effects of the
        maps of each tower (none for a layer that has no towers) and those of each single map.

    Raises:
        ConfigError: Both images have the same predicted class.
    """
    last = net.trained.config.model.layers[-1][0]
    logits = net.features(pair.pixels, last)
    classes = logits.argmax(axis=1)
    if classes[0] == classes[1]:
        raise ConfigError(
            f"both images are predicted as {net.class_names[classes[0]]}: choose two of different classes"
        )
    images = [
        {
            "image": name,
            "label": None if pair.labels is None else net.class_names[pair.labels[i]],
            "predicted": net.class_names[classes[i]],
            "probabilities": _probabilities(logits[i])[classes].tolist(),
        }
        for i, name in enumerate(pair.names)
    ]
    start, end = (_difference(logits[i], classes) for i in (1, 0))
    found = []
    for layer in layers:
        towers = _tower_masks(net, layer)
        units = net.shapes[layer][-1]
        masks = np.concatenate([np.ones((1, units), bool), towers, np.eye(units, dtype=bool)])
        patched = net.patch(pair.pixels[:1], pair.pixels[1:], layer, masks)[0]
        effect = ((_difference(patched, classes) - start) / (end - start)).tolist()
        found.append(
            {
                "layer": layer,
                "effect": effect[0],
                "probabilities": _probabilities(patched[0])[classes].tolist(),
                "towers": effect[1 : 1 + len(towers)],
                "maps": effect[1 + len(towers) :],
            }
        )
    return {"step": net.trained.step, "images": images, "layers": found}


def _difference(logits: np.ndarray, classes: np.ndarray) -> Any:
    """The logit of the source's class minus that of the target's."""
    return logits[..., classes[0]] - logits[..., classes[1]]


def _probabilities(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def _tower_masks(net: "Network", layer: str) -> np.ndarray:
    """A mask bool [towers units] for the maps of each tower; none for a layer that joins the towers."""
    units, towers = net.shapes[layer][-1], towers_of(net.trained.config.model, layer)
    if towers == 1:
        return np.zeros((0, units), bool)
    return tower_of(np.arange(units), units, towers) == np.arange(towers)[:, None]


def table(numbers: dict[str, Any]) -> str:
    """Format the result of `effects` for a terminal."""
    source, target = numbers["images"]
    names = [source["predicted"], target["predicted"]]
    lines = [
        f"{role}: {one['image']}, {names[0]} {one['probabilities'][0]:.1%}, {names[1]} {one['probabilities'][1]:.1%}"
        for role, one in (("source", source), ("target", target))
    ]
    towers = max(len(one["towers"]) for one in numbers["layers"])
    header = ("layer", "all", *(f"tower {i + 1}" for i in range(towers)), "largest single maps")
    rows: list[tuple[str, ...]] = [header]
    for one in numbers["layers"]:
        best = np.argsort(-np.abs(one["maps"]), kind="stable")[:NAMED]
        single = ", ".join(f"{i}: {one['maps'][i]:+.3f}" for i in best)
        parts = [f"{effect:+.2f}" for effect in one["towers"]]
        rows.append((one["layer"], f"{one['effect']:+.2f}", *parts, *[""] * (towers - len(parts)), single))  # fmt: skip
    effect = "effect on the target of the source's maps (0: target, 1: source)"
    return "\n".join([*lines, "", effect, *cli.table(rows, right=range(1, 2 + towers)), ""])


def _draw(crops: np.ndarray, numbers: dict[str, Any]) -> "Figure":
    """Draw both images, and the effects of towers and of single maps by layer."""
    from matplotlib.figure import Figure

    layers = numbers["layers"]
    figure = Figure(figsize=(1.1 * len(layers) + 4.5, 4.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 0.55 * len(layers) + 0.8))
    for row, (role, one) in enumerate(zip(("source", "target"), numbers["images"], strict=True)):
        axes = figure.add_subplot(grid[row, 0])
        color = figures.WRONG if one["label"] not in (None, one["predicted"]) else "black"
        figures.show(axes, crops[row], f"{role}: {figures.short(one['predicted'])}", color)
    axes = figure.add_subplot(grid[:, 1])
    for place, one in enumerate(layers):
        spread = np.linspace(-0.3, 0.3, len(one["maps"])) if len(one["maps"]) > 1 else [0.0]
        axes.plot(place + np.array(spread), one["maps"], ".", ms=3, color="gray")
        for tower, effect in enumerate(one["towers"]):
            axes.plot(place, effect, "s", color=f"C{tower}")
        axes.plot(place, one["effect"], "_k", ms=24)
    axes.plot([], [], "_k", ms=12, label="all maps")
    for tower in range(max(len(one["towers"]) for one in layers)):
        axes.plot([], [], "s", color=f"C{tower}", label=f"tower {tower + 1}")
    axes.plot([], [], ".", color="gray", label="a single map or unit")
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    axes.set_xticks(range(len(layers)), [one["layer"] for one in layers], fontsize=9)
    axes.set_ylabel("effect (0: target, 1: source)")
    figures.plain(axes)
    return figure


if __name__ == "__main__":
    cli.run(main)
