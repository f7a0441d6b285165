"""Identity of a dataset: its fingerprint, its record in a run folder, and how two datasets differ."""

import hashlib
import io
import json
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt64

from alexnet_jax import files
from alexnet_jax.data.pipeline import digests
from alexnet_jax.data.pipeline.splits import Dataset
from alexnet_jax.errors import ConfigError, StorageError

#: Of fingerprints by content; those of earlier versions, by names and sizes, have none.
PREFIX = "content:"
#: In a run folder: the digests of the images that the run was begun with.
RECORD = "dataset.npz"
_WORDS = {"train": "training", "val": "validation", "test": "test"}


def fingerprint(dataset: Dataset, image_size: int, exif: str) -> str:
    """Hash all that training sees: images, labels, their order, splits, classes, stored size, treatment of EXIF."""
    digest = hashlib.sha256(json.dumps([image_size, exif, dataset.class_names]).encode())
    for name, split in sorted(dataset.splits.items()):
        digest.update(f"{name} {len(split.labels)}\0".encode())
        digest.update(np.asarray(split.digests, np.uint64).tobytes())
        digest.update(np.asarray(split.labels, np.int32).tobytes())
    return PREFIX + digest.hexdigest()


def record(dataset: Dataset) -> bytes:
    """The content of the file RECORD."""
    arrays: dict[str, Any] = {
        "fingerprint": np.array(dataset.fingerprint),
        "class_names": np.array(dataset.class_names),
        "times": np.array(dataset.times),
    }
    for name, split in dataset.splits.items():
        arrays |= {f"{name}_digests": split.digests, f"{name}_labels": split.labels}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def read_record(folder: str | os.PathLike) -> dict[str, np.ndarray] | None:
    """The arrays of RECORD in a run folder; None if it is missing or damaged."""
    like: dict[str, tuple[files.Shape, str]] = {
        "fingerprint": ((), "text"),
        "class_names": (("classes",), "text"),
        "times": ((), "text"),
    }
    splits: dict[str, tuple[files.Shape, str]] = {}
    for split in _WORDS:
        splits |= {
            f"{split}_digests": ((split,), "uint64"),
            f"{split}_labels": ((split,), "integer"),
        }
    try:
        found = files.read_arrays(pathlib.Path(folder) / RECORD, like, splits)
    except StorageError:
        return None
    paired = all((f"{s}_digests" in found) == (f"{s}_labels" in found) for s in _WORDS)
    return found if paired and "train_digests" in found else None


def begun_with(folder: str | os.PathLike, known: str) -> str | None:
    """The fingerprint of the images of a run whose checkpoint has `known`; None if an earlier version wrote that."""
    if known.startswith(PREFIX):
        return known
    found = read_record(folder)
    return str(found["fingerprint"]) if found else None


def compare(folder: str | os.PathLike, known: str, dataset: Dataset) -> str | None:
    """Compare `dataset` with the images of the run in `folder`, whose checkpoint has the fingerprint `known`.

    Returns a warning, or None. Raises ConfigError unless the images are the same.
    """
    begun, before = begun_with(folder, known), read_record(folder)
    if begun is None:
        return (
            "this run was begun by an earlier version: its images cannot be compared with those it was begun with, "
            "but from now on they are"
        )
    if before is not None and str(before["fingerprint"]) != begun:
        before = None
    if begun != dataset.fingerprint:
        raise ConfigError(
            f"the images changed since {folder} was begun{_in_numbers(before, dataset)}; choose another --workdir"
        )
    if before is not None and str(before["times"]) != dataset.times:
        return (
            "the files of the images have other times than before; their names, sizes and a sample of their bytes "
            "are the same"
        )
    return None


def _in_numbers(before: dict[str, np.ndarray] | None, dataset: Dataset) -> str:
    """Describe how many images differ from the record `before`, as a suffix."""
    if before is None:
        return ""
    if bool(str(before["times"])) != bool(dataset.times):
        limit = f"{digests.WHOLE_BYTES / 2**30:.3g} GiB"
        return f" (there are more or less than {limit} now, so that they cannot be counted)"
    said = []
    splits = {name.removesuffix("_digests") for name in before if name.endswith("_digests")}
    for name in sorted(splits | set(dataset.splits), key=list(_WORDS).index):
        old = before.get(f"{name}_digests", np.zeros(0, np.uint64))
        found = dataset.splits[name].digests if name in dataset.splits else ()
        new = np.asarray(found, np.uint64)
        said += _counted(f"{_WORDS[name]} images", old, new)
    if said:
        return ": " + ", ".join(said)
    if before["class_names"].tolist() != list(dataset.class_names):
        return ": the same images, with other classes or their names in another order"
    for name, split in dataset.splits.items():
        pairs = (
            _pairs(before[f"{name}_digests"], before[f"{name}_labels"]),
            _pairs(np.asarray(split.digests), split.labels),
        )
        count = len(split.labels)
        if others := count - _common(*pairs):
            said.append(
                f"{others:,} of {count:,} {_WORDS[name]} images ({_percent(others, count)}) have other labels"
            )
    return ": " + (", ".join(said) or "the same images, in another order or size")


def _counted(what: str, old: np.ndarray, new: np.ndarray) -> list[str]:
    """Describe how the multiset `new` of images differs from `old`."""
    same = _common(old, new)
    gone, added = len(old) - same, len(new) - same
    replaced = min(gone, added)
    said = []
    if replaced:
        said.append(
            f"{replaced:,} of {len(old):,} {what} ({_percent(replaced, len(old))}) are other ones"
        )
    if gone > replaced:
        said.append(
            f"{gone - replaced:,} of {len(old):,} {what} ({_percent(gone - replaced, len(old))}) are gone"
        )
    if added > replaced:
        said.append(f"{added - replaced:,} {what} were added")
    return said


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """Size of the intersection of two multisets."""
    values, counts = np.unique(one, return_counts=True)
    others, other_counts = np.unique(other, return_counts=True)
    _, here, there = np.intersect1d(values, others, assume_unique=True, return_indices=True)
    return int(np.minimum(counts[here], other_counts[there]).sum())


def _pairs(images: UInt64[np.ndarray, " n"], labels: Shaped[np.ndarray, " n"]) -> np.ndarray:
    """Digests of images together with their labels."""
    return digests.of_places(images, np.ones(len(images), int)) + labels.astype(np.uint64)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %"
