"""Images corrupted beforehand: the layouts of ImageNet-C (folders) and of CIFAR-10-C (NumPy files)."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from alexnet_jax import files
from alexnet_jax.data.pipeline.corruptions import KNOWN, SEVERITIES
from alexnet_jax.data.pipeline.image_files import MEMORY_LIMIT_BYTES, ImageFiles, fitted
from alexnet_jax.data.sources.tree import SUFFIXES
from alexnet_jax.errors import DataError, listed

LAYOUT = (
    "CORRUPTION/SEVERITY/CLASS/*.JPEG as in ImageNet-C, or CORRUPTION.npy and labels.npy as in CIFAR-10-C, for some of "
    f"{', '.join(KNOWN)}"
)


class CorruptedSet(NamedTuple):
    """The same images under several corruptions.

    Attributes:
        images: (corruption, severity) -> its images.
        labels: Of each image, numbers of `class_names`; the same for all corruptions.
        class_names: None if there are only class numbers.
        names: CLASS/NAME of each image, without suffix; None if images have no names.
        are_crops: Whether the images are crops to show to a net whole, rather than images to cut crops from.
    """

    images: dict[tuple[str, int], Any]
    labels: Integer[np.ndarray, " n"]
    class_names: tuple[str, ...] | None
    names: list[str] | None
    are_crops: bool


def load(
    path: pathlib.Path,
    size: int,
    crop: int,
    threads: int,
    names: Sequence[str] | None = None,
    processes: int | None = 0,
) -> CorruptedSet:
    """Open the corrupted images in a folder, as images of `size` pixels.

    Args:
        crop: The size of the center crop. Images of the layout of ImageNet-C are crops: they are resized to this size,
            and their edges repeated up to `size`.
        names: Corruptions to open; None for all. The files of others are not looked at.
        processes: As in ImageFiles, for the layout of ImageNet-C; `threads` resize arrays.

    Raises:
        DataError: Lists all that is missing or differs.
    """
    if not path.is_dir():
        raise DataError(f"no folder {path}; it should hold {LAYOUT}")
    try:
        arrays = {name: path / f"{name}.npy" for name in KNOWN if (path / f"{name}.npy").is_file()}
        there = arrays or _corruption_folders(path)
        if not there:
            raise DataError(f"{path} has no corrupted images; it should hold {LAYOUT}")
        if missing := [name for name in names or () if name not in there]:
            raise DataError(f"{path} has no {listed(missing, 20)}; it has {listed(there, 20)}")
        chosen = {name: place for name, place in there.items() if names is None or name in names}
        if arrays:
            return _of_arrays(path, chosen, size, threads)
        return _of_folders(path, chosen, size, crop, threads, processes)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None


def _of_arrays(
    path: pathlib.Path, arrays: dict[str, pathlib.Path], size: int, threads: int
) -> CorruptedSet:
    found: dict[str, np.ndarray] = {}
    faults = []
    for name, file in arrays.items():
        try:
            shape = ("images", "side", "side", 3)
            found[name] = files.read_array(file, shape, "uint8", mapped=True, error=DataError)
        except DataError as fault:
            faults.append(str(fault))
    counts = {len(one) for one in found.values()}
    if len(counts) > 1 or any(count % len(SEVERITIES) for count in counts):
        sizes = [f"{name}.npy {len(one):,}" for name, one in found.items()]
        faults.append(
            f"the files should have one number of images, five times that of each severity: {listed(sizes, 20)}"
        )
    if faults:
        raise DataError("; ".join(faults))
    count = counts.pop() // len(SEVERITIES)
    labels = files.read_array(path / "labels.npy", ("labels",), "integer", error=DataError)
    blocks = labels.reshape(-1, count) if count and len(labels) % count == 0 else labels[None]
    if blocks.shape not in ((1, count), (len(SEVERITIES), count)) or (blocks != blocks[0]).any():
        raise DataError(
            f"{path / 'labels.npy'} should have the labels of the {count:,} images once, or once for each severity"
        )
    if not count or labels.min() < 0:
        raise DataError(f"{path} has no images, or labels below 0")
    # All conditions are kept at once.
    limit = MEMORY_LIMIT_BYTES // (len(found) * len(SEVERITIES))
    images = {
        (name, severity): fitted(
            one[(severity - 1) * count : severity * count], size, threads, limit
        )
        for name, one in found.items()
        for severity in SEVERITIES
    }
    return CorruptedSet(images, blocks[0].astype(np.int64), None, None, are_crops=False)


def _corruption_folders(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """Find the folders of corruptions, in `path` or in folders such as noise, as the archives are named."""
    places = [path, *(entry for entry in sorted(path.iterdir()) if entry.is_dir())]
    found = {name: place / name for place in places for name in KNOWN if (place / name).is_dir()}
    return {name: found[name] for name in KNOWN if name in found}


def _of_folders(
    path: pathlib.Path,
    folders: dict[str, pathlib.Path],
    size: int,
    crop: int,
    threads: int,
    processes: int | None,
) -> CorruptedSet:
    places = {(name, s): folder / str(s) for name, folder in folders.items() for s in SEVERITIES}
    listings = {place: _listing(place) for place in places.values() if place.is_dir()}
    faults = [
        f"{place.parent} has no folder {place.name}"
        for place in places.values()
        if place not in listings
    ]
    first, names = next(iter(listings.items()), (path, {}))
    if listings and not names:
        faults.append(f"{first} has no image in a class folder")
    for place, listing in listings.items():
        if other := sorted(listing.keys() ^ names.keys()):
            faults.append(
                f"{place} has other images than {first}: they differ in {len(other):,} ({listed(other, 2)})"
            )
    if faults:
        raise DataError(f"{path}: {listed(faults, 20)}")
    order = sorted(names)
    classes = sorted({name.partition("/")[0] for name in order})
    numbers = {name: i for i, name in enumerate(classes)}
    labels = np.array([numbers[name.partition("/")[0]] for name in order])
    images = {
        key: _crops([listings[place][name] for name in order], size, crop, threads, processes)
        for key, place in places.items()
    }
    return CorruptedSet(images, labels, tuple(classes), order, are_crops=True)


def _listing(folder: pathlib.Path) -> dict[str, str]:
    """CLASS/NAME without suffix -> path of each image in the class folders of `folder`. Raises DataError."""
    found: dict[str, str] = {}
    for class_ in list(os.scandir(folder)):
        if class_.is_dir():
            for entry in list(os.scandir(class_.path)):
                stem, suffix = os.path.splitext(entry.name)
                if suffix.lower() in SUFFIXES and not stem.startswith("."):
                    name = f"{class_.name}/{stem}"
                    if name in found:
                        raise DataError(f"{folder} has two images {name}, which differ in suffix")
                    found[name] = entry.path
    return found


def _crops(
    paths: list[str], size: int, crop: int, threads: int, processes: int | None
) -> "_Padded":
    images = ImageFiles(
        lambda i: (None, paths[i]),
        len(paths),
        crop,
        threads=threads,
        processes=processes,
        identity=None,
    )
    return _Padded(images, size)


class _Padded:
    """Images in the center of larger ones, with their edges repeated."""

    def __init__(self, images: ImageFiles, size: int) -> None:
        self._images, self._size = images, size

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, indices: np.ndarray) -> UInt8[np.ndarray, "b s s 3"]:
        images = self._images[indices]
        before = (self._size - images.shape[1]) // 2
        width = (before, self._size - images.shape[1] - before)
        return np.pad(images, ((0, 0), width, width, (0, 0)), mode="edge")
