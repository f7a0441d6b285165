"""Datasets and splits, the common result of all data sources, and functions that select parts of them."""

import difflib
import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Int32, Integer, UInt8, UInt64

from alexnet_jax.errors import DataError, listed

#: Split -> the names that its folder, archive or array may have.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
#: The splits to evaluate on by default, in order of preference.
PREFERRED = ("test", "val", "train")

log = logging.getLogger(__name__)


class Images(Protocol):
    """Images of one size, indexed by an array of integers."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: np.ndarray, /) -> UInt8[np.ndarray, "b s s 3"]: ...


class Split(NamedTuple):
    """Images with their labels.

    Attributes:
        digests: Digest of the stored bytes of each image; every data source sets it.
    """

    images: Any  # Images; Any because None and test doubles stand in for them
    labels: Int32[np.ndarray, " n"]
    digests: UInt64[np.ndarray, " n"] | None = None


class Dataset(NamedTuple):
    """Everything that a data source provides.

    Attributes:
        splits: 'train' and, if the source has them, 'val' and 'test'.
        fingerprint: Hash of the digests, labels and classes of all splits and the stored size; set by open_dataset.
        statistics: The stored statistics.Statistics of this 'train' split, if any.
        notes: One line for each reason why files were left out.
        skipped: One line for each image that data.skip_unreadable left out, with the reason.
        times: Hash of the files' sizes, inodes and times, if `digests` cover only a sample of large data; else ''.
        decoding: The settings that pixels depend on besides the files: stored size, EXIF, version of the decoder.
        applies_exif: Whether the source decodes photos, so that data.exif has an effect.
    """

    splits: dict[str, Split]
    class_names: tuple[str, ...]
    fingerprint: str = ""
    statistics: Any = None
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    times: str = ""
    decoding: str = ""
    applies_exif: bool = False


def split_of(name: str) -> str | None:
    """Return the split that a folder name stands for, ignoring case; None for other names."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


class View:
    """A selection of `images` in the order of `indices`, without a copy."""

    def __init__(self, images: Images, indices: np.ndarray) -> None:
        self._images, self._indices = images, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, indices: np.ndarray) -> UInt8[np.ndarray, "b s s 3"]:
        return self._images[self._indices[indices]]

    @property
    def paths(self) -> list[str] | None:
        """The paths of the image files, as `paths_of` returns them."""
        paths = paths_of(self._images)
        return None if paths is None else [str(paths[i]) for i in self._indices]


def paths_of(images: Any) -> Sequence[str] | None:
    """Return the paths of the files that images are read from; None if they have no files of their own."""
    return getattr(images, "paths", None)


def take(split: Split, indices: np.ndarray) -> Split:
    """Select the examples `indices` of a split, without copying the images."""
    digests = None if split.digests is None else split.digests[indices]
    return Split(View(split.images, indices), split.labels[indices], digests)


