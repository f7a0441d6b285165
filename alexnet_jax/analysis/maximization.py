"""Optimize pictures that excite units most (Olah, Mordvintsev and Schubert, 2017, "Feature visualization").

A picture is a sum of waves whose amplitudes are optimized by Adam, and a sigmoid keeps its pixels between 0 and 255. It
reaches the network through the network's own preprocessing, shifted, scaled and rotated anew at random in every step,
so that what excites the unit does not depend on single pixels.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax.analysis import pictures
from alexnet_jax.errors import ConfigError
from alexnet_jax.model import geometry, operations

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network

#: Pictures that are optimized at once.
BATCH = 16
#: Gray level beyond the border of a picture that was shifted or rotated.
GRAY = 127.5
#: Standard deviation of the initial amplitudes, and what the sum of waves is divided by, as in the authors' lucid.
INITIAL_STD, DIVISOR = 0.01, 4.0


class Recipe(NamedTuple):
    """How pictures are optimized."""

    #: Steps of Adam, and its learning rate.
    steps: int = 128
    learning_rate: float = 0.1
    #: Optimize along the principal components of the training images' colors (§4.1), each as large as its standard
    #: deviation; otherwise red, green and blue.
    decorrelated: bool = True
    #: Largest shift in pixels, each way; None: `default_jitter` of the feature.
    jitter: float | None = None
    #: Largest relative change of size.
    scale: float = 0.05
    #: Largest rotation in degrees, each way.
    rotation: float = 5.0
    seed: int = 0


DEFAULT = Recipe()


def maximize(
    net: "Network", feature: str, units: np.ndarray, recipe: Recipe = DEFAULT
) -> np.ndarray:
    """Optimize a picture for each unit: the map's unit at the central position, a dense unit, or a class logit.

    A picture depends on the network, the recipe and the number of its unit, not on the other units.

    Args:
      feature: Any feature of `net.shapes`. The gradient of a rectified one is 0 where the unit is silent; see
        `before_activation`.
      units: int [n], numbers of maps or units.

    Returns:
      uint8 [n c c 3], at the size of the center crops.

    Raises:
      ConfigError: There is no such feature or unit.
    """
    import jax
    import jax.numpy as jnp
    import optax

    units = _checked(net, feature, units)
    jitter = default_jitter(net, feature) if recipe.jitter is None else recipe.jitter
    recipe, colors = recipe._replace(jitter=jitter), color_basis(net, recipe.decorrelated)
    size, optimizer = net.trained.config.augment.crop_size, optax.adam(recipe.learning_rate)

    def optimize(variables: Any, units: Any) -> Any:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(recipe.seed), units)

        def loss(waves: Any, step: Any) -> Any:
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
            shown = transform(to_pixels(waves, colors), step_keys, recipe)
            return -_central(net, variables, feature, shown, units).sum()

        def update(state: Any, step: Any) -> Any:
            waves, moments = state
            changes, moments = optimizer.update(jax.grad(loss)(waves, step), moments)
            return (optax.apply_updates(waves, changes), moments), None

        waves = initial_waves(keys, size)
        (waves, _), _ = jax.lax.scan(
            update, (waves, optimizer.init(waves)), jnp.arange(1, recipe.steps + 1)
        )
        return jnp.rint(to_pixels(waves, colors)).astype(jnp.uint8)

    return net.in_batches(f"maximize {feature} {recipe}", optimize, units, batch_size=BATCH)


def excitation(net: "Network", feature: str, units: np.ndarray, crops: np.ndarray) -> np.ndarray:
    """Return the activation of units[i], at the central position of a map, by crops[i]: float32 [n].

    Args:
      units: int [n].
      crops: [n c c 3], values from 0 to 255, such as the results of `maximize`.
    """

    def activations(variables: Any, crops: Any, units: Any) -> Any:
        return _central(net, variables, feature, crops, units)

    return net.in_batches(
        f"excitation {feature}", activations, crops, _checked(net, feature, units)
    )


def before_activation(net: "Network", layer: str) -> str:
    """Return the feature before the activation function of a layer, such as 'conv1/linear' of 'conv1'.

    Its gradient does not vanish where the activation function saturates. For a layer without one: its last feature.
    """
    nodes = operations.nodes(layer, dict(net.trained.config.model.layers)[layer])
    keys = [node.key for node in nodes]
    return nodes[keys.index("act") - 1].feature if "act" in keys else layer


def default_jitter(net: "Network", feature: str) -> float:
    """Return half of the distance in pixels of neighboring units of a feature; a sixteenth of the crop if dense.

    Shifts below the sampling of a layer: no picture excites the unit of a linear filter after much larger ones.
    """
    config, size = net.trained.config, net.trained.config.augment.crop_size
    if len(net.shape_of(feature)) == 1:
        return size / 16
    layers = geometry.layers(config.model, size, len(net.class_names))
    steps = {layer.name: layer.step for layer in layers}
    return steps.get(feature, steps[feature.partition("/")[0]]) / 2


def initial_waves(keys: Any, size: int) -> Any:
    """Draw small amplitudes of waves: float32 [n size size/2+1 3 2], the last axis real and imaginary parts."""
    import jax

    shape = (size, size // 2 + 1, 3, 2)
    return INITIAL_STD * jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def to_pixels(waves: Any, colors: Any) -> Any:
    """Add up waves [n s s/2+1 3 2] to pixels float32 [n s s 3] between 0 and 255.

    A wave is divided by its frequency, so that a step of the optimizer changes all frequencies as they occur in
    natural images, and not mostly the finest ones.

    Args:
      colors: [3 3]; column i is the color of component i.
    """
    import jax
    import jax.numpy as jnp

    size = waves.shape[1]
    frequencies = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    spectrum = jax.lax.complex(waves[..., 0], waves[..., 1])
    spectrum = spectrum / np.maximum(frequencies, 1 / size)[:, :, None].astype(np.float32)
    field = jnp.fft.irfft2(spectrum, s=(size, size), axes=(1, 2), norm="ortho") / DIVISOR
    return 255 * jax.nn.sigmoid(jnp.einsum("nhwi,ci->nhwc", field, colors))


def color_basis(net: "Network", decorrelated: bool) -> np.ndarray:
    """Return the colors [3 3] of the components of `to_pixels`, the longest of length 1."""
    statistics = net.trained.statistics
    if not decorrelated or statistics.stds.max() <= 0:
        return np.eye(3, dtype=np.float32)
    return statistics.eigenvectors * (statistics.stds / statistics.stds.max())


def transform(images: Any, keys: Any, recipe: Recipe) -> Any:
    """Shift, scale and rotate each image [n s s 3] about its center, by its own draws, with bilinear interpolation.

    Without any shift, scaling and rotation in the recipe, the images are returned as they are.
    """
    import jax
    import jax.numpy as jnp
    from jax.scipy.ndimage import map_coordinates

    if not (recipe.jitter or recipe.scale or recipe.rotation):
        return images
    middle = (images.shape[1] - 1) / 2
    y, x = np.meshgrid(*2 * [np.arange(images.shape[1]) - middle], indexing="ij")

    def one(image: Any, key: Any) -> Any:
        down, right, zoom, angle = jax.random.uniform(key, (4,), minval=-1.0)
        zoom, angle = 1 + recipe.scale * zoom, np.deg2rad(recipe.rotation) * angle
        cos, sin = zoom * jnp.cos(angle), zoom * jnp.sin(angle)
        places = [
            cos * y - sin * x + middle + recipe.jitter * down,
            sin * y + cos * x + middle + recipe.jitter * right,
        ]
        return jax.vmap(
            lambda channel: map_coordinates(channel, places, order=1, mode="constant", cval=GRAY),
            in_axes=-1, out_axes=-1,
        )(image)  # fmt: skip

    return jax.vmap(one)(images, keys)


def _central(net: "Network", variables: Any, feature: str, crops: Any, units: Any) -> Any:
    """The activation of units[i], at the central position of a map, by crops[i]: float32 [n]."""
    import jax.numpy as jnp

    made: Any = net.model.apply(variables, pictures.inputs(net, crops), train=False)
    x = made[1][feature].astype(jnp.float32)
    if x.ndim == 4:
        x = x[:, x.shape[1] // 2, x.shape[2] // 2]
    return jnp.take_along_axis(x, units[:, None], axis=1)[:, 0]


def _checked(net: "Network", feature: str, units: np.ndarray) -> np.ndarray:
    count, units = net.shape_of(feature)[-1], np.asarray(units, np.int32)
    if units.ndim != 1 or not len(units) or units.min() < 0 or units.max() >= count:
        raise ConfigError(f"the units of {feature} go from 0 to {count - 1}")
    return units
