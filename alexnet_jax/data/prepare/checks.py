"""What `doctor` checks of a dataset: counts, label order and colors."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.pipeline.splits import Split
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.data.prepare import ilsvrc
from alexnet_jax.errors import listed, printable

#: Largest ratio to the standard deviations of ImageNet's colors; 300 photographs, one a class, are up to 1.26 apart.
TOLERANCE = 1.5


class Contents(NamedTuple):
    """A dataset to check.

    Attributes:
        words: Names of the classes for people.
        official: 'ILSVRC2012' or 'ILSVRC2010' if the source says so.
        subset: Whether fewer classes or images than the official ones are intended.
    """

    classes: tuple[str, ...]
    words: tuple[str, ...]
    splits: dict[str, Split]
    official: str | None
    subset: bool
    statistics: Statistics


class Finding(NamedTuple):
    """One line of the report: something to correct, a note, or that all is well."""

    mend: bool
    text: str
    note: bool = False

    def __str__(self) -> str:
        return f"{'MEND' if self.mend else 'NOTE' if self.note else 'ok  '}  {printable(self.text)}"


def as_note(text: str) -> Finding:
    """A finding to know, with nothing to correct."""
    return Finding(False, text, note=True)


def counts(contents: Contents) -> Iterator[Finding]:
    """Images by split and class, and whether they are the official counts of ILSVRC."""
    for name, split in contents.splits.items():
        counts = np.bincount(split.labels, minlength=len(contents.classes))
        empty = [contents.classes[i] for i in np.flatnonzero(counts == 0)]
        text = f"{name}: {len(split.labels):,} images, {counts.min():,} to {counts.max():,} a class"
        if empty:
            text += f"; none of {len(empty):,} classes: {listed(empty)}"
        # What training does: it refuses a class without training images, and warns of others.
        yield Finding(bool(empty) and name == "train", text, note=bool(empty))
    official = _official(contents)
    if official is None:
        yield Finding(
            False, f"{len(contents.classes):,} classes; not an ILSVRC, whose counts are known"
        )
        return
    expected = {"classes": ilsvrc.NUM_CLASSES, **ilsvrc.COUNTS[official]}
    found = {name: len(split.labels) for name, split in contents.splits.items()}
    found["classes"] = len(contents.classes)
    fewer = [
        f"{found[name]:,} of {count:,} {name if name == 'classes' else name + ' images'}"
        for name, count in expected.items()
        if name in found and found[name] != count
    ]
    if not fewer:
        yield Finding(False, f"the counts of {official}, exactly")
    elif contents.subset:
        yield Finding(
            False,
            f"a subset of {official} ({', '.join(fewer)}): its errors compare with no published one",
        )
    else:
        yield Finding(
            True,
            f"{', '.join(fewer)} of {official}: complete the data, or say --subset if this is meant",
        )


def _official(contents: Contents) -> str | None:
    """Which ILSVRC this is; classes that are synsets are taken for ILSVRC-2012."""
    if contents.official is None and all(map(ilsvrc.is_synset, contents.classes)):
        return "ILSVRC2012"
    return contents.official


def order(contents: Contents) -> Iterator[Finding]:
    """Whether label i is the i-th synset in sorted order, as in all published weights."""
    classes, words = contents.classes, contents.words
    if list(classes) != sorted(classes):
        yield Finding(True, "the classes are not in sorted order: prepare the store again")
    if _official(contents) != "ILSVRC2012":
        return
    for i, (synset, word) in ilsvrc.KNOWN_CLASSES.items():
        if len(classes) == ilsvrc.NUM_CLASSES and classes[i] != synset:
            yield Finding(
                True,
                f"class {i} is {classes[i]} and should be {synset} ({word}): these are not the "
                "1,000 classes of ILSVRC-2012; get the missing ones, take out the others",
            )
            return
        if synset in classes:
            place = classes.index(synset)
            if words[place] != synset and word.split()[-1] not in words[place].lower():
                yield Finding(
                    True,
                    f"class {place}, {synset}, is called {words[place]!r} and should be {word!r}: "
                    "the names are of another order; take meta.mat of the devkit of 2012",
                )
                return
    first = f"class 0 is {classes[0]}" + (f", {words[0]}" if words[0] != classes[0] else "")
    if classes[0] == ilsvrc.KNOWN_CLASSES[0][0] and words[0] == classes[0]:
        first += f", {ilsvrc.KNOWN_CLASSES[0][1]}"
    yield Finding(False, f"labels count by sorted synsets; {first}")


def colors(contents: Contents) -> Iterator[Finding]:
    """Mean and standard deviations of colors; those of ImageNet are known."""
    found = contents.statistics
    shown = ", ".join(f"{std:.1f}" for std in found.stds)
    mean = ", ".join(f"{value:.1f}" for value in found.channel_mean)
    text = f"color: standard deviations {shown}, mean {mean} (RGB, of 255)"
    if _official(contents) is None:
        yield Finding(False, text)
        return
    published = ", ".join(f"{std:.1f}" for std in ilsvrc.STDS)
    text += f"; ILSVRC-2012 had {published} in 2012"
    ratios = found.stds / np.array(ilsvrc.STDS)
    if ratios.max() > TOLERANCE or ratios.min() < 1 / TOLERANCE:
        yield Finding(
            True,
            f"{text}: too different for photographs of ImageNet; were they changed, or is this "
            "another set?",
        )
    elif found.channel_mean[0] < found.channel_mean[2]:
        yield Finding(True, f"{text}: more blue than red; were the channels swapped (BGR)?")
    else:
        yield Finding(False, text)
