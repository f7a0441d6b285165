"""Classes of images that come with labels: integers, with or without names, or the names themselves.

Classes are named so that their sorted order is right in every form of a dataset: if the file names of the training
images tell the synset of each label, as ImageNet's do, classes are synsets; else the names that the source gives; else
the numbers.
"""

import pathlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from alexnet_jax.data.pipeline.splits import class_names
from alexnet_jax.data.sources import tree
from alexnet_jax.data.sources.listing import Item, Listing
from alexnet_jax.errors import DataError, listed, printable

_LEADING, _TRAILING = re.compile(r"(n\d{8})_"), re.compile(r"_(n\d{8})(?=\.\w+$|$)")


class Example(NamedTuple):
    """An image of a source.

    Attributes:
        label: Number of its class, or the name of its class; None or -1 if it has none.
        name: Its file name, by which the images of a class are sorted; '' if it has none.
    """

    label: int | str | None
    name: str
    item: Item


def is_synset(name: str) -> bool:
    return re.fullmatch(r"n\d{8}", name) is not None


def synset_of(name: str) -> str | None:
    """Return the synset in a file name such as n01440764_10026.JPEG or ILSVRC2012_val_00000293_n01440764.JPEG."""
    match = _LEADING.match(name) or _TRAILING.search(name)
    return match[1] if match else None


def original_name(name: str) -> str:
    """Remove folders, and the synset that copies of ImageNet append to its file names."""
    return _TRAILING.sub("", name.rsplit("/", 1)[-1])


def by_class(
    root: pathlib.Path,
    kind: str,
    examples: dict[str, list[Example]],
    names: Sequence[str] | None = None,
    **others: Any,
) -> Listing:
    """List examples by split and class, and collect the faults of their labels.

    A split without any label is left out with a note, and so are named classes without images.

    Args:
        names: Class names of the labels 0, 1, ...; None if the source has none.
        others: Further fields of the listing.
    """
    notes, table = list(others.pop("notes", ())), {}
    for split, found in list(examples.items()):
        if found and all(example.label in (None, -1) for example in found):
            notes.append(f"left out {split}: none of its {len(found):,} images has a label")
            del examples[split]
    faults = list(others.pop("faults", ()))
    try:
        class_names(names or (), root)
    except DataError as error:
        faults.append(str(error))
    examples = _numbers(examples)
    labels = _Labels(examples, names)
    splits: dict[str, dict[str, list[Item]]] = {split: {} for split in examples}
    for split, found in examples.items():
        order = sorted(range(len(found)), key=lambda i: (original_name(found[i].name), i))
        for label, name, item in (found[i] for i in order):
            class_ = labels.classes.get(label)
            base = name.rsplit("/", 1)[-1]
            if label is None or label == -1 or label == "":
                tree.tally(table, f"images of {split} without a label", printable(item.title))
            elif class_ is None:
                fault = f"images of {split} whose label is none of {labels.range}"
                tree.tally(table, fault, printable(f"{item.title} has {label!r}"))
            else:
                if labels.are_synsets and synset_of(base) not in (None, class_):
                    fault = (
                        "images whose names and labels have different synsets; correct the labels"
                    )
                    tree.tally(table, fault, f"{printable(item.title)} has {class_}")
                splits[split].setdefault(class_, []).append(item)
    if names is not None:
        used = set().union(*splits.values())
        if unused := sorted(set(labels.classes.values()) - used):
            notes.append(
                f"left out {len(unused):,} of {len(names):,} classes, which have no images: {listed(unused)}"
            )
    faults += tree.in_words(table)
    if not splits.get("train"):
        splits.setdefault("train", {})
        faults.append("there is no split train with labeled images")
    return Listing(root, kind, splits, words=labels.words, faults=faults, notes=notes, **others)


class _Labels:
    """Names the classes of labels.

    Attributes:
        classes: Label -> its class.
        words: Synset -> the name that the source gives, if the classes are synsets.
        are_synsets: Whether all classes are synsets.
        range: Description of the valid labels.
    """

    def __init__(self, examples: dict[str, list[Example]], names: Sequence[str] | None):
        seen = {example.label for found in examples.values() for example in found} - {None, -1, ""}
        numbers = sorted(label for label in seen if isinstance(label, int) and label >= 0)
        self.words: dict[str, str] = {}
        self.range = f"0 to {len(names) - 1:,}" if names is not None else "the classes"
        self.classes: dict[int | str | None, str] = {x: x for x in seen if isinstance(x, str)}
        synsets = _synsets(examples.get("train", ()))
        in_range = names is None or all(number < len(names) for number in numbers)
        if synsets and not self.classes and synsets.keys() == set(numbers) and in_range:
            self.classes |= synsets
            if names is not None:
                self.words = {synsets[number]: names[number] for number in numbers}
        elif names is not None and not all(name.isdecimal() for name in names):
            self.classes |= dict(enumerate(names))
        else:
            known = {number: number for number in numbers}
            if names is not None:
                known = {label: int(name) for label, name in enumerate(names)}
            digits = max((len(str(number)) for number in known.values()), default=1)
            # Text sorts like the numbers, and `alexnet prepare` does not take it for the numbers of a devkit.
            form = "{}" if digits == 1 else f"label {{:0{digits}}}"
            self.classes |= {label: form.format(number) for label, number in known.items()}
        values = set(self.classes.values())
        self.are_synsets = bool(values) and all(map(is_synset, values))


def _numbers(examples: dict[str, list[Example]]) -> dict[str, list[Example]]:
    """Turn labels that are text into integers if all of them are numbers."""
    texts = {one.label for part in examples.values() for one in part if isinstance(one.label, str)}
    texts -= {""}
    if not texts or not all(re.fullmatch(r"[0-9]{1,9}", text) for text in texts):
        return examples
    return {
        split: [one._replace(label=int(one.label)) if one.label in texts else one for one in part]
        for split, part in examples.items()
    }


def _synsets(train: Sequence[Example]) -> dict[int | str | None, str]:
    """Map each label to the synset that most of its file names have; empty unless these are one for each label."""
    counts: dict[int | str | None, Counter[str]] = {}
    for example in train:
        synset = synset_of(example.name.rsplit("/", 1)[-1])
        if synset is None:
            return {}
        counts.setdefault(example.label, Counter())[synset] += 1
    found = {label: count.most_common(1)[0] for label, count in counts.items()}
    mostly = all(2 * number > counts[label].total() for label, (_, number) in found.items())
    synsets = {label: synset for label, (synset, _) in found.items()}
    return synsets if mostly and len(set(synsets.values())) == len(synsets) else {}
