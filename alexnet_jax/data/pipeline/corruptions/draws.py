"""Random draws of the corruptions, which depend on the image, the corruption, its severity and the seed alone."""

import hashlib
from functools import cached_property

import numpy as np
from jaxtyping import Float32, UInt8


class Draws:
    """One random generator for each image of a batch, seeded by its pixels: an image has the same draws in any batch.

    Args:
        images: Images as stored, before any corruption.
        key: What else the draws depend on.
    """

    def __init__(self, images: UInt8[np.ndarray, "b s s 3"], key: str) -> None:
        self._images, self._key = images, key.encode()

    @cached_property
    def _generators(self) -> list[np.random.Generator]:
        return [_generator(image, self._key) for image in self._images]

    def normal(self, *shape: int) -> Float32[np.ndarray, "b ..."]:
        """Draw standard normal numbers [b *shape]."""
        return np.stack([one.standard_normal(shape, np.float32) for one in self._generators])

    def uniform(self, low: float, high: float, *shape: int) -> Float32[np.ndarray, "b ..."]:
        """Draw numbers [b *shape] from [low, high)."""
        drawn = np.stack([one.random(shape, np.float32) for one in self._generators])
        return np.float32(low) + np.float32(high - low) * drawn

    def poisson(self, rates: np.ndarray) -> Float32[np.ndarray, "b ..."]:
        """Draw Poisson numbers with the expectations `rates` [b ...]."""
        drawn = [one.poisson(rate) for one, rate in zip(self._generators, rates, strict=True)]
        return np.stack(drawn).astype(np.float32)


def _generator(image: np.ndarray, key: bytes) -> np.random.Generator:
    digest = hashlib.blake2b(image.tobytes(), digest_size=16, key=key[:64])
    # Philox takes its key as it is; other generators spend ten times as long on their seed.
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest.digest(), "little")))
