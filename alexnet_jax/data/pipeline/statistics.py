"""The mean image (§2) and the principal components of RGB values (§4.1) of the training images."""

import logging
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from alexnet_jax import files
from alexnet_jax.data.pipeline import cache, digests
from alexnet_jax.data.pipeline.splits import Dataset, Split
from alexnet_jax.errors import AlexNetError, StorageError

#: Version of the files in the cache folder.
VERSION = 2
#: Larger splits are represented by an even sample: a mean of 20,000 is good to half a gray level.
SAMPLE_ABOVE, SAMPLE = 60_000, 20_000
_CHUNK_BYTES = 4 * 2**20

log = logging.getLogger(__name__)


class Statistics(NamedTuple):
    """Statistics of images in gray levels, 0 to 255, and RGB order.

    Attributes:
        eigenvectors: Each column is a principal direction of the pixels' RGB values.
        stds: Standard deviations along the columns, ascending; squared, they are the eigenvalues.
    """

    mean_image: Float32[np.ndarray, "s s 3"]
    channel_mean: Float32[np.ndarray, " 3"]
    eigenvectors: Float32[np.ndarray, "3 3"]
    stds: Float32[np.ndarray, " 3"]


def shapes(size: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape, for square images of `size` pixels."""
    return dict(zip(Statistics._fields, ((size, size, 3), (3,), (3, 3), (3,)), strict=True))


def zeros(size: int) -> Statistics:
    """All-zero statistics for size x size images."""
    return Statistics(*(np.zeros(shape, np.float32) for shape in shapes(size).values()))


def compute(split: Split) -> Statistics:
    """Compute statistics over every pixel of every image of `split`, or of an even sample of a large one.

    Sums are whole numbers below 2^53 in float64, so exact in any order.
    """
    count = len(split.images)
    chosen = np.arange(count)
    if count > SAMPLE_ABOVE:
        chosen = np.linspace(0, count - 1, SAMPLE).astype(np.intp)
    first = split.images[chosen[:1]]
    total, products = np.zeros(first.shape[1:]), np.zeros((3, 3))
    step = max(_CHUNK_BYTES // first.nbytes, 1)
    for start in range(0, len(chosen), step):
        pixels = split.images[chosen[start : start + step]].astype(np.float64)
        total += pixels.sum(axis=0)
        flat = pixels.reshape(-1, 3)
        products += flat.T @ flat
    mean_image = total / len(chosen)
    channel_mean = mean_image.mean(axis=(0, 1))
    covariance = products / (len(chosen) * total[..., 0].size) - np.outer(
        channel_mean, channel_mean
    )
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    # A direction has no sign of its own: the largest component is made positive, on any machine.
    largest = eigenvectors[np.abs(eigenvectors).argmax(axis=0), np.arange(3)]
    eigenvectors *= np.where(largest < 0, -1.0, 1.0)
    stds = np.sqrt(np.maximum(eigenvalues, 0))
    return Statistics(
        *(x.astype(np.float32) for x in (mean_image, channel_mean, eigenvectors, stds))
    )


def read(
    path: pathlib.Path,
    size: int | None = None,
    *,
    error: type[AlexNetError] = StorageError,
    remedy: str = "",
) -> Statistics:
    """Read an .npz file, of images of `size` pixels or, if that is None, of any size. Raises `error`."""
    like: dict[str, tuple[files.Shape, str]] = {
        name: (shape, "float32") for name, shape in shapes(size or 0).items()
    }
    if size is None:
        like["mean_image"] = (("size", "size", 3), "float32")
    found = Statistics(**files.read_arrays(path, like, error=error, remedy=remedy))
    if found.stds.min() < 0:
        raise error(f"cannot read {path}: stds has the negative value {found.stds.min():g}")
    return found


def load(dataset: Dataset, cache_dir: pathlib.Path | None = None) -> Statistics:
    """Statistics of the train split of `dataset`; computed once for the same images, then read from the cache."""
    if dataset.statistics is not None:
        return dataset.statistics
    train = dataset.splits["train"]
    if train.digests is None:
        return compute(train)
    key = digests.cache_key(train.digests, dataset.decoding, dataset.times, VERSION)
    path = (cache_dir or cache.folder()) / f"statistics-{key}.npz"
    try:
        found = read(path)
        cache.touch(path)
        return found
    except StorageError:
        pass
    statistics = compute(train)
    size = sum(array.nbytes for array in statistics)
    try:
        with cache.replacing(path, size) as temporary, open(temporary, "wb") as file:
            np.savez(file, **statistics._asdict())
    except OSError as error:
        cache.warn("cannot keep statistics in %s: %s", path.parent, error.strerror)
    return statistics
