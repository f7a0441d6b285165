"""Facts about ILSVRC-2010 and -2012: counts, colors, and the classes that the devkit lists."""

import io
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.sources import archives
from alexnet_jax.data.sources.labels import is_synset
from alexnet_jax.errors import DataError, short

#: Images of each split; Russakovsky et al. (2015), Table 2. Those of test 2012 have no labels.
COUNTS = {
    "ILSVRC2010": {"train": 1_261_406, "val": 50_000, "test": 150_000},
    "ILSVRC2012": {"train": 1_281_167, "val": 50_000},
}
NUM_CLASSES = 1000
#: Standard deviations of ILSVRC-2012 along the principal directions of RGB values, in gray levels, from the authors'
#: program.
STDS = (19.72083305, 37.09388853, 121.78006099)
#: Some classes of ILSVRC-2012 by their number in sorted order, which is that of all published weights.
KNOWN_CLASSES = {
    0: ("n01440764", "tench"),
    1: ("n01443537", "goldfish"),
    207: ("n02099601", "golden retriever"),
    281: ("n02123045", "tabby cat"),
    388: ("n02510455", "giant panda"),
    817: ("n04285008", "sports car"),
    999: ("n15075141", "toilet tissue"),
}


class Devkit(NamedTuple):
    """Classes and validation labels from the development kit.

    Attributes:
        words: Synset -> its readable name.
        validation: The synset of validation image i + 1.
        by_id: Number of a class in the devkit, from 1, not in sorted order -> synset.
    """

    words: dict[str, str]
    validation: list[str]
    by_id: dict[int, str]


def read_devkit(tar: str, year: str, title: str) -> Devkit:
    """Read the unpacked devkit archive `tar` of `year`, 'ILSVRC2012' or 'ILSVRC2010'.

    `title` is its name in errors. Raises DataError.
    """
    truth = f"{year}_validation_ground_truth.txt"
    members = archives.members(tar, None, shown=title)
    found = {member.name.rsplit("/", 1)[-1]: member for member in members}
    for name in ("meta.mat", truth):
        if name not in found:
            raise DataError(f"{title} has no {name}: download the devkit again")
    words, by_id = _synsets(found["meta.mat"].read(), year, title)
    validation = [
        synset_of(number, by_id, f"{title}: line {line} of {truth}")
        for line, number in enumerate(found[truth].read().split(), 1)
    ]
    return Devkit(words, validation, by_id)


def synset_of(number: bytes, by_id: dict[int, str], title: str) -> str:
    """Return the synset of a number in the ground truth; `title` names its line in the DataError for a bad one."""
    synset = by_id.get(int(number)) if number.isdigit() else None
    if synset is None:
        shown = number[:20].decode("ascii", "replace")
        raise DataError(f"{title} is {shown!r}, not a number from 1 to {len(by_id)}")
    return synset


def _synsets(content: bytes, year: str, title: str) -> tuple[dict[str, str], dict[int, str]]:
    """Return (synset -> words, devkit's number -> synset) of the classes, without their parents in WordNet."""
    from scipy.io import loadmat

    try:
        table = np.atleast_1d(loadmat(io.BytesIO(content), squeeze_me=True)["synsets"])
        leaves = [row for row in table if int(row["num_children"]) == 0]
        words = {str(row["WNID"]): str(row["words"]) for row in leaves}
        by_id = {int(row[f"{year}_ID"]): str(row["WNID"]) for row in leaves}
    except Exception as error:  # scipy's reader fails in as many ways as a file can be damaged
        raise DataError(f"{title}: cannot read the synsets of meta.mat: {short(error)}") from None
    if not by_id or not all(is_synset(name) for name in words) or len(words) != len(by_id):
        raise DataError(f"{title}: meta.mat does not list synsets such as n01440764, each once")
    return words, by_id
