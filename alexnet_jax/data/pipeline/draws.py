"""Random numbers of data augmentation, by image and name.

They depend only on the seed, the epoch and the example (or the step and the chunk of the batch), so they do not depend
on the other images of the batch or on the number of devices.
"""

import zlib

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

_EXAMPLE, _CHUNK = 1, 2
#: Name -> numbers per image. All are drawn in one call, because threefry is slow to compile. Resumed runs depend on
#: the order.
_CORE = {"position": 2, "mirror": 1, "color": 3, "box": 20}
_WITHOUT_BOX = sum(_CORE.values()) - _CORE["box"]


def example_keys(
    seed_key: Key[Array, ""], epochs: Int[Array, " b"], indices: Int[Array, " b"]
) -> Key[Array, " b"]:
    """Return the key of each example `indices` in its epoch."""
    key = jax.random.fold_in(seed_key, _EXAMPLE)
    return jax.vmap(lambda epoch, index: jax.random.fold_in(jax.random.fold_in(key, epoch), index))(
        epochs, indices
    )


def chunk_keys(
    seed_key: Key[Array, ""], step: int | Int[Array, ""], chunks: Int[Array, " b"]
) -> Key[Array, " b"]:
    """Return the key of each image's chunk, given the numbers of the chunks in the batch of `step`."""
    key = jax.random.fold_in(jax.random.fold_in(seed_key, _CHUNK), step)
    return jax.vmap(lambda chunk: jax.random.fold_in(key, chunk))(chunks)


class Draws:
    """Uniform numbers in (-1, 1) for each image of a batch, by name."""

    def __init__(self, keys: Key[Array, " b"], *, box: bool) -> None:
        """Draw the numbers that the paper's augmentations need.

        Args:
            keys: Keys of the images.
            box: Whether to draw draws["box"] for random-resized crops.
        """
        self._keys = keys
        self._core = _uniform(keys, sum(_CORE.values()) if box else _WITHOUT_BOX)

    def __getitem__(self, name: str) -> Float[Array, "b n"]:
        """Return the numbers of a name in _CORE: position, mirror, color or box."""
        names = list(_CORE)
        start = sum(_CORE[other] for other in names[: names.index(name)])
        return self._core[:, start : start + _CORE[name]]

    def uniform(self, name: str, number: int) -> Float[Array, "b number"]:
        """Draw numbers for another augmentation; they depend on `name`, and leave all other draws unchanged."""
        folded = jax.vmap(lambda key: jax.random.fold_in(key, zlib.crc32(name.encode())))
        return _uniform(folded(self._keys), number)


def _uniform(keys: Key[Array, " b"], number: int) -> Float[Array, "b number"]:
    # Exclude -1 and 1, where the normal quantile function is infinite.
    low = np.nextafter(np.float32(-1), np.float32(0))
    return jax.vmap(lambda key: jax.random.uniform(key, (number,), minval=low))(keys)
