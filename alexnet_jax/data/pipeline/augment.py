"""Crops, mirror images and color noise (§4.1), on the device, inside the jitted step.

Every draw is a function of the seed, the epoch and the example (or the step and the place in the
batch): it depends neither on the other images of the batch nor on the number of devices.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.data.pipeline import resized_crops
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.kernels.convolution import Blocks
from alexnet_jax.kernels.forms import PLAIN, Forms
from alexnet_jax.specs import AugmentSpec

_EXAMPLE, _CHUNK = 1, 2

_DRAWS = 6
"""Of each image: two for the place, one for mirroring, three for the color; those of a box follow."""


def train_images(
    images,
    statistics: Statistics,
    spec: AugmentSpec,
    *,
    seed_key,
    indices,
    epochs,
    step,
    positions,
    color_std,
    forms: Forms = PLAIN,
    to_blocks: Callable[..., Blocks] | None = None,
) -> jax.Array | Blocks:
    """Training crops float32 [b c c 3] of uint8 [b s s 3], mean subtracted, times `spec.scale`.

    indices, epochs, positions: int [b], the example's number, its epoch and its place in the whole
    batch. crop_chunk == 1 draws crop and mirroring per example; else `crop_chunk` consecutive
    places share them, as in the authors' program (convdata_jpeg.py). Colors are drawn per example.
    'random_resized' is in resized_crops.py; all other draws stay as they are without it.
    color_std: scalar, may be traced; 0 switches the noise off, and its rescaling.
    to_blocks: of [b c c 3], as the first convolution of a net takes them; the crops are then its Blocks, with
    zeros where it pads.
    """
    images = resized(images, spec)
    size, crop = images.shape[1], spec.crop_size
    number = _DRAWS + (resized_crops.DRAWS if spec.crop == "random_resized" else 0)
    draws = places = _example_draws(seed_key, epochs, indices, number)
    if spec.crop_chunk > 1:
        places = _chunk_draws(seed_key, step, positions // spec.crop_chunk, number)
    mirrored = places[:, 2] < 0 if spec.flip else None
    noise, packed = None, False
    if spec.color_std > 0:
        normal = 2**0.5 * jax.lax.erf_inv(draws[:, 3:_DRAWS])
        noise = color_std * color_offsets(normal, statistics, spec.color_basis)
    mean: Any
    if spec.crop == "random_resized":
        if spec.mean == "pixel":  # linear: as if the mean image were resized like each crop
            images = images - mean_image(statistics, size)
        boxes = resized_crops.boxes(places[:, :2], places[:, _DRAWS:], size, spec.min_area)
        cropped = resized_crops.resample(images, *boxes, mirrored, crop, forms)
        mean = 0.0 if spec.mean == "pixel" else _mean(statistics, spec, size)
    else:
        offsets = _offsets(places[:, :2], size - crop + 1)
        if spec.crop == "center":
            offsets = jnp.full_like(offsets, (size - crop) // 2)
        packed = forms.images == "packed" and images.dtype == jnp.uint8 and to_blocks is not None
        cropped = _flip(_crop(_packed(images) if packed else images, offsets, crop), mirrored)
        mean = _mean(statistics, spec, size)
        if spec.mean == "pixel":  # it moves and is mirrored with the crop
            mean = _flip(_crop(mean_image(statistics, size), offsets, crop), mirrored)
    if spec.mean == "standardize" or to_blocks is None:
        cropped = _unpacked(cropped, packed)
        centered = _finished(_centered(cropped, mean, spec), noise, color_std, spec)
        return centered if to_blocks is None else to_blocks(centered)
    # The few bytes of the pixels are moved, and the arithmetic is done where they lie then.
    blocks = to_blocks(cropped)
    values = _unpacked(jax.lax.optimization_barrier(blocks.values), packed)
    blocks = dataclasses.replace(blocks, channels=3)
    if jnp.ndim(mean) == 1:
        mean = jnp.tile(mean, blocks.side**2)
    elif jnp.ndim(mean) > 1:
        mean = to_blocks(mean.reshape(-1, crop, crop, 3)).values
    if noise is not None:
        noise = jnp.tile(noise, (1, blocks.side**2))
    centered = _finished(_centered(values, mean, spec), noise, color_std, spec)
    inside = to_blocks(np.ones((1, crop, crop, 3), bool)).values
    return dataclasses.replace(blocks, values=jnp.where(inside, centered, 0))


def test_images(
    images,
    statistics: Statistics,
    spec: AugmentSpec,
    offset: tuple[int, int],
    *,
    mirrored: bool = False,
) -> jax.Array:
    """Crops at `offset` (top, left), float32 [b c c 3], without noise and its rescaling."""
    images = resized(images, spec)
    size, crop = images.shape[1], spec.crop_size
    top, left = offset
    flip = slice(None, None, -1) if mirrored else slice(None)
    cropped = images[:, top : top + crop, left : left + crop][:, :, flip]
    mean = _mean(statistics, spec, size)
    if spec.mean == "pixel":
        mean = mean_image(statistics, size)[top : top + crop, left : left + crop][:, flip]
    return _finished(_centered(cropped, mean, spec), None, 0.0, spec)


def color_offsets(draws, statistics: Statistics, basis: str) -> jax.Array:
    """What normal draws [b 3] along the principal directions add to each image; [b 3] gray levels.

    'std': draw times standard deviation, as the authors' program. 'eigenvalue': draw times
    eigenvalue (§4.1 as printed) of pixel values in [0, 1]: variance / 255^2, times 255 gray levels.
    """
    stds = jnp.asarray(statistics.stds)
    lengths = stds if basis == "std" else jnp.square(stds) / 255
    vectors = jnp.asarray(statistics.eigenvectors)
    return jnp.einsum("bi,ci->bc", draws * lengths, vectors, precision="highest")


def resized(images, spec: AugmentSpec) -> jax.Array:
    """`images` at side `spec.resize` (bilinear, float32 [b r r 3]); as they are if it is None."""
    if spec.resize in (None, images.shape[1]):
        return images
    shape = (images.shape[0], spec.resize, spec.resize, 3)
    return jax.image.resize(images.astype(jnp.float32), shape, "bilinear")


def mean_image(statistics: Statistics, size: int) -> jax.Array:
    """The mean image at `size`: resizing is linear, so it is the mean of the resized images."""
    mean = statistics.mean_image
    if mean.shape[0] == size:
        return jnp.asarray(mean)
    # Once, when the step is traced, rather than in every step.
    with jax.ensure_compile_time_eval():
        return jax.image.resize(jnp.asarray(mean), (size, size, 3), "bilinear")


def _example_draws(seed_key, epochs, indices, number: int) -> jax.Array:
    """[b number], uniform in (-1, 1), of examples `indices` in `epochs`."""
    key = jax.random.fold_in(seed_key, _EXAMPLE)

    def draw(epoch, index):
        return _draw(jax.random.fold_in(jax.random.fold_in(key, epoch), index), number)

    return jax.vmap(draw)(epochs, indices)


def _chunk_draws(seed_key, step, chunks, number: int) -> jax.Array:
    """[b number], uniform in (-1, 1), of the runs of places `chunks` in the batch of `step`."""
    key = jax.random.fold_in(jax.random.fold_in(seed_key, _CHUNK), step)
    return jax.vmap(lambda chunk: _draw(jax.random.fold_in(key, chunk), number))(chunks)


def _draw(key, number: int) -> jax.Array:
    # One call for all that an image needs: threefry is slow to compile. Never -1 or 1, whose
    # normal quantiles are infinite.
    return jax.random.uniform(key, (number,), minval=np.nextafter(np.float32(-1), np.float32(0)))


def _offsets(draws, places: int) -> jax.Array:
    """int32 below `places`, all equally likely."""
    return jnp.clip(jnp.floor((draws + 1) / 2 * places), 0, places - 1).astype(jnp.int32)


def _crop(images, offsets, crop: int) -> jax.Array:
    """[b c c 3] out of [b s s 3] or of one [s s 3], from `offsets` [b 2]."""

    def one(image, offset):
        return jax.lax.dynamic_slice(image, (*offset, 0), (crop, crop, image.shape[-1]))

    return jax.vmap(one, in_axes=(0 if images.ndim == 4 else None, 0))(images, offsets)


def _packed(images) -> jax.Array:
    """uint8 [b s s 3] as uint32 [b s s 1], written once: a pixel is then moved as one aligned number."""
    red, green, blue = (images[..., i : i + 1].astype(jnp.uint32) for i in range(3))
    return jax.lax.optimization_barrier(red | green << 8 | blue << 16)


def _unpacked(values, packed: bool) -> jax.Array:
    """[... pixels] of `_packed` as [... 3*pixels]; others as they are."""
    if not packed:
        return values
    parts = [(values >> shift & 255).astype(jnp.float32) for shift in (0, 8, 16)]
    return jnp.stack(parts, axis=-1).reshape(*values.shape[:-1], -1)


def _flip(images, mirrored) -> jax.Array:
    if mirrored is None:
        return images
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def _mean(statistics: Statistics, spec: AugmentSpec, size: int):
    """What `spec.mean` subtracts: [c c 3], [3] or 0. Not that of 'pixel', which depends on the place of the crop."""
    if spec.mean == "image_center":
        border = (size - spec.crop_size) // 2
        inner = slice(border, border + spec.crop_size)
        return mean_image(statistics, size)[inner, inner]
    return jnp.asarray(statistics.channel_mean) if spec.mean == "channel" else 0.0


def _centered(cropped, mean, spec: AugmentSpec) -> jax.Array:
    """float32, `mean` subtracted or each image standardized."""
    values = cropped.astype(jnp.float32) - mean
    if spec.mean == "standardize":  # as tf.image.per_image_standardization
        values = values - values.mean(axis=(1, 2, 3), keepdims=True)
        stds = jnp.sqrt(jnp.square(values).mean(axis=(1, 2, 3), keepdims=True))
        return values / jnp.maximum(stds, (3 * spec.crop_size**2) ** -0.5)
    return values


def _finished(centered, noise, color_std, spec: AugmentSpec) -> jax.Array:
    """With noise [b channels], if any, and scaled."""
    if noise is not None:
        centered = centered + noise[:, None, None, :]
        if spec.color_rescale:  # convdata_jpeg.py; the aim was the scale of images without noise
            centered = centered / (1 + color_std)
    return centered if spec.scale == 1 else centered * spec.scale
