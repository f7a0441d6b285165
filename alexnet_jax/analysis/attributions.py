"""Attribute a class to the pixels of an image: occlusion, integrated gradients and SmoothGrad.

Beside the gradient and Grad-CAM of saliency.py. A blank input is one of zeros: the mean image, for networks that
subtract it, and black for those that subtract nothing.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax.errors import ConfigError

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network

#: Side of the occluding square as a share of the crop's.
OCCLUDED = 1 / 5
#: Points on the path of integrated gradients.
STEPS = 64
#: Images with noise, and their noise as a share of the range of the input (section 3.2 of the article: 0.1 to 0.2).
SAMPLES, NOISE = 32, 0.15


def occlusion(
    net: "Network", pixels: np.ndarray, classes: np.ndarray | None = None, side: int | None = None
) -> np.ndarray:
    """Compute how much the probability of a class falls if a blank square covers a part (Zeiler and Fergus, 2014, 4.2).

    Args:
      pixels: uint8 [n s s 3]; the center crops are used.
      classes: int [n]; default: the predicted classes.
      side: Of the square, in pixels; default: a fifth of the crop's.

    Returns:
      float32 [n k k], for the squares that `occluded_from` lists, from top to bottom and left to right.

    Raises:
      ConfigError: There is no such class, or the square is larger than the crop.
    """
    import jax
    import jax.numpy as jnp

    size = net.trained.config.augment.crop_size
    side = occluding_side(size) if side is None else side
    if not 1 <= side <= size:
        raise ConfigError(f"the side of the occluding square is from 1 to {size}, not {side}")
    starts = occluded_from(size, side)

    def falls(variables: Any, pixels: Any, classes: Any) -> Any:
        inputs = net.inputs(pixels)[:, 0]

        def probability(inputs: Any) -> Any:
            outputs: Any = net.model.apply(variables, inputs, train=False)
            return logits_of(jax.nn.softmax(outputs[0]), classes)

        def covered(corner: Any) -> Any:
            blank = jnp.zeros((len(pixels), side, side, 3), inputs.dtype)
            return probability(jax.lax.dynamic_update_slice(inputs, blank, (0, *corner, 0)))

        corners = np.stack(np.meshgrid(starts, starts, indexing="ij"), axis=-1).reshape(-1, 2)
        found = probability(inputs) - jax.lax.map(covered, jnp.asarray(corners))
        return found.T.reshape(-1, len(starts), len(starts))

    return net.in_batches(f"occlusion {side}", falls, pixels, checked_classes(net, pixels, classes))


def occluding_side(size: int) -> int:
    """Return the default side in pixels of the occluding square, for a crop of `size`."""
    return max(1, round(OCCLUDED * size))


def occluded_from(size: int, side: int) -> np.ndarray:
    """Return the first row, or column, of each occluding square of `side` in a crop of `size`: int [k].

    Neighboring squares overlap by at least half, and the last one ends at the border.
    """
    count = 1 + -(-(size - side) // max(side // 2, 1))
    return np.rint(np.linspace(0, size - side, count)).astype(int)


def integrated_gradients(
    net: "Network", pixels: np.ndarray, classes: np.ndarray | None = None, steps: int = STEPS
) -> np.ndarray:
    """Compute integrated gradients (Sundararajan, Taly and Yan, 2017, section 3), from a blank input to the image.

    The gradient of the class logit is averaged over `steps` points, the middles of equal parts of the path, multiplied
    by the input, and added up over the colors. All pixels of an image add up to the difference of the logits of its
    two ends, but for the error of that sum (completeness, proposition 1).

    Args:
      pixels: uint8 [n s s 3].
      classes: int [n]; default: the predicted classes.

    Returns:
      float32 [n c c], at the pixels of the center crops; above 0 where a pixel speaks for the class.

    Raises:
      ConfigError: There is no such class.
    """
    import jax
    import jax.numpy as jnp

    def maps(variables: Any, pixels: Any, classes: Any) -> Any:
        inputs = net.inputs(pixels)[:, 0]

        def add(total: Any, share: Any) -> Any:
            return total + slopes(net, variables, share * inputs, classes), None

        shares = (jnp.arange(steps, dtype=jnp.float32) + 0.5) / steps
        total, _ = jax.lax.scan(add, jnp.zeros_like(inputs), shares)
        return (inputs * total / steps).sum(axis=-1)

    name = f"integrated gradients {steps}"
    return net.in_batches(name, maps, pixels, checked_classes(net, pixels, classes))


def smoothgrad(
    net: "Network", pixels: np.ndarray, classes: np.ndarray | None = None,
    noise: float = NOISE, samples: int = SAMPLES, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """Average the gradient of a class logit over images with Gaussian noise (Smilkov et al., 2017, section 3.1).

    Args:
      pixels: uint8 [n s s 3].
      classes: int [n]; default: the predicted classes.
      noise: Standard deviation of the noise, as a share of the range of the values of each input; with 0, the result
        is that of `saliency.gradient`.
      samples: Number of noisy images. All images have the same noise, but for its strength.

    Returns:
      float32 [n c c], at the pixels of the center crops: |mean gradient|, the maximum over the colors.

    Raises:
      ConfigError: There is no such class.
    """
    import jax
    import jax.numpy as jnp

    def maps(variables: Any, pixels: Any, classes: Any) -> Any:
        inputs = net.inputs(pixels)[:, 0]
        extent = inputs.max(axis=(1, 2, 3)) - inputs.min(axis=(1, 2, 3))
        strength = noise * extent[:, None, None, None]

        def add(total: Any, key: Any) -> Any:
            moved = inputs + strength * jax.random.normal(key, inputs.shape[1:])
            return total + slopes(net, variables, moved, classes), None

        keys = jax.random.split(jax.random.key(seed), samples)
        total, _ = jax.lax.scan(add, jnp.zeros_like(inputs), keys)
        return jnp.abs(total / samples).max(axis=-1)

    name = f"smoothgrad {noise} {samples} {seed}"
    return net.in_batches(name, maps, pixels, checked_classes(net, pixels, classes))


def checked_classes(net: "Network", pixels: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    """Return the classes to explain, int [n]; None: the predicted ones. Raises ConfigError for others."""
    if classes is None:
        return net.predict(pixels).argmax(axis=1)
    classes = np.asarray(classes)
    count = len(net.class_names)
    if classes.shape != (len(pixels),) or classes.dtype.kind not in "iu":
        raise ConfigError(f"classes are one number for each of the {len(pixels)} images")
    if classes.min() < 0 or classes.max() >= count:
        raise ConfigError(f"classes go from 0 to {count - 1}, not to {classes.max()}")
    return classes


def logits_of(logits: Any, classes: Any) -> Any:
    """The logits [n] of `classes` [n] among [n classes]."""
    import jax.numpy as jnp

    return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]


def slopes(net: "Network", variables: Any, inputs: Any, classes: Any) -> Any:
    """The derivatives of the logits of `classes` with respect to `inputs` [n c c 3]."""
    import jax

    def logits(inputs: Any) -> Any:
        outputs: Any = net.model.apply(variables, inputs, train=False)
        return logits_of(outputs[0], classes).sum()

    return jax.grad(logits)(inputs)
