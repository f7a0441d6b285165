"""What every data source returns, and the two ways to take a part of it: by class and by chance."""

import difflib
import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.errors import DataError

log = logging.getLogger(__name__)

PREFERRED = ("test", "val", "train")
"""Which split stands for a net where none is named, the best first."""


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


def default(names: Iterable[str]) -> str:
    """The split that a command takes when it is told none: test, or else val, or else train, with a warning."""
    name = next((name for name in PREFERRED if name in names), "train")
    if name == "train":
        log.warning(
            "there is no test and no val: the images are those of train, which the network learned from"
        )
    return name


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
