"""Networks with random weights, of any config, and what they answer."""

import functools
import json
import math

import jax
import numpy as np

from alexnet_jax import config, files
from alexnet_jax.data.pipeline import statistics
from alexnet_jax.inference import network, trained, weights

NARROW = [
    "--config.data.path=images", "--config.data.image_size=136", "--config.model.num_classes=10",
    "--config.model.convs.conv1.features=8", "--config.model.convs.conv2.features=12",
    "--config.model.convs.conv3.features=16", "--config.model.convs.conv4.features=12",
    "--config.model.convs.conv5.features=12", "--config.model.fcs.fc6.features=32",
    "--config.model.fcs.fc7.features=24",
]  # fmt: skip
"""Makes an AlexNet small; its maps stay 3x3 or larger with crops of 103 and more."""


def random_run(name: str, overrides=()) -> trained.TrainedModel:
    """A net of config `name`; its answers are neither tiny nor huge."""
    loaded = config.load(name, list(overrides))
    spec = config.parse(loaded, needs_images=False)
    spec = config.with_classes(spec, spec.model.num_classes or 5)
    classes, size = spec.model.num_classes or 0, spec.data.image_size
    draws = np.random.default_rng(0)
    tensors = {}
    for key, shape in weights.shapes(spec).items():
        if key.endswith("kernel"):
            inputs = math.prod(shape[-4:-1]) if len(shape) != 3 else shape[1]
            tensors[key] = draws.standard_normal(shape, np.float32)
            # Pixels would saturate tanh in the first layer: equal values, of which pools choose by rounding.
            saturates = spec.model.activation == "tanh" and f"/{spec.model.convs[0][0]}/" in key
            tensors[key] *= np.float32((2 / inputs) ** 0.5 / (64 if saturates else 1))
        elif key.endswith(("scale", "var")):
            tensors[key] = draws.uniform(0.5, 2, shape).astype(np.float32)
        else:
            tensors[key] = draws.normal(0, 0.2, shape).astype(np.float32)
    found = files.unflatten(tensors)
    mean_image = draws.uniform(80, 140, (size, size, 3)).astype(np.float32)
    means = statistics.zeros(size)._replace(
        mean_image=mean_image, channel_mean=mean_image.mean((0, 1))
    )
    names = tuple(f"class {number}" for number in range(classes))
    tree = json.loads(config.to_json(loaded))
    return trained.TrainedModel(
        spec, tree, 0, found["params"], found.get("batch_stats", {}), means, names
    )


def pictures(run: trained.TrainedModel, count: int = 3) -> np.ndarray:
    size = run.config.data.image_size
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def logits(run: trained.TrainedModel, pixels: np.ndarray) -> np.ndarray:
    """What our network says of the center crops."""
    net = network.Network(run)
    return np.asarray(_logits(net.model, net.variables, net.inputs(pixels)[:, 0]))


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, variables, seen):
    return model.apply(variables, seen, train=False)[0]


def center(pixels: np.ndarray, crop: int) -> np.ndarray:
    """The center crops float32 [n 3 crop crop], from 0 to 255."""
    start = (pixels.shape[1] - crop) // 2
    inner = slice(start, start + crop)
    return pixels[:, inner, inner].transpose(0, 3, 1, 2).astype(np.float32)


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Over the largest logit."""
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def same(first: trained.TrainedModel, second: trained.TrainedModel) -> bool:
    """Whether all parameters and running averages are the same bits."""
    trees = [(run.params, run.batch_stats) for run in (first, second)]
    return jax.tree.all(jax.tree.map(_same_bits, *trees))


def _same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    return first.dtype == second.dtype and np.array_equal(first, second)
