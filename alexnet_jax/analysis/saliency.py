"""Draw which pixels matter for a class: the gradient of its logit, and Grad-CAM.

alexnet figures saliency --workdir runs/mine [--images tulip.jpg] [--class rose]

Writes figures/saliency.png and saliency.json.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures, pictures
from alexnet_jax.analysis.pictures import Pictures
from alexnet_jax.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet_jax.inference.network import Network


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
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "saliency.png"
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    name = options.class_name
    number = None if name is None else net.class_number(name)
    print(plot(net, pictures.select(net, options), path, number, options.layer))


def plot(
    net: "Network", shown: Pictures, path: Path, class_number: int | None = None,
    layer: str | None = None,
) -> Path:  # fmt: skip
    """Draw a column for each image: center crop, gradient, Grad-CAM; each map has its own scale.

    Writes a PNG and its numbers as JSON beside it.

    Args:
      class_number: The class to explain; default: the predicted class of each image.
    """
    layer = layer or last_maps(net)
    probabilities = net.predict(shown.pixels)
    predicted = probabilities.argmax(axis=1)
    classes = predicted if class_number is None else np.full(len(predicted), class_number)
    gradients = gradient(net, shown.pixels, classes)
    maps = grad_cam(net, shown.pixels, classes, layer)
    rows = []
    for i, name in enumerate(shown.names):
        rows.append(
            {
                "image": name,
                "label": None if shown.labels is None else net.class_names[shown.labels[i]],
                "predicted": net.class_names[predicted[i]],
                "class": net.class_names[classes[i]],
                "probability": round(float(probabilities[i, classes[i]]), 4),
                "largest_gradient": float(gradients[i].max()),
                "grad_cam": maps[i].tolist(),
            }
        )
    numbers = {"step": net.trained.step, "layer": layer, "images": rows}
    return figures.save(
        _draw(pictures.crops(net, shown.pixels), gradients, maps, numbers), numbers, path
    )


def _draw(
    crops: np.ndarray, gradients: np.ndarray, maps: np.ndarray, numbers: dict[str, Any]
) -> "Figure":
    from matplotlib.figure import Figure

    size = crops.shape[1]
    figure = Figure(figsize=(1.7 * len(crops) + 0.4, 5.9), layout="constrained")
    grid = figure.subplots(3, len(crops), squeeze=False)
    for i, row in enumerate(numbers["images"]):
        crop, slope, cam = grid[:, i]
        figures.show(crop, crops[i], figures.short(row["label"] or Path(row["image"]).name))
        right = row["label"] in (None, row["predicted"])
        caption = f"{figures.short(row['class'])} {row['probability']:.0%}"
        figures.show(
            slope, gradients[i], caption, figures.RIGHT if right else figures.WRONG, cmap="gray"
        )
        figures.show(cam, crops[i].mean(axis=2), cmap="gray", vmin=0, vmax=255)
        extent = (-0.5, size - 0.5, size - 0.5, -0.5)
        cam.imshow(maps[i], cmap="inferno", alpha=0.6, interpolation="bilinear", extent=extent)
    layer = numbers["layer"]
    labels = ("center crop", "gradient", f"Grad-CAM, {layer}")
    for axes, label in zip(grid[:, 0], labels, strict=True):
        axes.set_ylabel(label, fontsize=9)
    if any(row["label"] for row in numbers["images"]):
        colors = {"predicted class = label": figures.RIGHT, "another class": figures.WRONG}
        figures.color_legend(figure, colors)
    return figure


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
    import jax
    import jax.numpy as jnp

    def maps(variables: Any, pixels: Any, classes: Any) -> Any:
        def logits(inputs: Any) -> Any:
            outputs: Any = net.model.apply(variables, inputs, train=False)
            return _logits_of(outputs[0], classes).sum()

        return jnp.abs(jax.grad(logits)(net.inputs(pixels)[:, 0])).max(axis=-1)

    return net.in_batches("gradient", maps, pixels, _checked_classes(net, pixels, classes))


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
            return _logits_of(outputs[0], classes).sum(), outputs[1][layer]

        zeros = jnp.zeros((len(pixels), *net.shapes[layer]), net.trained.config.model.compute_dtype)
        gradients, activations = jax.grad(logits, has_aux=True)(zeros)
        weights = gradients.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
        return jax.nn.relu((weights * activations).sum(axis=-1))

    return net.in_batches(f"grad_cam {layer}", maps, pixels, _checked_classes(net, pixels, classes))


def last_maps(net: "Network") -> str:
    """The name of the feature maps of the last convolution before its pool, such as 'conv5/act'."""
    name, layer = net.trained.config.model.convs[-1]
    unpooled = layer.ops[: layer.ops.index("pool")] if "pool" in layer.ops else layer.ops
    return f"{name}/{unpooled[-1] if unpooled else 'linear'}"


def _checked_classes(net: "Network", pixels: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    if classes is None:
        return net.predict(pixels).argmax(axis=1)
    classes = np.asarray(classes)
    count = len(net.class_names)
    if classes.shape != (len(pixels),) or classes.dtype.kind not in "iu":
        raise ConfigError(f"classes are one number for each of the {len(pixels)} images")
    if classes.min() < 0 or classes.max() >= count:
        raise ConfigError(f"classes go from 0 to {count - 1}, not to {classes.max()}")
    return classes


def _logits_of(logits: Any, classes: Any) -> Any:
    """The logits [n] of `classes` [n] among [n classes]."""
    import jax.numpy as jnp

    return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]


if __name__ == "__main__":
    cli.run(main)
