"""The mean image (§2) and the principal components of RGB values (§4.1) of the training images."""

import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from alexnet_jax import files
from alexnet_jax.data.pipeline import cache, digests
from alexnet_jax.data.pipeline.splits import Dataset, Split
from alexnet_jax.errors import AlexNetError, StorageError

#: Version of the files in the cache folder.
VERSION = 2
#: Above this number of images, an evenly spaced sample is used; its mean is accurate to half a gray level.
SAMPLE_ABOVE, SAMPLE = 60_000, 20_000
#: What is read at once, enough for many processes to decode; pixels of which products are summed at once.
_CHUNK_BYTES, _CHUNK_PIXELS = 32 * 2**20, 2**17


class Statistics(NamedTuple):
    """Statistics of RGB images with values from 0 to 255.

    Attributes:
        mean_image: Mean over the images.
        channel_mean: Mean over the images and their pixels.
        eigenvectors: Each column is a principal component of the pixels' RGB values.
        stds: Standard deviation along each column, ascending; the square roots of the eigenvalues.
    """

    mean_image: Float32[np.ndarray, "s s 3"]
    channel_mean: Float32[np.ndarray, " 3"]
    eigenvectors: Float32[np.ndarray, "3 3"]
    stds: Float32[np.ndarray, " 3"]


def shapes(size: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each field, for size x size images."""
    return dict(zip(Statistics._fields, ((size, size, 3), (3,), (3, 3), (3,)), strict=True))


def zeros(size: int) -> Statistics:
    """Return all-zero statistics for size x size images."""
    return Statistics(*(np.zeros(shape, np.float32) for shape in shapes(size).values()))


def compute(split: Split) -> Statistics:
    """Compute the statistics of all images of a split, or of an evenly spaced sample of a large split.

    The sums are integers below 2^53 in float64, and so exact in any order of the images.
    """
    count = len(split.images)
    chosen = np.arange(count)
    if count > SAMPLE_ABOVE:
        chosen = np.linspace(0, count - 1, SAMPLE).astype(np.intp)
    first = split.images[chosen[:1]]
    total, products = np.zeros(first.shape[1:]), np.zeros((3, 3))
    step = max(_CHUNK_BYTES // first.nbytes, 1)
    for start in range(0, len(chosen), step):
        pixels = split.images[chosen[start : start + step]]
        total += pixels.sum(axis=0, dtype=np.uint32)
        flat = pixels.reshape(-1, 3)
        for i in range(0, len(flat), _CHUNK_PIXELS):
            products += _products(flat[i : i + _CHUNK_PIXELS])
    mean_image = total / len(chosen)
    channel_mean = mean_image.mean(axis=(0, 1))
    covariance = products / (len(chosen) * total[..., 0].size) - np.outer(
        channel_mean, channel_mean
    )
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    # The sign of an eigenvector is arbitrary: make its largest component positive, so that machines agree.
    largest = eigenvectors[np.abs(eigenvectors).argmax(axis=0), np.arange(3)]
    eigenvectors *= np.where(largest < 0, -1.0, 1.0)
    stds = np.sqrt(np.maximum(eigenvalues, 0))
    return Statistics(
        *(x.astype(np.float32) for x in (mean_image, channel_mean, eigenvectors, stds))
    )


def _products(pixels: UInt8[np.ndarray, "n 3"]) -> Float64[np.ndarray, "3 3"]:
    """Sum the products of the channels; exact, as 256 products of 8-bit values fit into the 24 bits of float32."""
    channels = np.zeros((3, -(-len(pixels) // 256), 256), np.float32)
    channels.reshape(3, -1)[:, : len(pixels)] = pixels.T
    return np.vecdot(channels[:, None], channels).sum(axis=-1, dtype=np.float64)


def read(
    path: pathlib.Path,
    size: int | None = None,
    *,
    error: type[AlexNetError] = StorageError,
    remedy: str = "",
) -> Statistics:
    """Read statistics of size x size images (None: of any size) from an .npz file. Raises `error`."""
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
    """Return the statistics of the train split, from the cache if they were computed before for the same images."""
    if dataset.statistics is not None:
        return dataset.statistics
    train = dataset.splits["train"]
    if train.digests is None:
        return compute(train)
    key = digests.cache_key(train.digests, dataset.decoding, dataset.times, VERSION)
    path = (cache_dir or files.cache_folder()) / f"statistics-{key}.npz"
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
