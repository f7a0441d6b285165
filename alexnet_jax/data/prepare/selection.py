"""The contents of a source of images, and the selection of those to store."""

import pathlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from alexnet_jax.data.pipeline.splits import SPLITS
from alexnet_jax.data.prepare import ilsvrc
from alexnet_jax.data.sources import cifar10, tfds, tree
from alexnet_jax.data.sources.archives import Member
from alexnet_jax.data.sources.tree import File
from alexnet_jax.errors import DataError, listed


@dataclass(frozen=True, order=True)
class CifarRecord:
    """Image `index` of a binary file of CIFAR-10 in an uncompressed tar."""

    file: Member
    index: int

    @property
    def title(self) -> str:
        """Name of the image in messages."""
        return f"{self.file.title}: image {self.index}"

    def read(self) -> UInt8[np.ndarray, "32 32 3"]:
        """Read the pixels. Raises DataError."""
        start = self.file.offset + self.index * cifar10.RECORD + 1
        planes = self.file._replace(offset=start, packed=3072, size=3072).read()
        return np.frombuffer(planes, np.uint8).reshape(3, 32, 32).transpose(1, 2, 0)


#: An image has a `title` for messages, and a method `read` that returns encoded bytes or pixels, or raises DataError.
Image = File | Member | CifarRecord | tfds.Example


class Found(NamedTuple):
    """Contents of a source.

    Attributes:
        kind: Description of the source.
        splits: Split -> class -> its images, sorted by name.
        words: Class -> its readable name, if the source has one.
        official: 'ILSVRC2012' or 'ILSVRC2010' for the official archives.
        notes: Descriptions of what was left out.
        stamp: A string that changes if an archive changes.
        faults: Descriptions of what must be corrected first.
        missing: Descriptions of what is missing, without which a declared subset does.
        layout: What the source should hold, as a hint in errors.
        direct: Whether training can read the source without a store.
    """

    path: pathlib.Path
    kind: str
    splits: dict[str, dict[str, list[Image]]]
    words: dict[str, str]
    official: str | None
    notes: list[str]
    stamp: str
    faults: Sequence[str] = ()
    direct: bool = False
    missing: Sequence[str] = ()
    layout: str = tree.LAYOUT


class Listing(NamedTuple):
    """The chosen images, sorted by class and name.

    Attributes:
        splits: Split -> its (label, image) pairs.
        classes: Synsets or folder names, sorted.
        words: Their readable names; equal to `classes` where the source has none.
    """

    kind: str
    splits: dict[str, list[tuple[int, Image]]]
    classes: tuple[str, ...]
    words: tuple[str, ...]
    notes: list[str]
    stamp: str


def select(
    found: Found,
    *,
    subset: bool,
    classes: tuple[str, ...] = (),
    max_per_class: int | None = None,
) -> Listing:
    """Select the images to store.

    Args:
        subset: If false, official archives must be complete, and all splits must have the classes of 'train'. If true,
            images of other classes are left out with a note.
        classes: Classes to select; empty selects all.
        max_per_class: Maximum number of images of each class and split; the first ones are selected.

    Raises:
        DataError: Lists all problems of the source.
    """
    names = found.splits["train"]
    faults = [*found.faults, *incomplete(found, subset)]
    faults += tree.unprintable(names) + numbered(names)
    if faults:
        raise tree.refusal(found.path, faults, layout=found.layout if found.faults else "")
    return listing(found, classes=classes, max_per_class=max_per_class)


def listing(
    found: Found, *, classes: tuple[str, ...] = (), max_per_class: int | None = None
) -> Listing:
    """Select images as `select` does, ignoring problems of the source. Raises DataError if nothing is selected."""
    names = tuple(sorted(found.splits["train"]))
    notes = list(found.notes)
    if classes:
        unknown = sorted(set(classes) - set(names))
        if unknown:
            known = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
            raise DataError(f"{found.path}: train has no class {unknown[0]!r}; it has {known}")
        names = tuple(sorted(set(classes)))
    splits = {}
    for split in SPLITS:
        if split not in found.splits:
            continue
        by_class = found.splits[split]
        others = sum(len(by_class[name]) for name in set(by_class) - set(found.splits["train"]))
        if others:
            notes.append(f"{others:,} images of {split} have classes that train does not have")
        splits[split] = [
            (label, image)
            for label, name in enumerate(names)
            for image in by_class.get(name, [])[:max_per_class]
        ]
        if not splits[split]:
            raise DataError(f"{found.path} has no images of {', '.join(names[:5])} ... in {split}")
    words = tuple(found.words.get(name, name) for name in names)
    return Listing(found.kind, splits, names, words, notes, found.stamp)


def numbered(names: Iterable[str]) -> list[str]:
    """Return a fault if all class names are numbers, because ImageNet's classes have several numberings.

    The numbers of the devkit are not in sorted order, and '10' sorts before '2'. A wrong numbering would ruin the
    accuracy without any error. The ten digits are allowed.
    """
    names = list(names)
    if not names or not all(name.isdigit() for name in names) or set(names) <= set("0123456789"):
        return []
    return [
        f"the classes are numbers ({listed(sorted(names), 3)}): it is unknown which classes these are, and as text "
        "10 sorts before 2; rename them to synsets (n01440764) or names"
    ]


def incomplete(found: Found, subset: bool = False) -> list[str]:
    """Return faults if counts are not the official ones or splits lack classes; none with `subset`."""
    if subset:
        return []
    hint = "; if this is intended, give --subset"
    faults = [one + hint for one in found.missing]
    if found.official:
        count = len(found.splits["train"])
        if count != ilsvrc.NUM_CLASSES:
            faults.append(f"{found.official} train has {count:,} classes, not 1,000{hint}")
        for split, expected in ilsvrc.COUNTS[found.official].items():
            count = sum(map(len, found.splits.get(split, {}).values()))
            if count != expected and split in found.splits:
                faults.append(
                    f"{found.official} {split} has {count:,} images, not {expected:,}: download it again{hint}"
                )
    classes = {split: by_class.keys() for split, by_class in found.splits.items()}
    return faults + [fault + hint for fault in tree.mismatches(classes)]
