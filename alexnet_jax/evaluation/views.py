"""The crops of a test image whose predictions are averaged (§4.1)."""

import jax
import jax.numpy as jnp

from alexnet_jax.data import augment
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.specs import AugmentSpec


def views(images, statistics: Statistics, spec: AugmentSpec, name: str) -> jax.Array:
    """float32 [b v c c 3] of uint8 [b s s 3], without noise and its rescaling."""
    images = augment.resized(images, spec)
    places = VIEWS[name](images.shape[1], spec.crop_size)
    made = [
        augment.test_images(images, statistics, spec, (top, left), mirrored=mirrored)
        for top, left, mirrored in places
    ]
    return jnp.stack(made, axis=1)


def center(size: int, crop: int) -> list[tuple[int, int, bool]]:
    """(top, left, mirrored) of the one crop in the middle."""
    return [((size - crop) // 2, (size - crop) // 2, False)]


def ten(size: int, crop: int) -> list[tuple[int, int, bool]]:
    """§4.1: the four corners and the center, and their mirror images."""
    end = size - crop
    places = [(0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)]
    return [(top, left, mirrored) for mirrored in (False, True) for top, left in places]


def nine(size: int, crop: int) -> list[tuple[int, int, bool]]:
    """A 3x3 grid, unmirrored: the test of the authors' CIFAR-10 nets (convdata_cifar.py)."""
    steps = (0, (size - crop) // 2, size - crop)
    return [(top, left, False) for top in steps for left in steps]


VIEWS = {"center": center, "ten": ten, "nine": nine}
