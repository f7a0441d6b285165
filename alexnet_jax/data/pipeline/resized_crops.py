"""Random-resized crops: boxes of random size and shape, resized; on the device, inside the jitted step.

Szegedy et al. (2015), "Going deeper with convolutions", section 6, in the form that torchvision made common.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from alexnet_jax.kernels.forms import Forms

_TRIES = 10
#: Numbers that `boxes` needs of each image besides those of the place.
DRAWS = 2 * _TRIES


def boxes(
    places: Float[Array, "b 2"], draws: Float[Array, "b 20"], size: int, min_area: float
) -> tuple[Float[Array, "b 2"], Float[Array, "b 2"]]:
    """(top, left) and (height, width) in pixels of random boxes in images of side `size`.

    places, draws: uniform in (-1, 1).

    The distribution is torchvision's: area uniform in [min_area, 1] of the image, log-uniform ratio of width to height
    in [3/4, 4/3]; the first of ten such boxes that fits into the image, or else all of it (at min_area 0.08 one
    of seven does not fit, and none of ten once in 300 million times); then a uniform place. Unlike torchvision's,
    boxes also begin and end within pixels, and lie in the stored square, not in the whole picture.
    """
    areas, ratios = jnp.split(draws, 2, axis=1)
    roots = jnp.sqrt(min_area + (1 - min_area) * (areas + 1) / 2)
    stretch = jnp.exp(ratios * (math.log(4 / 3) / 2))
    tried = jnp.stack([roots / stretch, roots * stretch], axis=2)  # [b tries 2], shares of `size`
    fits = (tried <= 1).all(axis=2)
    sides = jnp.take_along_axis(tried, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
    sides = jnp.where(fits.any(axis=1)[:, None], sides, 1)
    corners = (places + 1) / 2 * (1 - sides)
    return corners * size, sides * size


def resample(
    images: Shaped[Array, "b s s 3"],
    corners: Float[Array, "b 2"],
    sides: Float[Array, "b 2"],
    mirrored: Bool[Array, " b"] | None,
    crop: int,
    forms: Forms,
) -> Float[Array, "b crop crop 3"]:
    """The contents of the boxes of `images`, resized to `crop`, and mirrored as `mirrored` says (None: nowhere).

    corners, sides: as `boxes` gives them.

    Bilinear, with a filter that widens where a box shrinks, as PIL's Image.resize does and torchvision by
    default: large stored images would alias otherwise. Rows first, then columns, each as a sum of the few pixels
    that have a weight. 32 images of 256x256 become 224x224 in some 25 ms of one core of an AMD EPYC (AVX2), where
    plain crops take 3, products with matrices of all weights 330, jax.image.scale_and_translate 300 (2026-11-22).
    """
    tops, lefts = corners.T
    heights, widths = sides.T
    if mirrored is not None:  # from right to left
        lefts = jnp.where(mirrored, lefts + widths, lefts)
        widths = jnp.where(mirrored, -widths, widths)
    size = images.shape[1]
    # Each behind a barrier: fused into one, weights and rows would be computed again for each pixel, in 100 ms.
    rows = _weighted_sums(images, *forms.barrier(_taps(tops, heights, crop, size)), axis=0)
    columns = forms.barrier(_taps(lefts, widths, crop, size))
    return forms.barrier(_weighted_sums(forms.barrier(rows), *columns, axis=1))


def _taps(
    starts: Float[Array, " b"], lengths: Float[Array, " b"], crop: int, size: int
) -> tuple[Int[Array, "b crop taps"], Float[Array, "b crop taps"]]:
    """The pixels, out of `size`, that contribute to each of `crop`, and their weights, which sum to 1.

    starts, lengths: where a box begins and how far it goes; a negative length goes back.
    """
    steps = (lengths / crop)[:, None]
    radius = jnp.maximum(jnp.abs(steps), 1)
    centers = starts[:, None] + (jnp.arange(crop) + 0.5) * steps
    first = jnp.floor(centers - radius + 0.5)
    pixels = first[..., None] + jnp.arange(math.ceil(2 * max(size / crop, 1)))
    weights = 1 - jnp.abs(pixels + 0.5 - centers[..., None]) / radius[..., None]
    weights = jnp.where((pixels >= 0) & (pixels < size), jnp.maximum(weights, 0), 0)
    return pixels.astype(jnp.int32), weights / weights.sum(axis=2, keepdims=True)


def _weighted_sums(
    images: Shaped[Array, "b h w 3"],
    pixels: Int[Array, "b crop taps"],
    weights: Float[Array, "b crop taps"],
    *,
    axis: int,
) -> Float[Array, "b h2 w2 3"]:
    # mode="clip": what is outside has no weight, and filling it in takes three times as long.
    take = jax.vmap(functools.partial(jnp.take, axis=axis, mode="clip"))
    weights = jnp.expand_dims(weights, (2 - axis, 3))
    parts = [take(images, pixels[..., k]) * weights[..., k] for k in range(pixels.shape[2])]
    return functools.reduce(jnp.add, parts)
