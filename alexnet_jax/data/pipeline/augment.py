"""Crops, mirror images and color noise (§4.1), on the device, inside the jitted step.

Their random numbers are in draws.py, further augmentations in augmentations/.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt8, UInt32

from alexnet_jax.data.pipeline import augmentations, resized_crops
from alexnet_jax.data.pipeline.draws import Draws, chunk_keys, example_keys
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.kernels.convolution import Blocks
from alexnet_jax.kernels.forms import PLAIN, Forms
from alexnet_jax.specs import AugmentSpec

#: Uint8 images as they are stored, or float32 ones where they were resized.
Images = Shaped[Array, "b s s 3"]


def train_images(
    images: Images,
    statistics: Statistics,
    spec: AugmentSpec,
    *,
    seed_key: Key[Array, ""],
    indices: Int[Array, " b"],
    epochs: Int[Array, " b"],
    step: int | Int[Array, ""],
    positions: Int[Array, " b"],
    color_std: float | Float[Array, ""],
    forms: Forms = PLAIN,
    to_blocks: Callable[..., Blocks] | None = None,
) -> Float[Array, "b c c 3"] | Blocks:
    """Training crops, mean subtracted, times `spec.scale`.

    Crop and mirroring are drawn for each example, or shared by `spec.crop_chunk` consecutive examples of a batch, as
    in the authors' program (convdata_jpeg.py). Color noise is drawn for each example.

    Args:
        indices: The index of each example in the split.
        epochs: The epoch of each example.
        positions: The position of each example in the global batch.
        color_std: May be traced; 0 switches the noise and its rescaling off.
        to_blocks: Pads crops with zeros and cuts them into the blocks that the first convolution of a net takes. If
            given, the result is Blocks instead of images.
    """
    images = resized(images, spec)
    size, crop = images.shape[1], spec.crop_size
    box = spec.crop == "random_resized"
    draws = shared = Draws(example_keys(seed_key, epochs, indices), box=box)
    if spec.crop_chunk > 1:
        shared = Draws(chunk_keys(seed_key, step, positions // spec.crop_chunk), box=box)
    mirrored = shared["mirror"][:, 0] < 0 if spec.flip else None
    noise, packed = None, False
    if spec.color_std > 0:
        normal = 2**0.5 * jax.lax.erf_inv(draws["color"])
        noise = color_std * color_offsets(normal, statistics, spec.color_basis)
    mean: Any
    if box:
        if spec.mean == "pixel":  # linear: as if the mean image were resized like each crop
            images = images - mean_image(statistics, size)
        boxes = resized_crops.boxes(shared["position"], shared["box"], size, spec.min_area)
        cropped = resized_crops.resample(images, *boxes, mirrored, crop, forms)
        mean = 0.0 if spec.mean == "pixel" else _mean(statistics, spec, size)
    else:
        offsets = _offsets(shared["position"], size - crop + 1)
        if spec.crop == "center":
            offsets = jnp.full_like(offsets, (size - crop) // 2)
        packed = forms.images == "packed" and images.dtype == jnp.uint8 and to_blocks is not None
        cropped = _flip(_crop(_packed(images) if packed else images, offsets, crop), mirrored)
        mean = _mean(statistics, spec, size)
        if spec.mean == "pixel":  # cropped and mirrored like the images
            mean = _flip(_crop(mean_image(statistics, size), offsets, crop), mirrored)
    if spec.mean == "standardize" or spec.extra or to_blocks is None:
        cropped = _unpacked(cropped, packed)
        made = _finished(_centered(cropped, mean, spec), noise, color_std, spec)
        for name in spec.extra:
            made = augmentations.load(name)(made, draws)
        return made if to_blocks is None else to_blocks(made)
    return _finished_blocks(to_blocks, cropped, packed, mean, noise, color_std, spec)


def test_images(
    images: Images,
    statistics: Statistics,
    spec: AugmentSpec,
    offset: tuple[int, int],
    *,
    mirrored: bool = False,
) -> Float[Array, "b c c 3"]:
    """Crops at `offset` (top, left), without noise and its rescaling."""
    images = resized(images, spec)
    size, crop = images.shape[1], spec.crop_size
    top, left = offset
    flip = slice(None, None, -1) if mirrored else slice(None)
    cropped = images[:, top : top + crop, left : left + crop][:, :, flip]
    mean = _mean(statistics, spec, size)
    if spec.mean == "pixel":
        mean = mean_image(statistics, size)[top : top + crop, left : left + crop][:, flip]
    return _finished(_centered(cropped, mean, spec), None, 0.0, spec)


def color_offsets(
    draws: Float[Array, "b 3"], statistics: Statistics, basis: str
) -> Float[Array, "b 3"]:
    """Gray levels to add to each image, from normal draws along the principal directions.

    'std': draw times standard deviation, as in the authors' program. 'eigenvalue': draw times eigenvalue (§4.1 as
    printed) of pixel values in [0, 1]: variance / 255^2, times 255 gray levels.
    """
    stds = jnp.asarray(statistics.stds)
    lengths = stds if basis == "std" else jnp.square(stds) / 255
    vectors = jnp.asarray(statistics.eigenvectors)
    return jnp.einsum("bi,ci->bc", draws * lengths, vectors, precision="highest")


def resized(images: Images, spec: AugmentSpec) -> Images:
    """Resize images to the side `spec.resize` (bilinear, float32); None leaves them as they are."""
    if spec.resize in (None, images.shape[1]):
        return images
    shape = (images.shape[0], spec.resize, spec.resize, 3)
    return jax.image.resize(images.astype(jnp.float32), shape, "bilinear")


def mean_image(statistics: Statistics, size: int) -> Float[Array, "size size 3"]:
    """The mean image at `size`, which is the mean of the resized images, as resizing is linear."""
    mean = statistics.mean_image
    if mean.shape[0] == size:
        return jnp.asarray(mean)
    # Once, when the step is traced, rather than in every step.
    with jax.ensure_compile_time_eval():
        return jax.image.resize(jnp.asarray(mean), (size, size, 3), "bilinear")


def _offsets(draws: Float[Array, "b 2"], count: int) -> Int[Array, "b 2"]:
    """Map uniform draws from [-1, 1) to the integers below `count`."""
    return jnp.clip(jnp.floor((draws + 1) / 2 * count), 0, count - 1).astype(jnp.int32)


def _crop(
    images: Shaped[Array, "*b s s k"], offsets: Int[Array, "b 2"], crop: int
) -> Shaped[Array, "b c c k"]:
    """Crops of a batch of images, or of one image for all, at `offsets`."""

    def one(image: Array, offset: Array) -> Array:
        return jax.lax.dynamic_slice(image, (*offset, 0), (crop, crop, image.shape[-1]))

    return jax.vmap(one, in_axes=(0 if images.ndim == 4 else None, 0))(images, offsets)


def _packed(images: UInt8[Array, "b s s 3"]) -> UInt32[Array, "b s s 1"]:
    """Store each pixel in one 32-bit number: moving aligned numbers is faster than moving three bytes."""
    red, green, blue = (images[..., i : i + 1].astype(jnp.uint32) for i in range(3))
    return jax.lax.optimization_barrier(red | green << 8 | blue << 16)


def _unpacked(values: Shaped[Array, "*b n"], packed: bool) -> Shaped[Array, "*b m"]:
    """Turn pixels of `_packed`, [... n], into channels, [... 3n]; return other values as they are."""
    if not packed:
        return values
    parts = [(values >> shift & 255).astype(jnp.float32) for shift in (0, 8, 16)]
    return jnp.stack(parts, axis=-1).reshape(*values.shape[:-1], -1)


def _flip(
    images: Shaped[Array, "b c c k"], mirrored: Bool[Array, " b"] | None
) -> Shaped[Array, "b c c k"]:
    if mirrored is None:
        return images
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def _mean(statistics: Statistics, spec: AugmentSpec, size: int) -> Float[Array, "..."] | float:
    """The mean that `spec.mean` subtracts, [c c 3], [3] or 0; not for 'pixel', which depends on the crop."""
    if spec.mean == "image_center":
        border = (size - spec.crop_size) // 2
        inner = slice(border, border + spec.crop_size)
        return mean_image(statistics, size)[inner, inner]
    return jnp.asarray(statistics.channel_mean) if spec.mean == "channel" else 0.0


def _centered(
    cropped: Shaped[Array, "b ... k"], mean: Any, spec: AugmentSpec
) -> Float[Array, "b ... k"]:
    """Subtract `mean`, or standardize each image."""
    values = cropped.astype(jnp.float32) - mean
    if spec.mean == "standardize":  # as tf.image.per_image_standardization
        values = values - values.mean(axis=(1, 2, 3), keepdims=True)
        stds = jnp.sqrt(jnp.square(values).mean(axis=(1, 2, 3), keepdims=True))
        return values / jnp.maximum(stds, (3 * spec.crop_size**2) ** -0.5)
    return values


def _finished(
    centered: Float[Array, "b h w k"],
    noise: Float[Array, "b k"] | None,
    color_std: float | Float[Array, ""],
    spec: AugmentSpec,
) -> Float[Array, "b h w k"]:
    """Add noise, if any, and scale."""
    if noise is not None:
        centered = centered + noise[:, None, None, :]
        if spec.color_rescale:  # as convdata_jpeg.py, to keep the scale of images without noise
            centered = centered / (1 + color_std)
    return centered if spec.scale == 1 else centered * spec.scale


def _finished_blocks(
    to_blocks: Callable[..., Blocks],
    cropped: Shaped[Array, "b c c k"],
    packed: bool,
    mean: Any,
    noise: Float[Array, "b 3"] | None,
    color_std: float | Float[Array, ""],
    spec: AugmentSpec,
) -> Blocks:
    """Cut crops into blocks, then subtract the mean, add noise and scale.

    Faster than the other order, as the stored bytes are rearranged and not the floats.
    """
    crop = spec.crop_size
    blocks = to_blocks(cropped)
    values = _unpacked(jax.lax.optimization_barrier(blocks.values), packed)
    if jnp.ndim(mean) == 1:
        mean = jnp.tile(mean, blocks.side**2)
    elif jnp.ndim(mean) > 1:
        mean = to_blocks(mean.reshape(-1, crop, crop, 3)).values
    if noise is not None:
        noise = jnp.tile(noise, (1, blocks.side**2))
    centered = _finished(_centered(values, mean, spec), noise, color_std, spec)
    inside = to_blocks(np.ones((1, crop, crop, 3), bool)).values  # False in the padding
    return dataclasses.replace(blocks, values=jnp.where(inside, centered, 0), channels=3)
