"""Data sources, each in a module of this package.

A source is a module with a function `load(spec: DataSpec) -> Dataset`; its name is listed in `specs.DataSpec.source`.
"""

import importlib

import numpy as np

from alexnet_jax.data.pipeline import identity, images
from alexnet_jax.data.pipeline.image_files import UnreadableImages, undecodable
from alexnet_jax.data.pipeline.splits import Dataset, class_names, held_out, keep_classes, take
from alexnet_jax.data.sources.listing import SKIP
from alexnet_jax.errors import DataError, listed
from alexnet_jax.specs import LISTED, DataSpec

_VALIDATION_SEED = 0x76616C


def open_dataset(spec: DataSpec, seed: int, classes: int | None = None) -> Dataset:
    """Open the images and labels that `spec` names.

    Nothing is decoded yet, unless unreadable images are to be skipped. Raises DataError.

    Args:
        seed: Determines which images are held out for validation.
        classes: If given, nothing is held out of data with another number of classes: they are not those that a net
            with so many was trained on.
    """
    source = importlib.import_module(f"{__name__}.{spec.source}")  # a Literal, so this is safe
    dataset: Dataset = source.load(spec)
    class_names(dataset.class_names, spec.path or spec.source)
    if spec.classes:
        dataset = keep_classes(dataset, spec.classes)
    if len(dataset.class_names) < 2:
        raise DataError(
            f"{spec.path or spec.source} has only the class {dataset.class_names}; two are needed"
        )
    for name, split in dataset.splits.items():
        if not len(split.labels):
            raise DataError(f"the split {name} of {spec.path or spec.source} has no images")
    if spec.validation and classes in (None, len(dataset.class_names)):
        dataset = _with_validation(dataset, spec.validation, seed)
    exif = spec.exif if dataset.applies_exif else "ignore"
    return dataset._replace(
        notes=(*dataset.notes, *_empty_classes(dataset).values()),
        fingerprint=identity.fingerprint(dataset, spec.image_size, spec.exif),
        decoding=f"{spec.image_size} {exif} {images.VERSION}",
    )


def check(dataset: Dataset, spec: DataSpec) -> None:
    """Check that the dataset can be trained on: classes have training images, and images can be read.

    All images are tried if they are decoded at the start, otherwise the first of each split.
    Raises DataError.
    """
    where = spec.path or spec.source
    if fault := _empty_classes(dataset).get("train"):
        remedy = "add images, or choose classes with config.data.classes"
        if spec.validation:
            remedy = f"hold out less than config.data.validation={spec.validation}, or {remedy}"
        elif spec.source == "arrays":
            remedy = f"labels count from 0; {remedy}"
        raise DataError(f"{where}: {fault}; {remedy}")
    found: dict[str, UnreadableImages] = {}
    for split in dataset.splits.values():
        try:
            split.images[np.arange(1)]
        except UnreadableImages as error:
            # Each error once: 'train' and a 'val' held out from it read the same files.
            found[str(error)] = error
    if found:
        faults = [fault for error in found.values() for fault in error.faults]
        hint = next(iter(found.values())).hint
        if spec.source in LISTED and not hint:  # all were tried
            total = sum(len(split.labels) for split in dataset.splits.values())
            raise DataError(f"{where}: {undecodable(faults, total)}; {SKIP}")
        raise UnreadableImages(faults, sum(error.count for error in found.values()), hint)


def _empty_classes(dataset: Dataset) -> dict[str, str]:
    """Describe, for each split, the classes without images in it and how many images they have in other splits."""
    names = dataset.class_names
    counts = {
        name: np.bincount(split.labels, minlength=len(names))
        for name, split in dataset.splits.items()
    }
    lines = {}
    for name in counts:
        empty = []
        for i in np.flatnonzero(counts[name] == 0):
            there = ", ".join(
                f"{found[i]:,} in {other}" for other, found in counts.items() if found[i]
            )
            empty.append(f"{names[i]} ({there})" if there else names[i])
        if empty:
            lines[name] = (
                f"{name} has no image of {len(empty):,} of {len(names):,} classes: {listed(empty)}"
            )
    return lines


def _with_validation(dataset: Dataset, share: float, seed: int) -> Dataset:
    """Move `share` of each class of 'train' to 'val'; an existing 'val' becomes 'test'. Raises DataError."""
    splits = dict(dataset.splits)
    if "val" in splits:
        if "test" in splits:
            raise DataError(
                f"config.data.validation={share} would replace the val split that the data has; "
                "set --config.data.validation=0"
            )
        splits["test"] = splits.pop("val")
    train = splits["train"]
    mask = held_out(train.labels, share, np.random.default_rng((_VALIDATION_SEED, seed % 2**64)))
    if mask.all() or not mask.any():
        raise DataError(
            f"config.data.validation={share} of {len(mask)} training images leaves a split empty"
        )
    splits["train"] = take(train, np.flatnonzero(~mask))
    splits["val"] = take(train, np.flatnonzero(mask))
    return dataset._replace(splits=splits, statistics=None)
