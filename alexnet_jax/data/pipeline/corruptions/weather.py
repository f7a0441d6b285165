"""Weather: snow, frost, fog and brightness. Images are float32 [b s s 3] in [0, 1]; `scale` multiplies lengths."""

import math

import numpy as np
from jaxtyping import Float32

from alexnet_jax.data.pipeline.corruptions.blur import trails
from alexnet_jax.data.pipeline.corruptions.draws import Draws
from alexnet_jax.data.pipeline.corruptions.resampling import convolve, zoom

#: Weights of red, green and blue in gray (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
#: The tint of ice.
_ICE = np.array([0.82, 0.92, 1.0], np.float32)


def snow(
    x: np.ndarray, draws: Draws, scale: float, mean: float, deviation: float, size: float,
    least: float, radius: float, sigma: float, kept: float,
) -> np.ndarray:  # fmt: skip
    """Add flakes that fall: the peaks of enlarged noise, blurred by motion; and whiten what is below them.

    Args:
        mean, deviation: Of the normal noise.
        size: Factor of enlargement.
        least: Noise below this is no flake.
        radius, sigma: Of the motion blur.
        kept: Share of the image that is not whitened.
    """
    noise = mean + deviation * draws.normal(*x.shape[1:3])
    noise = zoom(noise, max(1.0, size * scale))
    flakes = np.clip(np.where(noise < least, 0, noise), 0, 1)[..., None].astype(np.float32)
    angles = draws.uniform(math.pi / 4, 3 * math.pi / 4)
    flakes = convolve(flakes, trails(angles, scale * radius, scale * sigma))
    gray = (x @ _LUMA)[..., None]
    whitened = kept * x + (1 - kept) * np.maximum(x, 1.5 * gray + 0.5)
    return whitened + flakes + flakes[:, ::-1, ::-1]


def frost(x: np.ndarray, draws: Draws, scale: float, kept: float, strength: float) -> np.ndarray:
    """Mix the image with a layer of ice.

    An approximation: ImageNet-C shows photographs of frosted windows, and this a procedural texture of ridges.
    """
    return np.float32(kept) * x + np.float32(strength) * ice(draws, x.shape[1])


def ice(draws: Draws, size: int) -> Float32[np.ndarray, "b s s 3"]:
    """Textures of ice: bright ridges where fractals cross their middle, on patches of thicker and thinner ice."""
    ridges = 1 - np.abs(2 * plasma(draws, size, 1.5) - 1)
    patches = plasma(draws, size, 1.9)
    return (0.65 * ridges**3 + 0.35 * patches)[..., None] * _ICE


def fog(x: np.ndarray, draws: Draws, scale: float, density: float, decay: float) -> np.ndarray:
    """Add a fractal cloud, and darken so that the brightest value stays."""
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    cloud = np.float32(density) * plasma(draws, x.shape[1], decay)[..., None]
    return (x + cloud) * brightest / (brightest + np.float32(density))


def plasma(draws: Draws, size: int, decay: float) -> Float32[np.ndarray, "b s s"]:
    """Fractals in [0, 1] by the diamond-square algorithm (Fournier, Fussell and Carpenter, 1982), on a torus.

    Args:
        decay: The random offsets are divided by its square whenever the spacing is halved.
    """
    side = 1 << max(size - 1, 1).bit_length()
    offsets = draws.uniform(-1, 1, side, side)
    field, spacing, amplitude = np.zeros_like(offsets), side, 1.0
    while spacing > 1:
        half = spacing // 2
        corners = field[:, ::spacing, ::spacing]
        right, below = np.roll(corners, -1, 2), np.roll(corners, -1, 1)
        centers = (corners + right + below + np.roll(below, -1, 2)) / 4
        centers += amplitude * offsets[:, half::spacing, half::spacing]
        field[:, half::spacing, half::spacing] = centers
        above, left = np.roll(centers, 1, 1), np.roll(centers, 1, 2)
        for place, near in (
            ((slice(None), slice(0, None, spacing), slice(half, None, spacing)), (right, above)),
            ((slice(None), slice(half, None, spacing), slice(0, None, spacing)), (below, left)),
        ):
            field[place] = (corners + centers + near[0] + near[1]) / 4 + amplitude * offsets[place]
        spacing, amplitude = half, amplitude / decay**2
    low, high = (f(field, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return ((field - low) / np.maximum(high - low, 1e-12))[:, :size, :size]


def brightness(x: np.ndarray, draws: Draws, scale: float, added: float) -> np.ndarray:
    """Add to the value of HSV, which is the largest of red, green and blue; hue and saturation stay."""
    value = x.max(axis=3, keepdims=True)
    brighter = np.minimum(value + np.float32(added), 1)
    return np.where(value > 0, x * (brighter / np.maximum(value, 1e-12)), brighter)
