"""Views: the sets of crops of a test image over which predictions are averaged (§4.1)."""

import jax.numpy as jnp
from jaxtyping import Array, Float32, UInt8

from alexnet_jax.data.pipeline import augment
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.specs import AugmentSpec, Config


def views(
    images: UInt8[Array, "b s s 3"], statistics: Statistics, spec: AugmentSpec, name: str
) -> Float32[Array, "b v c c 3"]:
    """Cut the crops of each image, without color noise and its rescaling."""
    images = augment.resized(images, spec)
    made = [
        augment.test_images(images, statistics, spec, (top, left), mirrored=mirrored)
        for top, left, mirrored in VIEWS[name](images.shape[1], spec.crop_size)
    ]
    return jnp.stack(made, axis=1)


def number(name: str, spec: Config) -> int:
    """Return the number of crops per image."""
    return len(VIEWS[name](spec.uncropped_size, spec.augment.crop_size))


def images_at_once(name: str, spec: Config) -> int:
    """Return the number of images, at least 1, that have at most `evaluation.batch_size` crops together.

    All crops of a batch go through the net at once, so this limits the memory.
    """
    return max(1, spec.evaluation.batch_size // number(name, spec))


def center(size: int, crop: int) -> list[tuple[int, int, bool]]:
    """Return (top, left, mirrored) of the center crop."""
    return [((size - crop) // 2, (size - crop) // 2, False)]


def ten(size: int, crop: int) -> list[tuple[int, int, bool]]:
    """Ten-crop (§4.1): the four corners and the center, and their mirror images."""
    end = size - crop
    offsets = [(0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)]
    return [(top, left, mirrored) for mirrored in (False, True) for top, left in offsets]


def nine(size: int, crop: int) -> list[tuple[int, int, bool]]:
    """A 3x3 grid without mirror images, as the authors tested their CIFAR-10 nets (convdata_cifar.py)."""
    steps = (0, (size - crop) // 2, size - crop)
    return [(top, left, False) for top in steps for left in steps]


def dense(size: int, crop: int) -> list[tuple[int, int, bool]]:
    """A 5x5 grid over the whole image, and its mirror images: 50 crops, or fewer if some coincide.

    This is neither a fully-convolutional evaluation (Sermanet et al., 2014) nor a multi-scale one, and there are no
    published results of AlexNet with it.
    """
    steps = sorted({round(i * (size - crop) / 4) for i in range(5)})
    grid = [(top, left) for top in steps for left in steps]
    return [(top, left, mirrored) for mirrored in (False, True) for top, left in grid]


VIEWS = {"center": center, "ten": ten, "nine": nine, "dense": dense}
