"""What every data source returns, and the two ways to take a part of it: by class and by chance."""

import difflib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.errors import DataError


class Split(NamedTuple):
    images: Any
    """`len(images)`, and `images[int array]` -> uint8 [b s s 3]."""
    labels: np.ndarray
    """int32 [n]"""


class Dataset(NamedTuple):
    splits: dict[str, Split]
    """Of 'train', 'val' and 'test' those that there are; 'train' always."""
    class_names: tuple[str, ...]
    fingerprint: str
    """SHA-256 of the content: of (relative path, size, label) of files, of the bytes of arrays."""
    statistics: Any = None
    """statistics.Statistics of exactly this 'train', where the source has them."""


class View:
    """Some of `images`, in the order of `indices`, without a copy."""

    def __init__(self, images, indices: np.ndarray):
        self._images, self._indices = images, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return self._images[self._indices[indices]]


def take(split: Split, indices: np.ndarray) -> Split:
    return Split(View(split.images, indices), split.labels[indices])


def class_numbers(wanted: tuple[str, ...], names: tuple[str, ...]) -> list[int]:
    """The numbers of the classes `wanted`. Raises DataError with the nearest name."""
    for name in wanted:
        if name not in names:
            guess = difflib.get_close_matches(name, names, 1)
            known = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
            hint = f'did you mean "{guess[0]}"?' if guess else f"there are {known}"
            raise DataError(f"config.data.classes: no class {name!r} in the data; {hint}")
    if len(set(wanted)) < len(wanted):
        raise DataError(f"config.data.classes names a class twice: {', '.join(wanted)}")
    return [names.index(name) for name in wanted]


def keep_classes(dataset: Dataset, wanted: tuple[str, ...]) -> Dataset:
    """Only the images of the classes `wanted`, numbered in that order. Raises DataError."""
    numbers = class_numbers(wanted, dataset.class_names)
    if dataset.class_names == wanted:
        return dataset
    renumber = np.full(len(dataset.class_names), -1, np.int32)
    renumber[numbers] = np.arange(len(numbers), dtype=np.int32)
    splits = {}
    for name, split in dataset.splits.items():
        labels = renumber[split.labels]
        kept = np.flatnonzero(labels >= 0)
        splits[name] = Split(View(split.images, kept), labels[kept])
    return dataset._replace(splits=splits, class_names=wanted, statistics=None)


def held_out(labels: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """A mask of `share` of the examples of every class, drawn by `generator`; bool [n]."""
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        mask[generator.permutation(members)[: round(share * len(members))]] = True
    return mask


def class_names(found: Iterable, where: object) -> tuple[str, ...]:
    """Names of classes as text, whether they are text, bytes or numbers; `where` they are from.

    A byte order mark, with which some editors begin a file, is no part of a name. Raises DataError for a name that
    is empty or there twice, since results are compared by the names.
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
            f"{where}: the classes {' and '.join(numbers)} (from 0) have the same name {twice!r}; give each its own"
        )
    return tuple(names)
