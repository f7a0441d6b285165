"""Blur: defocus, glass, motion and zoom. Images are float32 [b s s 3] in [0, 1]; `scale` multiplies lengths."""

import math

import numpy as np
from jaxtyping import Float32

from alexnet_jax.data.pipeline.corruptions.draws import Draws
from alexnet_jax.data.pipeline.corruptions.resampling import convolve, smooth, zoom

#: Points per pixel, in each direction, at which a disc is sampled.
_SUBPIXELS = 8


def defocus_blur(
    x: np.ndarray, draws: Draws, scale: float, radius: float, sigma: float
) -> np.ndarray:
    """Convolve with a disc, as a lens out of focus does; the disc is smoothed by a Gaussian of `sigma`."""
    return convolve(x, disc(scale * radius, scale * sigma))


def disc(radius: float, sigma: float) -> Float32[np.ndarray, "k k"]:
    """A disc whose pixels are covered in part at its edge, smoothed, with the sum 1."""
    side = math.ceil(radius + 3 * sigma)
    places = (np.arange((2 * side + 1) * _SUBPIXELS) + 0.5) / _SUBPIXELS - side - 0.5
    inside = places[:, None] ** 2 + places**2 <= radius**2
    cells = inside.reshape(2 * side + 1, _SUBPIXELS, 2 * side + 1, _SUBPIXELS)
    kernel = smooth(cells.mean(axis=(1, 3))[None].astype(np.float32), sigma)[0]
    return kernel / kernel.sum()


def glass_blur(
    x: np.ndarray, draws: Draws, scale: float, sigma: float, reach: float, times: float
) -> np.ndarray:
    """Blur, exchange pixels with others nearby as frosted glass seems to, and blur again."""
    size = x.shape[1]
    x = smooth(x, scale * sigma)
    for _ in range(int(times)):
        for axis in (1, 2):
            jitter = draws.uniform(-1, 1, size, size) * np.float32(scale * reach)
            places = np.arange(size, dtype=np.float32)
            places = places[:, None] if axis == 1 else places
            order = np.argsort(places + jitter, axis=axis, kind="stable")
            x = np.take_along_axis(x, order[..., None], axis)
    return smooth(x, scale * sigma)


def motion_blur(
    x: np.ndarray, draws: Draws, scale: float, radius: float, sigma: float
) -> np.ndarray:
    """Convolve with a fading trail, as of a camera that moves, at an angle of up to 45 degrees to the horizontal."""
    angles = draws.uniform(-math.pi / 4, math.pi / 4)
    return convolve(x, trails(angles, scale * radius, scale * sigma))


def trails(
    angles: Float32[np.ndarray, " b"], radius: float, sigma: float
) -> Float32[np.ndarray, "b k k"]:
    """Lines that begin in the center and fade as a Gaussian of `sigma`, with a length of 2 `radius` at most."""
    length = min(2 * radius, 4 * sigma)
    side = math.ceil(length) + 1
    along = np.arange(0, length + 0.25, 0.5)
    rows, columns = (side + f(angles)[:, None] * along for f in (np.sin, np.cos))
    kernels = np.zeros((len(angles), 2 * side + 1, 2 * side + 1), np.float32)
    strength = np.exp(-(along**2) / (2 * sigma**2))
    top, left, image = np.floor(rows), np.floor(columns), np.arange(len(angles))[:, None]
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - (rows - top)) * np.abs(1 - right - (columns - left))
            place = (image, (top + down).astype(int), (left + right).astype(int))
            np.add.at(kernels, place, strength * share)
    return kernels / kernels.sum(axis=(1, 2), keepdims=True)


def zoom_blur(x: np.ndarray, draws: Draws, scale: float, most: float, step: float) -> np.ndarray:
    """Average the image and enlarged copies of its center, as of a camera that moves toward a scene."""
    factors = np.arange(1, most, step)
    return (x + sum(zoom(x, factor) for factor in factors)) / np.float32(len(factors) + 1)
