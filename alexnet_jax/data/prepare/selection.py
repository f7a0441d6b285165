"""What a source holds, and what of it is chosen for a store."""

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
    """Image `index` of one of CIFAR-10's binary files, which lies in a plain tar."""

    file: Member
    index: int

    @property
    def title(self) -> str:
        return f"{self.file.title}: image {self.index}"

    def read(self) -> UInt8[np.ndarray, "32 32 3"]:
        """Raises DataError."""
        start = self.file.offset + self.index * cifar10.RECORD + 1
        planes = self.file._replace(offset=start, packed=3072, size=3072).read()
        return np.frombuffer(planes, np.uint8).reshape(3, 32, 32).transpose(1, 2, 0)


#: An image has a `title` for people and `read()`, which gives encoded bytes or pixels, or raises DataError.
Image = File | Member | CifarRecord | tfds.Example


class Found(NamedTuple):
    """Everything that a source holds.

    Attributes:
        kind: Description of the source.
        splits: Split -> class -> its images, sorted by name.
        words: Class -> its name for people, if the source gives one.
        official: 'ILSVRC2012' or 'ILSVRC2010' for their own archives.
        notes: Descriptions of what was left out.
        stamp: Changes when a file that holds many images does.
        faults: Descriptions of what has to be corrected first.
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


class Listing(NamedTuple):
    """The chosen images, sorted by class and name.

    Attributes:
        splits: Split -> (label, image) in order.
        classes: Synsets or names of folders, sorted.
        words: Their names for people; as `classes` where the source gives none.
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
    """Choose the images of `classes` (empty: all), at most the first `max_per_class` of each class and split.

    Without `subset`, official archives must be complete and all splits must have the classes of 'train'; with it,
    images of other classes are left out with a note. Raises DataError with everything that is wrong.
    """
    names = found.splits["train"]
    faults = [*found.faults, *incomplete(found, subset)]
    faults += tree.unprintable(names) + numbered(names)
    if faults:
        raise tree.refusal(found.path, faults, layout=tree.LAYOUT if found.faults else "")
    return listing(found, classes=classes, max_per_class=max_per_class)


def listing(
    found: Found, *, classes: tuple[str, ...] = (), max_per_class: int | None = None
) -> Listing:
    """As `select`, but ignores what is wrong with `found`. Raises DataError if nothing is chosen."""
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
        kinds = found.splits[split]
        strangers = sum(len(kinds[name]) for name in set(kinds) - set(found.splits["train"]))
        if strangers:
            notes.append(f"{strangers:,} images of {split} are of classes that train has not")
        splits[split] = [
            (label, image)
            for label, name in enumerate(names)
            for image in kinds.get(name, [])[:max_per_class]
        ]
        if not splits[split]:
            raise DataError(f"{found.path} has no images of {', '.join(names[:5])} ... in {split}")
    words = tuple(found.words.get(name, name) for name in names)
    return Listing(found.kind, splits, names, words, notes, found.stamp)


def numbered(names: Iterable[str]) -> list[str]:
    """A fault if all classes are numbers, because there are several numberings of ImageNet's classes.

    The devkit's numbers are not the sorted order, and '10' sorts before '2': confusing them destroys the accuracy
    without any error. The ten digits are exempt.
    """
    names = list(names)
    if not names or not all(name.isdigit() for name in names) or set(names) <= set("0123456789"):
        return []
    return [
        f"the classes are numbers ({listed(sorted(names), 3)}): nothing says which classes these are, and as text "
        "10 comes before 2; rename them to synsets (n01440764) or names"
    ]


def incomplete(found: Found, subset: bool = False) -> list[str]:
    """Faults if counts are not the official ones or splits lack classes; none if a `subset` is meant."""
    if subset:
        return []
    faults = []
    hint = "; if this is meant, say --subset"
    if found.official:
        kinds = found.splits["train"]
        if len(kinds) != ilsvrc.NUM_CLASSES:
            faults.append(f"{found.official} train has {len(kinds):,} classes, not 1,000{hint}")
        for split, expected in ilsvrc.COUNTS[found.official].items():
            count = sum(map(len, found.splits.get(split, {}).values()))
            if count != expected and split in found.splits:
                faults.append(
                    f"{found.official} {split} has {count:,} images, not {expected:,}: download it again{hint}"
                )
    classes = {split: kinds.keys() for split, kinds in found.splits.items()}
    return faults + [fault + hint for fault in tree.mismatches(classes)]
