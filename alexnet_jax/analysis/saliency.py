"""Where in an image a class is seen: the gradient of its logit, and Grad-CAM.

Command: alexnet saliency --workdir runs/mine [--images tulip.jpg] [--class rose]
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures, pictures
from alexnet_jax.analysis.pictures import Pictures
from alexnet_jax.errors import ConfigError

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network


def main(arguments: list[str]) -> None:
    parser = figures.parser("Draw where a class is seen in images: figures/saliency.png and .json.")
    pictures.add_arguments(parser, count=8)
    parser.add_argument(
        "--class", dest="class_name", help="the class; default: of each image the predicted one"
    )
    parser.add_argument(
        "--layer", help="the maps of Grad-CAM; default: the last convolution's, before its pool"
    )
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "saliency.png"
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    wanted = None
    if options.class_name is not None:
        wanted = net.class_number(options.class_name)
    print(plot(net, pictures.chosen(net, options), path, wanted, options.layer))


def plot(
    net: "Network", shown: Pictures, path: Path, wanted: int | None = None, layer: str | None = None
) -> Path:
    """A PNG at `path` and its numbers as JSON beside it, of the class `wanted` or of the predicted ones.

    A column an image: the center crop, the gradient, Grad-CAM over the crop. Each map has its own scale.
    """
    layer = layer or last_maps(net)
    probabilities = net.predict(shown.pixels)
    predicted = probabilities.argmax(axis=1)
    classes = predicted if wanted is None else np.full(len(predicted), wanted)
    slopes = gradient(net, shown.pixels, classes)
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
                "largest_gradient": float(slopes[i].max()),
                "grad_cam": maps[i].tolist(),
            }
        )
    numbers = {"step": net.run.step, "layer": layer, "images": rows}
    return figures.save(
        _draw(pictures.crops(net, shown.pixels), slopes, maps, numbers), numbers, path
    )


def _draw(crops, slopes, maps, numbers: dict):
    from matplotlib.figure import Figure

    size = crops.shape[1]
    figure = Figure(figsize=(1.7 * len(crops) + 0.4, 6.1), layout="constrained")
    grid = figure.subplots(3, len(crops), squeeze=False)
    for i, row in enumerate(numbers["images"]):
        crop, slope, cam = grid[:, i]
        figures.show(crop, crops[i], figures.short(row["label"] or Path(row["image"]).name))
        right = row["label"] in (None, row["predicted"])
        said = f"{figures.short(row['class'])} {row['probability']:.0%}"
        figures.show(slope, slopes[i], said, figures.RIGHT if right else figures.WRONG, cmap="gray")
        figures.show(cam, crops[i].mean(axis=2), cmap="gray", vmin=0, vmax=255)
        whole = (-0.5, size - 0.5, size - 0.5, -0.5)
        options = dict(cmap="inferno", alpha=0.6, interpolation="bilinear", extent=whole)
        cam.imshow(maps[i], **options)
    layer = numbers["layer"]
    for axes, said in zip(
        grid[:, 0], ("center crop", "gradient", f"Grad-CAM, {layer}"), strict=True
    ):
        axes.set_ylabel(said, fontsize=9)
    return figure


def gradient(net: "Network", pixels: np.ndarray, classes=None) -> np.ndarray:
    """Image-specific saliency maps, float32 [n c c] (Simonyan, Vedaldi and Zisserman, 2014, section 3).

    |derivative of the logit of a class by the input|, the largest of the three colors at each place. The input is
    that of the first row (`net.inputs`): gray levels less the mean, times config.augment.scale.
    pixels uint8 [n s s 3]; classes int [n], by default the predicted ones. Maps have the pixels of the center crop
    (`pictures.crops`), which is all that the net sees here. Raises ConfigError for a class that there is not.
    """
    import jax
    import jax.numpy as jnp

    def maps(variables, pixels, classes):
        def logits(inputs):
            return _own(net.model.apply(variables, inputs, train=False)[0], classes).sum()

        return jnp.abs(jax.grad(logits)(net.inputs(pixels)[:, 0])).max(axis=-1)

    return net.in_batches("gradient", maps, pixels, _classes(net, pixels, classes))


def grad_cam(
    net: "Network", pixels: np.ndarray, classes=None, layer: str | None = None
) -> np.ndarray:
    """Class activation maps, float32 [n h w] (Selvaraju et al., 2017, equations 1 and 2).

    relu(sum over the maps A of `layer` of weight * A), where a map's weight is the mean over its places of the
    derivative of the logit by it. `layer`: a feature of a convolution; by default `last_maps`. Stretched to the
    center crop (`pictures.crops`) a map lies over what it explains: each of its places takes an equal part of the
    crop, the middle of the patch that it sees but for the padding of the rows. Raises ConfigError.
    """
    import jax
    import jax.numpy as jnp

    layer = layer or last_maps(net)
    if len(net.shapes.get(layer, ())) != 3:
        there = ", ".join(name for name, shape in net.shapes.items() if len(shape) == 3)
        raise ConfigError(f"the network has no maps {layer!r}; it has {there}")

    def maps(variables, pixels, classes):
        inputs = net.inputs(pixels)[:, 0]

        def logits(offset):
            outputs, features = net.model.apply(
                variables | {"perturbations": _perturbations(net, layer, offset)},
                inputs,
                train=False,
            )
            return _own(outputs, classes).sum(), features[layer]

        zeros = jnp.zeros((len(pixels), *net.shapes[layer]), net.run.config.model.compute_dtype)
        slopes, activations = jax.grad(logits, has_aux=True)(zeros)
        weights = slopes.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
        return jax.nn.relu((weights * activations).sum(axis=-1))

    return net.in_batches(f"grad_cam {layer}", maps, pixels, _classes(net, pixels, classes))


def last_maps(net: "Network") -> str:
    """The name of the last convolution's finest maps: those before its pool, such as 'conv5/act'."""
    name, row = net.run.config.model.convs[-1]
    before = row.ops[: row.ops.index("pool")] if "pool" in row.ops else row.ops
    return f"{name}/{before[-1] if before else 'linear'}"


def _classes(net: "Network", pixels, classes) -> np.ndarray:
    if classes is None:
        return net.predict(pixels).argmax(axis=1)
    classes = np.asarray(classes)
    count = len(net.class_names)
    if classes.shape != (len(pixels),) or classes.dtype.kind not in "iu":
        raise ConfigError(f"classes are one number for each of the {len(pixels)} images")
    if classes.min() < 0 or classes.max() >= count:
        raise ConfigError(f"classes go from 0 to {count - 1}, not to {classes.max()}")
    return classes


def _own(logits, classes):
    """[n] of [n classes]."""
    import jax.numpy as jnp

    return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]


def _perturbations(net: "Network", layer: str, offset) -> dict:
    """What AlexNet adds to its features: `offset` to `layer`, nothing to the others."""
    operations = [name for name in net.shapes if "/" in name]
    row = layer.partition("/")[0]
    if layer == row:  # the row's last one
        layer = [name for name in operations if name.startswith(f"{row}/")][-1]
    tree: dict[str, dict] = {}
    for name in operations:
        row, _, operation = name.partition("/")
        tree.setdefault(row, {})[operation.replace("/", "_")] = offset if name == layer else 0.0
    return tree


if __name__ == "__main__":
    cli.run(main)