def drawn(total: int, count: int, seed: int) -> Integer[np.ndarray, " count"]:
    """Draw the numbers of `count` of `total` examples, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def default(names: Iterable[str]) -> str:
    """Return the split that a command uses by default: test, or else val, or else train with a warning."""
    name = next((name for name in PREFERRED if name in names), "train")
    if name == "train":
        log.warning(
            "the data have no test or val split: using train, the images that the network was trained on"
        )
    return name


def class_numbers(wanted: tuple[str, ...], names: tuple[str, ...]) -> list[int]:
    """Return the indices of the classes `wanted`. Raises DataError that suggests the closest name."""
    for name in wanted:
        if name not in names:
            guess = difflib.get_close_matches(name, names, 1)
            known = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
            hint = f'did you mean "{guess[0]}"?' if guess else f"the classes are {known}"
            raise DataError(f"config.data.classes: no class {name!r} in the data; {hint}")
    if len(set(wanted)) < len(wanted):
        raise DataError(f"config.data.classes names a class twice: {', '.join(wanted)}")
    return [names.index(name) for name in wanted]


def keep_classes(dataset: Dataset, wanted: tuple[str, ...]) -> Dataset:
    """Keep only the images of the classes `wanted`, and number the classes in that order. Raises DataError."""
    kept = class_numbers(wanted, dataset.class_names)
    if dataset.class_names == wanted:
        return dataset
    numbers = np.full(len(dataset.class_names), -1)
    numbers[kept] = np.arange(len(kept))
    dataset = renumber(dataset, numbers, wanted)
    splits = {
        name: take(split, np.flatnonzero(split.labels >= 0))
        for name, split in dataset.splits.items()
    }
    return dataset._replace(splits=splits)


def renumber(
    dataset: Dataset, numbers: Integer[np.ndarray, " classes"], names: tuple[str, ...]
) -> Dataset:
    """Give class i the number `numbers[i]`, which is that of a class in `names`; classes may be missing."""
    if dataset.class_names == names:
        return dataset
    numbers = numbers.astype(np.int32)
    splits = {
        name: split._replace(labels=numbers[split.labels]) for name, split in dataset.splits.items()
    }
    return dataset._replace(splits=splits, class_names=names, statistics=None)


def summary(dataset: Dataset) -> dict[str, Any]:
    """Summarize a dataset for the records of a run: images by split and class, and the images left out."""
    counts = {}
    for name, split in dataset.splits.items():
        found = np.bincount(split.labels, minlength=len(dataset.class_names)).tolist()
        counts[name] = dict(zip(dataset.class_names, found, strict=True))
    return {"images": counts, "left_out": list(dataset.notes), "skipped": list(dataset.skipped)}


def sizes(dataset: Dataset) -> str:
    """Return the number of images of each split, as text."""
    return ", ".join(f"{len(split.labels):,} {name}" for name, split in dataset.splits.items())


#: Texts for the two fields of Duplicates, by their keys in the report of a prepared dataset.
TWICE = {
    "duplicates": "files are in two splits, byte for byte: an error measured on them is a training error",
    "two_classes": "files are under two classes, byte for byte: at most one of the labels is right",
}


class Duplicates(NamedTuple):
    """Pairs of equal images; each image is (split, index).

    Attributes:
        splits: Pairs in different splits.
        classes: Pairs with different labels.
    """

    splits: list[tuple[tuple[str, int], tuple[str, int]]]
    classes: list[tuple[tuple[str, int], tuple[str, int]]]

    def notes(self, title: Callable[[str, int], str]) -> list[str]:
        """Describe each kind that occurs: the number of pairs, and the first three, named by `title(split, index)`."""
        notes = []
        for text, pairs in zip(TWICE.values(), self, strict=True):
            if pairs:
                first = [" = ".join(title(*image) for image in pair) for pair in pairs[:3]]
                notes.append(f"{len(pairs):,} {text}: {listed(first)}")
        return notes


def duplicates(
    digests: Mapping[str, Sequence[Hashable]], labels: Mapping[str, Sequence[int] | np.ndarray]
) -> Duplicates:
    """Find equal `digests` in two splits or under two classes; each is paired with its first occurrence.

    'train' is read last, so that each training image with a copy in a held-out split gives a pair.

    Args:
        digests: For each split; None for an unknown digest.
        labels: For each split.
    """
    first: dict[Hashable, tuple[str, int]] = {}
    found = Duplicates([], [])
    for name in sorted(digests, key=lambda split: split == "train"):
        for i, digest in enumerate(digests[name]):
            if digest is None:
                continue
            original = first.setdefault(digest, (name, i))
            if original[0] != name:
                found.splits.append((original, (name, i)))
            if labels[original[0]][original[1]] != labels[name][i]:
                found.classes.append((original, (name, i)))
    return found


def held_out(
    labels: Integer[np.ndarray, " n"], share: float, generator: np.random.Generator
) -> Bool[np.ndarray, " n"]:
    """Draw a mask that selects a fraction `share` of the examples of each class."""
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        mask[generator.permutation(members)[: held_out_count(len(members), share)]] = True
    return mask


def held_out_count(members: int, share: float) -> int:
    """The number of examples of a class that `held_out` selects."""
    return round(share * members)


def class_names(found: Iterable, where: object) -> tuple[str, ...]:
    """Convert class names (str, bytes or numbers) to str; `where` names their origin in errors.

    Removes a leading byte order mark, which some editors write. Raises DataError for an empty or repeated name,
    because results are matched by class name.
    """
    names: list[str] = []
    for name in found:
        try:
            names.append(name.decode() if isinstance(name, bytes) else str(name))
        except UnicodeDecodeError:
            raise DataError(f"{where}: the class name {name!r} is not UTF-8 text") from None
    names[:1] = [name.removeprefix("\ufeff") for name in names[:1]]
    for number, name in enumerate(names):
        if not name.strip():
            raise DataError(f"{where}: the name of class {number} (from 0) is empty")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        numbers = [str(i) for i, name in enumerate(names) if name == twice]
        raise DataError(
            f"{where}: the classes {' and '.join(numbers)} (from 0) have the same name {twice!r}; rename one"
        )
    return tuple(names)
