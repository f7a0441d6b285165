"""Dataset identity: fingerprints, the record of a dataset in a run folder, and comparison with that record."""

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

#: Prefix of fingerprints of content. Fingerprints by earlier versions, of names and sizes, have no prefix.
PREFIX = "content:"
#: File in a run folder with the digests and labels of the images at the start of the run.
RECORD = "dataset.npz"
_SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}


def fingerprint(dataset: Dataset, image_size: int, exif: str) -> str:
    """Hash the digests of the images, labels, order, splits, classes, stored size and EXIF setting."""
    digest = hashlib.sha256(json.dumps([image_size, exif, dataset.class_names]).encode())
    for name, split in sorted(dataset.splits.items()):
        digest.update(f"{name} {len(split.labels)}\0".encode())
        digest.update(np.asarray(split.digests, np.uint64).tobytes())
        digest.update(np.asarray(split.labels, np.int32).tobytes())
    return PREFIX + digest.hexdigest()


def record(dataset: Dataset) -> bytes:
    """Return the content of the file RECORD for `dataset`."""
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
    """Read the arrays of RECORD in a run folder; return None if the file is missing or damaged."""
    like: dict[str, tuple[files.Shape, str]] = {
        "fingerprint": ((), "text"),
        "class_names": (("classes",), "text"),
        "times": ((), "text"),
    }
    splits: dict[str, tuple[files.Shape, str]] = {}
    for split in _SPLIT_NAMES:
        splits |= {
            f"{split}_digests": ((split,), "uint64"),
            f"{split}_labels": ((split,), "integer"),
        }
    try:
        found = files.read_arrays(pathlib.Path(folder) / RECORD, like, splits)
    except StorageError:
        return None
    paired = all((f"{s}_digests" in found) == (f"{s}_labels" in found) for s in _SPLIT_NAMES)
    return found if paired and "train_digests" in found else None


def run_fingerprint(folder: str | os.PathLike, saved: str) -> str | None:
    """Return the fingerprint by content of the images of a run.

    Args:
        folder: The run folder.
        saved: The fingerprint in its checkpoint. If an earlier version wrote it, RECORD is read instead.

    Returns:
        None if the run has no fingerprint by content.
    """
    if saved.startswith(PREFIX):
        return saved
    found = read_record(folder)
    return str(found["fingerprint"]) if found else None


def compare(folder: str | os.PathLike, saved: str, dataset: Dataset) -> str | None:
    """Check that `dataset` has the images of the run in `folder`, and return a warning or None.

    Args:
        folder: The run folder.
        saved: The fingerprint in its checkpoint.
        dataset: The images to check.

    Raises:
        ConfigError: The images differ.
    """
    expected, recorded = run_fingerprint(folder, saved), read_record(folder)
    if expected is None:
        return (
            "this run was started by an earlier version, which recorded no digests: cannot check whether its images "
            "changed since then; changes from now on will be detected"
        )
    if recorded is not None and str(recorded["fingerprint"]) != expected:
        recorded = None
    if expected != dataset.fingerprint:
        changes = _describe_changes(recorded, dataset)
        raise ConfigError(
            f"the images changed since {folder} was started{changes}; choose another --workdir"
        )
    if recorded is not None and str(recorded["times"]) != dataset.times:
        return (
            "the modification times of image files changed; their names, sizes and a sample of their bytes are the "
            "same"
        )
    return None


def _describe_changes(recorded: dict[str, np.ndarray] | None, dataset: Dataset) -> str:
    """Return a suffix for the error that says how many images differ from the record."""
    if recorded is None:
        return ""
    if bool(str(recorded["times"])) != bool(dataset.times):
        limit = f"{digests.WHOLE_BYTES / 2**30:.3g} GiB"
        return f" (their total size crossed {limit}, so changed images cannot be counted)"
    changes = []
    splits = {name.removesuffix("_digests") for name in recorded if name.endswith("_digests")}
    for name in sorted(splits | set(dataset.splits), key=list(_SPLIT_NAMES).index):
        old = recorded.get(f"{name}_digests", np.zeros(0, np.uint64))
        present = dataset.splits[name].digests if name in dataset.splits else ()
        new = np.asarray(present, np.uint64)
        changes += _count_changes(f"{_SPLIT_NAMES[name]} images", old, new)
    if changes:
        return ": " + ", ".join(changes)
    if recorded["class_names"].tolist() != list(dataset.class_names):
        return ": the same images, but class names or their order differ"
    for name, split in dataset.splits.items():
        pairs = (
            _pairs(recorded[f"{name}_digests"], recorded[f"{name}_labels"]),
            _pairs(np.asarray(split.digests), split.labels),
        )
        count = len(split.labels)
        if relabeled := count - _common(*pairs):
            changes.append(
                f"{relabeled:,} of {count:,} {_SPLIT_NAMES[name]} images ({_percent(relabeled, count)}) "
                "have different labels"
            )
    return ": " + (", ".join(changes) or "the same images, in a different order or size")


def _count_changes(what: str, old: np.ndarray, new: np.ndarray) -> list[str]:
    """Describe how the multiset `new` of images differs from `old`."""
    same = _common(old, new)
    removed, added = len(old) - same, len(new) - same
    replaced = min(removed, added)
    removed, added = removed - replaced, added - replaced
    changes = []
    for number, verb in ((replaced, "replaced"), (removed, "removed")):
        if number:
            share = _percent(number, len(old))
            changes.append(f"{number:,} of {len(old):,} {what} ({share}) were {verb}")
    if added:
        changes.append(f"{added:,} {what} were added")
    return changes


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """Return the size of the intersection of two multisets."""
    a_values, a_counts = np.unique(a, return_counts=True)
    b_values, b_counts = np.unique(b, return_counts=True)
    _, i, j = np.intersect1d(a_values, b_values, assume_unique=True, return_indices=True)
    return int(np.minimum(a_counts[i], b_counts[j]).sum())


def _pairs(images: UInt64[np.ndarray, " n"], labels: Shaped[np.ndarray, " n"]) -> np.ndarray:
    """Combine each digest with its label, so that equal images with different labels differ."""
    return digests.of_records(images, np.ones(len(images), int)) + labels.astype(np.uint64)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %"
