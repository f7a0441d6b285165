"""Digital: contrast, elastic transform, pixelation, JPEG. Images are float32 [b s s 3] in [0, 1]."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from alexnet_jax.data.pipeline.corruptions.draws import Draws
from alexnet_jax.data.pipeline.corruptions.resampling import sample, smooth


def contrast(x: np.ndarray, draws: Draws, scale: float, factor: float) -> np.ndarray:
    """Move the values of each channel toward its mean over the image."""
    means = x.mean(axis=(1, 2), keepdims=True)
    return means + np.float32(factor) * (x - means)


def elastic_transform(
    x: np.ndarray, draws: Draws, scale: float, distance: float, sigma: float, edge: float
) -> np.ndarray:
    """Stretch and contract small regions.

    Args:
        distance: Root mean square of the displacements in each direction, in pixels.
        sigma: Over which pixels they change.
        edge: By how much a random linear map moves the edges at most, in pixels.
    """
    size = x.shape[1]
    moves = smooth(draws.uniform(-1, 1, size, size, 2), scale * sigma)
    moves *= scale * distance / np.sqrt(np.mean(moves**2, axis=(1, 2), keepdims=True))
    rows, columns = np.mgrid[:size, :size]
    places = np.stack([rows, columns], axis=-1).astype(np.float32)
    maps = draws.uniform(-scale * edge, scale * edge, 2, 2)
    middle = (size - 1) / 2
    moves += np.einsum("hwi,bij->bhwj", (places - middle) / max(middle, 1), maps)
    return sample(x, places + moves)


def pixelate(x: np.ndarray, draws: Draws, scale: float, share: float) -> np.ndarray:
    """Reduce the image to a share of its size, and enlarge it again, with Pillow's box filter."""
    from PIL import Image

    size = x.shape[1]
    small = (max(1, int(size * share)),) * 2

    def resized(image: Any) -> Any:
        box = Image.Resampling.BOX
        return image.resize(small, box).resize((size, size), box)

    return _each(x, resized)


def jpeg_compression(x: np.ndarray, draws: Draws, scale: float, quality: float) -> np.ndarray:
    """Write and read a JPEG file of a quality from 1 to 95, with Pillow."""
    from PIL import Image

    def compressed(image: Any) -> Any:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return _each(x, compressed)


def _each(x: np.ndarray, change: Callable[[Any], Any]) -> np.ndarray:
    """Change each image as a Pillow image."""
    from PIL import Image

    images = map(Image.fromarray, np.rint(255 * x).astype(np.uint8))
    return np.stack([np.asarray(change(image), np.float32) for image in images]) / np.float32(255)
