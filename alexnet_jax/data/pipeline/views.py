"""The crops of a test image whose predictions are averaged (§4.1)."""

import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt8

from alexnet_jax.data.pipeline import augment
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.specs import AugmentSpec, Config


def views(
    images: UInt8[Array, "b s s 3"], statistics: Statistics, spec: AugmentSpec, name: str
) -> Float32[Array, "b v c c 3"]:
    """All crops of each image, without noise and its rescaling."""
    images = augment.resized(images, spec)
    made = [
        augment.test_images(images, statistics, spec, (top, left), mirrored=mirrored)
        for top, left, mirrored in VIEWS[name](images.shape[1], spec.crop_size)
    ]
    return jnp.stack(made, axis=1)


def number(name: str, spec: Config) -> int:
    """How many crops a view makes of each image."""
    return len(VIEWS[name](spec.augment.resize or spec.data.image_size, spec.augment.crop_size))


def images_at_once(name: str, spec: Config) -> int:
    """How many images have at most `evaluation.batch_size` crops, and at least 1.

    All crops of a batch go through the net together: this bounds the memory.
    """
    return max(1, spec.evaluation.batch_size // number(name, spec))


def center(size: int, crop: int) -> list[tuple[int, int, bool]]:
    """(top, left, mirrored) of the one crop in the middle."""
    return [((size - crop) // 2, (size - crop) // 2, False)]


def ten(size: int, crop: int) -> list[tuple[int, int, bool]]:
    """Ten-crop (§4.1): the four corners and the center, and their mirror images."""
    end = size - crop
    places = [(0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)]
    return [(top, left, mirrored) for mirrored in (False, True) for top, left in places]


def nine(size: int, crop: int) -> list[tuple[int, int, bool]]:
    """A 3x3 grid, unmirrored: the test of the authors' CIFAR-10 nets (convdata_cifar.py)."""
    steps = (0, (size - crop) // 2, size - crop)
    return [(top, left, False) for top in steps for left in steps]


def dense(size: int, crop: int) -> list[tuple[int, int, bool]]:
    """A 5x5 grid from corner to corner, and its mirror images: 50 crops, or fewer where they would coincide.

    They cover the whole image at its one size. This is neither the evaluation at every place that a net makes as a
    convolution (Sermanet et al., 2014) nor one at several scales, and nobody published numbers of AlexNet by it.
    """
    steps = sorted({round(i * (size - crop) / 4) for i in range(5)})
    grid = [(top, left) for top in steps for left in steps]
    return [(top, left, mirrored) for mirrored in (False, True) for top, left in grid]


VIEWS = {"center": center, "ten": ten, "nine": nine, "dense": dense}
