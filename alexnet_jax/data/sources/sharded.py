"""Shards of a dataset on disk, such as data/train-00000-of-00294.parquet or imagenet1k-train-0000.tar."""

import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from alexnet_jax.data.pipeline.splits import SPLITS, split_of
from alexnet_jax.data.sources import archives, tree
from alexnet_jax.data.sources.labels import Example
from alexnet_jax.errors import DataError, listed

_NUMBERED = re.compile(r"(.*?)(\d{1,9})(?:-of-(\d{1,9}).*|\.[a-z.]+)")
_MOST = 10**6


class Shards(NamedTuple):
    """The shards of each split in order.

    Attributes:
        faults: What has to be corrected.
        missing: Which shards are missing, by the numbers of the others.
        notes: Which shards were left out.
    """

    splits: dict[str, list[pathlib.Path]]
    faults: Sequence[str] = ()
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()


def find(root: pathlib.Path, suffixes: tuple[str, ...]) -> Shards | None:
    """Find files with `suffixes` in `root`, in folders in it, and in folders of splits in these; None without any.

    The name of a file or of its folder tells the split; if none does, all are 'train'. Raises DataError if several
    datasets lie there.
    """
    found = _files(root, suffixes)
    if not found:
        return None
    splits: dict[str, list[pathlib.Path]] = {}
    unnamed, homes = [], set()
    for path in found:
        folder_split = split_in(path.parent.name) if path.parent != root else None
        split = split_in(path.name) or folder_split
        if split is None:
            unnamed.append(path)
            continue
        splits.setdefault(split, []).append(path)
        homes.add(path.parent.parent if folder_split else path.parent)
    notes = []
    if not splits:
        splits, homes = {"train": unnamed}, {path.parent for path in unnamed}
    elif unnamed:
        names = listed([str(path.relative_to(root)) for path in unnamed])
        notes.append(f"left out {len(unnamed):,} files that are of no split: {names}")
    if len(homes) > 1:
        raise DataError(
            f"{root} holds several datasets, in {listed(sorted(map(str, homes)))}; give the folder of one"
        )
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    missing = [text for split, paths in ordered.items() for text in _missing(split, paths)]
    return Shards(ordered, missing=missing, notes=notes)


def examples(
    shards: Shards, read: Callable[[pathlib.Path], Iterable[Example]], faults: list[str]
) -> dict[str, list[Example]]:
    """Read the examples of each split; the DataError of a shard is appended to `faults`. Raises TooLarge."""
    found: dict[str, list[Example]] = {split: [] for split in shards.splits}
    for split, paths in shards.splits.items():
        for path in paths:
            try:
                found[split] += read(path)
            except archives.TooLarge:
                raise
            except DataError as error:
                faults.append(str(error))
    return found


def _files(root: pathlib.Path, suffixes: tuple[str, ...]) -> list[pathlib.Path]:
    found: list[pathlib.Path] = []
    for folder in _scan(root, suffixes, found):
        for inner in _scan(folder, suffixes, found):
            if split_in(inner.name):
                _scan(inner, suffixes, found)
    return sorted(found)


def _scan(
    folder: pathlib.Path, suffixes: tuple[str, ...], found: list[pathlib.Path]
) -> list[pathlib.Path]:
    """Append the shards in a folder to `found`, and return its folders; none if it is a folder of images."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if tree.is_image(entry.name):  # there may be a million
                    return []
                if entry.name.lower().endswith(suffixes) and entry.is_file():
                    files.append(pathlib.Path(entry.path))
                elif entry.is_dir():
                    folders.append(pathlib.Path(entry.path))
    except OSError:
        return []
    found += files
    return folders


@functools.lru_cache
def split_in(name: str) -> str | None:
    """Return the split that a word of a name stands for, such as imagenet1k-validation-00.tar or trainLabels.csv."""
    words = re.split(r"[^a-zA-Z]+|(?<=[a-z])(?=[A-Z])", name)
    return next((split for word in reversed(words) if (split := split_of(word))), None)


def _missing(split: str, paths: list[pathlib.Path]) -> Iterator[str]:
    """Describe the shards that are missing, by the numbers of those that are there."""
    seen: dict[tuple[pathlib.Path, str, int, int], set[int]] = {}
    for path in paths:
        if match := _NUMBERED.fullmatch(path.name):
            before, number, total = match.groups()
            key = path.parent, before, len(number), min(int(total or 0), _MOST)
            seen.setdefault(key, set()).add(int(number))
    for (folder, before, width, total), numbers in seen.items():
        last = total or max(numbers) + 1
        if not total and 2 * len(numbers) < last:
            continue  # these numbers do not count shards
        if gone := sorted({*range(min(1, *numbers), last)} - numbers):
            names = listed([f"{before}{number:0{width}}" for number in gone])
            yield f"{folder} lacks {len(gone):,} shards of {split} ({names}): download them"
