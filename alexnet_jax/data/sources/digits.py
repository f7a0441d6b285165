"""Source 'digits': scikit-learn's handwritten digits, which need no download."""

import numpy as np

from alexnet_jax.data.pipeline import digests
from alexnet_jax.data.pipeline.image_files import fitted
from alexnet_jax.data.pipeline.splits import Dataset, Split, held_out
from alexnet_jax.specs import DataSpec

_SEED = 0x646967


def load(spec: DataSpec) -> Dataset:
    """Load 1,797 digits of 8x8 pixels in 17 gray levels, enlarged; a random fifth of each class is 'test'.

    The split is the same for every seed. It is not the last fifth, as is common, because those digits are by other
    writers.
    """
    from sklearn.datasets import load_digits

    levels, target = load_digits(return_X_y=True)
    pixels = np.rint(np.asarray(levels).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = np.asarray(target, np.int32)
    test = held_out(labels, 0.2, np.random.default_rng(_SEED))
    hashes = digests.of_rows(pixels)
    splits = {
        name: Split(fitted(pixels[mask], spec.image_size, spec.threads), labels[mask], hashes[mask])
        for name, mask in (("train", ~test), ("test", test))
    }
    return Dataset(splits, tuple(map(str, range(10))))
