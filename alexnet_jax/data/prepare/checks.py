"""Checks of `alexnet doctor` on a whole dataset: image counts, label order and colors."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.pipeline.splits import Split
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.data.prepare import ilsvrc
from alexnet_jax.data.sources.labels import is_synset
from alexnet_jax.errors import listed, printable

#: Maximum ratio of the standard deviation of a color to ImageNet's, or the inverse; a sample of 300 photographs, one
#: per class, differs by up to 1.26.
TOLERANCE = 1.5


class Contents(NamedTuple):
    """A dataset to check.

    Attributes:
        words: Readable names of the classes.
        official: 'ILSVRC2012' or 'ILSVRC2010' if the source declares it.
        subset: Whether it is meant to have fewer classes or images than the official dataset.
    """

    classes: tuple[str, ...]
    words: tuple[str, ...]
    splits: dict[str, Split]
    official: str | None
    subset: bool
    statistics: Statistics


class Finding(NamedTuple):
    """One line of the report: a fault to correct, a note, or a passed check."""

    #: Whether the user has to correct something.
    is_fault: bool
    text: str
    note: bool = False

    def __str__(self) -> str:
        label = "FIX" if self.is_fault else "NOTE" if self.note else "ok"
        return f"{label:4}  {printable(self.text)}"


def as_note(text: str) -> Finding:
    """Make a finding that is worth knowing but needs no correction."""
    return Finding(False, text, note=True)


def counts(contents: Contents) -> Iterator[Finding]:
    """Count the images by split and class, and compare the counts with those of ILSVRC."""
    for name, split in contents.splits.items():
        counts = np.bincount(split.labels, minlength=len(contents.classes))
        empty = [contents.classes[i] for i in np.flatnonzero(counts == 0)]
        text = f"{name}: {len(split.labels):,} images, {counts.min():,} to {counts.max():,} a class"
        if empty:
            text += f"; none of {len(empty):,} classes: {listed(empty)}"
        # As in training, a class without training images is a fault; one without other images is only a note.
        yield Finding(bool(empty) and name == "train", text, note=bool(empty))
    official = _official(contents)
    if official is None:
        yield Finding(
            False,
            f"{len(contents.classes):,} classes; not an ILSVRC dataset, so the counts are not checked",
        )
        return
    expected = {"classes": ilsvrc.NUM_CLASSES, **ilsvrc.COUNTS[official]}
    found = {name: len(split.labels) for name, split in contents.splits.items()}
    found["classes"] = len(contents.classes)
    differing = [
        f"{found[name]:,} of {count:,} {name if name == 'classes' else name + ' images'}"
        for name, count in expected.items()
        if name in found and found[name] != count
    ]
    if not differing:
        yield Finding(False, f"the counts are exactly those of {official}")
    elif contents.subset:
        yield Finding(
            False,
            f"a subset of {official} ({', '.join(differing)}): its errors are not comparable to published ones",
        )
    else:
        yield Finding(
            True,
            f"{', '.join(differing)} of {official}: complete the data, or give --subset if this is intended",
        )


def _official(contents: Contents) -> str | None:
    """Return the ILSVRC dataset that this is; if all classes are synsets, assume ILSVRC-2012."""
    if contents.official is None and all(map(is_synset, contents.classes)):
        return "ILSVRC2012"
    return contents.official


def order(contents: Contents) -> Iterator[Finding]:
    """Check that label i is the i-th synset in sorted order, as in all published weights."""
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
                "1,000 classes of ILSVRC-2012; add the missing classes and remove the others",
            )
            return
        if synset in classes:
            label = classes.index(synset)
            if words[label] != synset and word.split()[-1] not in words[label].lower():
                yield Finding(
                    True,
                    f"class {label}, {synset}, is called {words[label]!r} and should be {word!r}: "
                    "the names have a different order; use meta.mat of the 2012 devkit",
                )
                return
    first = f"class 0 is {classes[0]}" + (f", {words[0]}" if words[0] != classes[0] else "")
    if classes[0] == ilsvrc.KNOWN_CLASSES[0][0] and words[0] == classes[0]:
        first += f", {ilsvrc.KNOWN_CLASSES[0][1]}"
    yield Finding(False, f"labels are in the order of sorted synsets; {first}")


def colors(contents: Contents) -> Iterator[Finding]:
    """Report the mean and standard deviations of the colors, and compare them with ImageNet's."""
    statistics = contents.statistics
    stds = ", ".join(f"{std:.1f}" for std in statistics.stds)
    mean = ", ".join(f"{value:.1f}" for value in statistics.channel_mean)
    text = f"color: standard deviations {stds}, mean {mean} (RGB, of 255)"
    if _official(contents) is None:
        yield Finding(False, text)
        return
    published = ", ".join(f"{std:.1f}" for std in ilsvrc.STDS)
    text += f"; those of ILSVRC-2012 are {published}"
    ratios = statistics.stds / np.array(ilsvrc.STDS)
    if ratios.max() > TOLERANCE or ratios.min() < 1 / TOLERANCE:
        yield Finding(
            True,
            f"{text}: too different for photographs of ImageNet; were the images changed, or is this "
            "another dataset?",
        )
    elif statistics.channel_mean[0] < statistics.channel_mean[2]:
        yield Finding(True, f"{text}: more blue than red; were the channels swapped (BGR)?")
    else:
        yield Finding(False, text)
