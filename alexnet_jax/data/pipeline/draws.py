"""Random numbers for the images of a batch, by name.

Every draw is a function of the seed, the epoch and the example (or the step and the place in the batch): it depends
neither on the other images of the batch nor on the number of devices.
"""

import zlib

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

_EXAMPLE, _CHUNK = 1, 2
#: Name -> how many numbers of an image; all are drawn in one call, because threefry is slow to compile. Runs that are
#: resumed rely on this order.
_CORE = {"place": 2, "mirror": 1, "color": 3, "box": 20}
_WITHOUT_BOX = sum(_CORE.values()) - _CORE["box"]


def example_keys(
    seed_key: Key[Array, ""], epochs: Int[Array, " b"], indices: Int[Array, " b"]
) -> Key[Array, " b"]:
    """Keys of the examples `indices` in `epochs`."""
    key = jax.random.fold_in(seed_key, _EXAMPLE)
    return jax.vmap(lambda epoch, index: jax.random.fold_in(jax.random.fold_in(key, epoch), index))(
        epochs, indices
    )


def chunk_keys(
    seed_key: Key[Array, ""], step: int | Int[Array, ""], chunks: Int[Array, " b"]
) -> Key[Array, " b"]:
    """Keys of the runs of places `chunks` in the batch of `step`."""
    key = jax.random.fold_in(jax.random.fold_in(seed_key, _CHUNK), step)
    return jax.vmap(lambda chunk: jax.random.fold_in(key, chunk))(chunks)


class Draws:
    """Uniform numbers in (-1, 1) for each image of a batch, by the name of their use."""

    def __init__(self, keys: Key[Array, " b"], *, box: bool):
        """`box`: whether draws["box"] is used."""
        self._keys = keys
        self._core = _uniform(keys, sum(_CORE.values()) if box else _WITHOUT_BOX)

    def __getitem__(self, name: str) -> Float[Array, "b n"]:
        """The numbers for one of the augmentations of the paper: place, mirror, color, box."""
        names = list(_CORE)
        start = sum(_CORE[other] for other in names[: names.index(name)])
        return self._core[:, start : start + _CORE[name]]

    def uniform(self, name: str, number: int) -> Float[Array, "b number"]:
        """`number` further numbers, which depend on `name` and change no others."""
        folded = jax.vmap(lambda key: jax.random.fold_in(key, zlib.crc32(name.encode())))
        return _uniform(folded(self._keys), number)


def _uniform(keys: Key[Array, " b"], number: int) -> Float[Array, "b number"]:
    # Never -1 or 1, whose normal quantiles are infinite.
    low = np.nextafter(np.float32(-1), np.float32(0))
    return jax.vmap(lambda key: jax.random.uniform(key, (number,), minval=low))(keys)
