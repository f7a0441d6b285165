"""Match the classes of a dataset to those of a net, and read files with several right labels for each image."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from alexnet_jax import files
from alexnet_jax.data.pipeline import splits
from alexnet_jax.errors import DataError, listed

log = logging.getLogger(__name__)

#: Maximum number of unknown classes that an error names.
NAMED = 20
#: The least share of images whose own class is among their labels; labels in another order have next to none.
LEAST_AGREEMENT = 0.5
_REAL = "it should be a list with the list of class numbers of each image, as real.json of ReaL"
_SYNSET = re.compile(r"n\d{8}(?!\d)")
_VALIDATION = re.compile(r"_val_(\d+)\.")


class Match(NamedTuple):
    """Which classes of a net the classes of a dataset are."""

    #: The number in the net of each class of the dataset: int [classes].
    numbers: np.ndarray
    #: "synset": names begin with equal WordNet ids; "index": names are class numbers, as in ImageNet-V2.
    by: Literal["name", "synset", "index"]


def match(names: Sequence[str], known: Sequence[str], where: str) -> Match:
    """Match the classes `names` of the dataset `where` to the classes `known` of a net.

    Warns if they are numbers, and so were not compared by name. Raises DataError that names the classes that the net
    does not have, or that have the same number.
    """
    found = _exact(names, known) or _by_synset(names, known) or _by_index(names, known)
    if found is None:
        unknown = sorted(set(names) - set(known))
        raise DataError(
            f"{len(unknown):,} of {len(names):,} classes of {where} are not known to the net: "
            f"{listed(unknown, NAMED)}; it knows {listed(sorted(known))}"
        )
    twice = np.flatnonzero(np.bincount(found.numbers) > 1)
    if len(twice):
        same = [name for name, i in zip(names, found.numbers, strict=True) if i == twice[0]]
        raise DataError(
            f"{where}: the classes {listed(same)} are the same class of the net, {known[twice[0]]}"
        )
    if found.by == "index":
        log.warning(
            "the classes of %s are taken for the class numbers of the net, of which 0 is %s",
            where,
            known[0],
        )
    return found


def _exact(names: Sequence[str], known: Sequence[str]) -> Match | None:
    numbers = {name: i for i, name in enumerate(known)}
    if not set(names) <= numbers.keys():
        return None
    return Match(np.array([numbers[name] for name in names]), "name")


def _by_synset(names: Sequence[str], known: Sequence[str]) -> Match | None:
    """Match n01440764 and "n01440764 tench, Tinca tinca"."""
    theirs, ours = ([_SYNSET.match(name) for name in some] for some in (names, known))
    numbers = {one[0]: i for i, one in enumerate(ours) if one}
    found = [numbers.get(one[0]) if one else None for one in theirs]
    kept = [number for number in found if number is not None]
    return Match(np.array(kept), "synset") if len(kept) == len(names) else None


def _by_index(names: Sequence[str], known: Sequence[str]) -> Match | None:
    if not all(re.fullmatch(r"\d{1,6}", name) and int(name) < len(known) for name in names):
        return None
    return Match(np.array([int(name) for name in names]), "index")


def scope_in_words(scope: dict[str, Any]) -> list[str]:
    """Say in lines which classes are predicted and which labels are right; none where these are as in training.

    Args:
        scope: JSON with the keys of EvalTarget.scope, or without.
    """
    lines, classes = [], scope.get("classes")
    if classes and classes["predicted"] < classes["of"]:
        lines.append(
            f"predictions are among the {classes['predicted']:,} classes of these images, of the {classes['of']:,} "
            "of the net (--classes all: among all)"
        )
    if "labels" in scope:
        lines.append(
            f"a prediction is right if it is any label of the image in {scope['labels']}; images without labels are "
            "not counted; NLL, confusion and the error of a class are not defined for several labels"
        )
    return lines


def read_label_sets(path: Path, split: splits.Split, class_names: Sequence[str]) -> np.ndarray:
    """Read the right labels of each image of `split` from a JSON file in the format of ReaL.

    The file is a list with, for each image in the order of the file names, the list of its class numbers. Images named
    as ILSVRC2012_val_00000001.JPEG may be some of those in the file. Images without files, or with equal names in
    several folders, have the order of the split.

    Returns:
        bool [n classes], with the classes of the net.

    Raises:
        DataError: The file is not such a list, or does not fit the images.
    """
    found = files.read_json(path, list[list[int]], error=DataError, remedy=_REAL)
    if found is None:
        raise DataError(f"there is no file {path}; {_REAL}")
    classes = len(class_names)
    entries, are_validation = _entries(split)
    fits = len(found) == len(entries) or are_validation
    if not fits or not 0 <= entries.min() <= entries.max() < len(found):
        raise DataError(
            f"{path} has labels of {len(found):,} images, which are not the {len(entries):,} to evaluate"
        )
    wrong = sorted({label for labels in found for label in labels if not 0 <= label < classes})
    if wrong:
        numbers = listed(map(str, wrong))
        raise DataError(f"{path} has labels that are not from 0 to {classes - 1:,}: {numbers}")
    sets = np.zeros((len(entries), classes), bool)
    for i, entry in enumerate(entries):
        sets[i, found[entry]] = True
    counted = sets.any(axis=1)
    if not counted.any():
        raise DataError(f"{path} has no label for any of the {len(entries):,} images")
    agreement = sets[np.arange(len(sets)), split.labels][counted].mean()
    if agreement < LEAST_AGREEMENT:
        raise DataError(
            f"{path} does not fit the images: only {agreement:.1%} of them have their own class among their labels; "
            "it should have the order of the file names, and the class numbers of the net"
        )
    return sets


def _entries(split: splits.Split) -> tuple[np.ndarray, bool]:
    """The entry of a file of labels for each image, int [n] from 0, and whether the images are named by them."""
    paths = splits.paths_of(split.images)
    if paths is None:
        return np.arange(len(split.labels)), False
    names = [Path(path).name for path in paths]
    numbers = [_VALIDATION.search(name) for name in names]
    if all(numbers):
        return np.array([int(number[1]) - 1 for number in numbers if number]), True
    if len(set(names)) < len(names):
        return np.arange(len(names)), False
    order = np.argsort(np.array(names), kind="stable")
    entries = np.empty(len(names), np.int64)
    entries[order] = np.arange(len(names))
    return entries, False
