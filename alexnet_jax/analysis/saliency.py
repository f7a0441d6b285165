"""Draw which pixels matter for a class: the gradient of its logit, Grad-CAM, and the attributions of attributions.py.

alexnet figures saliency --workdir runs/mine [--images tulip.jpg] [--class rose] [--methods occlusion smoothgrad]

Writes figures/saliency.png and saliency.json.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import attributions, figures, pictures
from alexnet_jax.analysis.attributions import checked_classes, logits_of
from alexnet_jax.analysis.pictures import Pictures
from alexnet_jax.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet_jax.inference.network import Network

#: Method -> its name in the figure.
METHODS = {
    "gradient": "gradient", "grad_cam": "Grad-CAM", "occlusion": "occlusion",
    "integrated_gradients": "integrated\ngradients", "smoothgrad": "SmoothGrad",
}  # fmt: skip
DEFAULT_METHODS = ("gradient", "grad_cam")


def main(arguments: list[str]) -> None:
    parser = figures.parser(__doc__ or "")
    pictures.add_arguments(parser, count=8)
    parser.add_argument(
        "--class",
        dest="class_name",
        help="the class to explain; default: the predicted class of each image",
    )
    parser.add_argument(
        "--layer",
        help="feature maps for Grad-CAM; default: those of the last convolution before its pool",
    )
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=DEFAULT_METHODS, metavar="METHOD",
        help=f"{', '.join(METHODS)}; default: {' '.join(DEFAULT_METHODS)}",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "saliency.png"
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    name = options.class_name
    number = None if name is None else net.class_number(name)
    shown = pictures.select(net, options)
    print(plot(net, shown, path, number, options.layer, options.methods))


def plot(
    net: "Network", shown: Pictures, path: Path, class_number: int | None = None,
    layer: str | None = None, methods: Sequence[str] = DEFAULT_METHODS,
) -> Path:  # fmt: skip
    """Draw a column for each image: center crop, then a map for each method, each with its own scale.

    Writes a PNG and its numbers as JSON beside it.

    Args:
      class_number: The class to explain; default: the predicted class of each image.
      layer: For Grad-CAM.
      methods: Some of METHODS.
    """
    layer = layer or last_maps(net)
    probabilities = net.predict(shown.pixels)
    predicted = probabilities.argmax(axis=1)
    classes = predicted if class_number is None else np.full(len(predicted), class_number)
    maps = {name: _maps(net, name, shown.pixels, classes, layer) for name in methods}
    rows = []
    for i, name in enumerate(shown.names):
        rows.append(
            {
                "image": name,
                "label": None if shown.labels is None else net.class_names[shown.labels[i]],
                "predicted": net.class_names[predicted[i]],
                "class": net.class_names[classes[i]],
                "probability": round(float(probabilities[i, classes[i]]), 4),
            }
            | _numbers({method: found[i] for method, found in maps.items()})
        )
    numbers = {"step": net.trained.step, "layer": layer, "methods": list(maps), "images": rows}
    return figures.save(_draw(pictures.crops(net, shown.pixels), maps, numbers), numbers, path)


def _maps(
    net: "Network", method: str, pixels: np.ndarray, classes: np.ndarray, layer: str
) -> np.ndarray:
    """The maps [n h w] of a method."""
    if method == "grad_cam":
        return grad_cam(net, pixels, classes, layer)
    functions = {
        "gradient": gradient,
        "occlusion": attributions.occlusion,
        "integrated_gradients": attributions.integrated_gradients,
        "smoothgrad": attributions.smoothgrad,
    }
    return functions[method](net, pixels, classes)


def _numbers(maps: dict[str, np.ndarray]) -> dict[str, Any]:
    """Describe the maps of an image: small ones as they are, large ones by their largest value or sum."""
    found: dict[str, Any] = {}
    for method, values in maps.items():
        match method:
            case "grad_cam" | "occlusion":
                found[method] = values.tolist()
            case "integrated_gradients":
                found["sum_of_integrated_gradients"] = float(values.sum())
            case _:
                found[f"largest_{method}"] = float(values.max())
    return found


def _draw(crops: np.ndarray, maps: dict[str, np.ndarray], numbers: dict[str, Any]) -> "Figure":
    from matplotlib.figure import Figure

    size, rows = (1.7 * len(crops) + 0.4, 0.2 + 1.9 * (1 + len(maps))), 1 + len(maps)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, len(crops), squeeze=False)
    for i, row in enumerate(numbers["images"]):
        figures.show(grid[0, i], crops[i], figures.short(row["label"] or Path(row["image"]).name))
        for axes, (method, found) in zip(grid[1:, i], maps.items(), strict=True):
            _show(axes, method, found[i], crops[i])
        right = row["label"] in (None, row["predicted"])
        caption = f"{figures.short(row['class'])} {row['probability']:.0%}"
        color = figures.RIGHT if right else figures.WRONG
        grid[1, i].set_title(caption, fontsize=9, color=color)
    labels = {**METHODS, "grad_cam": f"Grad-CAM, {numbers['layer']}"}
    for axes, label in zip(grid[:, 0], ["center crop", *map(labels.get, maps)], strict=True):
        axes.set_ylabel(label, fontsize=9)
    if any(row["label"] for row in numbers["images"]):
        colors = {"predicted class = label": figures.RIGHT, "another class": figures.WRONG}
        figures.color_legend(figure, colors)
    return figure


def _show(axes: Any, method: str, values: np.ndarray, crop: np.ndarray) -> None:
    """Show a map: a coarse one over its image, a signed one in red (for the class) and blue (against it)."""
    if method not in ("grad_cam", "occlusion"):
        signed = method == "integrated_gradients"
        largest = float(np.quantile(np.abs(values), 0.995)) or 1.0
        scale = (
            {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest} if signed else {"cmap": "gray"}
        )
        figures.show(axes, values, **scale)
        return
    figures.show(axes, crop.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    low, high = 0.0, float(len(crop))
    if method == "occlusion":  # each value belongs to the middle of its square
        side = attributions.occluding_side(len(crop))
        half_step = (high - side) / max(len(values) - 1, 1) / 2
        low, high = side / 2 - half_step, high - side / 2 + half_step
    extent = (low - 0.5, high - 0.5, high - 0.5, low - 0.5)
    axes.imshow(values, cmap="inferno", alpha=0.6, interpolation="bilinear", extent=extent)
    axes.set_xlim(-0.5, len(crop) - 0.5)
    axes.set_ylim(len(crop) - 0.5, -0.5)


def gradient(net: "Network", pixels: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
    """Compute image-specific saliency maps (Simonyan, Vedaldi and Zisserman, 2014, section 3).

    A map is |derivative of a class logit with respect to the input of the network|, the maximum over the colors.

    Args:
      pixels: uint8 [n s s 3].
      classes: int [n]; default: the predicted classes.

    Returns:
      float32 [n c c], at the pixels of the center crops (`pictures.crops`).

    Raises:
      ConfigError: There is no such class.
    """
    import jax.numpy as jnp

    def maps(variables: Any, pixels: Any, classes: Any) -> Any:
        inputs = net.inputs(pixels)[:, 0]
        return jnp.abs(attributions.slopes(net, variables, inputs, classes)).max(axis=-1)

    return net.in_batches("gradient", maps, pixels, checked_classes(net, pixels, classes))


def grad_cam(
    net: "Network", pixels: np.ndarray, classes: np.ndarray | None = None, layer: str | None = None
) -> np.ndarray:
    """Compute class activation maps (Selvaraju et al., 2017, equations 1 and 2).

    relu(sum over the feature maps A of `layer` of weight * A), where the weight of a map is the mean over its
    positions of the derivative of the class logit. To show one, stretch it to the center crop (`pictures.crops`):
    but for padding, each position lies at the middle of its receptive field.

    Args:
      pixels: uint8 [n s s 3].
      classes: int [n]; default: the predicted classes.
      layer: A convolutional feature; default: `last_maps`.

    Returns:
      float32 [n h w].

    Raises:
      ConfigError: There is no such class or layer.
    """
    import jax
    import jax.numpy as jnp

    layer = layer or last_maps(net)
    if len(net.shapes.get(layer, ())) != 3:
        there = ", ".join(name for name, shape in net.shapes.items() if len(shape) == 3)
        raise ConfigError(f"the network has no maps {layer!r}; it has {there}")

    def maps(variables: Any, pixels: Any, classes: Any) -> Any:
        inputs = net.inputs(pixels)[:, 0]

        def logits(offset: Any) -> Any:
            edit = {layer: lambda x: x + offset}
            outputs: Any = net.model.apply(variables, inputs, train=False, edit=edit)
            return logits_of(outputs[0], classes).sum(), outputs[1][layer]

        zeros = jnp.zeros((len(pixels), *net.shapes[layer]), net.trained.config.model.compute_dtype)
        gradients, activations = jax.grad(logits, has_aux=True)(zeros)
        weights = gradients.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
        return jax.nn.relu((weights * activations).sum(axis=-1))

    return net.in_batches(f"grad_cam {layer}", maps, pixels, checked_classes(net, pixels, classes))


def last_maps(net: "Network") -> str:
    """The name of the feature maps of the last convolution before its pool, such as 'conv5/act'."""
    name, layer = net.trained.config.model.convs[-1]
    unpooled = layer.ops[: layer.ops.index("pool")] if "pool" in layer.ops else layer.ops
    return f"{name}/{unpooled[-1] if unpooled else 'linear'}"


if __name__ == "__main__":
    cli.run(main)
