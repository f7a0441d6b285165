"""Data sources by the name that a config gives, and the one function that opens them."""

import os
import pathlib
import tokenize
import zipfile
import zlib

import numpy as np

from alexnet_jax import files
from alexnet_jax.data.pipeline import identity
from alexnet_jax.data.pipeline import images as decoder
from alexnet_jax.data.pipeline.image_files import UnreadableImages, fitted, undecodable
from alexnet_jax.data.pipeline.splits import (
    SPLITS,
    Dataset,
    Split,
    class_names,
    held_out,
    keep_classes,
    split_of,
    take,
)
from alexnet_jax.data.sources import cifar10, folders, store, tfds
from alexnet_jax.errors import ConfigError, DataError, listed
from alexnet_jax.specs import MOST_CLASSES, DataSpec

TURNED = ("folder", "cifar10", "tfds")
"""Sources whose images are turned at training, where data.exif says so; a store's were when it was prepared."""
_NPZ = "an .npz file with train_images, train_labels and, if there are any, val_ and test_"
_VALIDATION, _DIGITS, _SYNTHETIC = 0x76616C, 0x646967, 0x73796E


def open_dataset(spec: DataSpec, seed: int) -> Dataset:
    """The images and labels that `spec` asks for; `seed` draws the validation split.

    Nothing is decoded yet, unless unreadable images are to be skipped. Raises DataError.
    """
    dataset = SOURCES[spec.source](spec)
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
    if spec.validation:
        dataset = _with_validation(dataset, spec.validation, seed)
    notes = (*dataset.notes, *_empty_classes(dataset).values())
    exif = spec.exif if spec.source in TURNED else "ignore"
    return dataset._replace(
        notes=notes,
        fingerprint=identity.fingerprint(dataset, spec.image_size, spec.exif),
        decoding=f"{spec.image_size} {exif} {decoder.VERSION}",
    )


def _empty_classes(dataset: Dataset) -> dict[str, str]:
    """Split -> the classes that have no image in it, and how many they have elsewhere; in words."""
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


def check(dataset: Dataset, spec: DataSpec) -> None:
    """Raises DataError for what cannot be trained on: classes without training images, and unreadable images.

    Of a set that is decoded at once all are tried, of others the first of each split. Raises ConfigError too.
    """
    if spec.skip_unreadable and spec.source != "folder":
        raise ConfigError(
            f"config.data.skip_unreadable is for source 'folder', not {spec.source!r}; a store leaves unreadable "
            "images out when it is prepared, with --max-bad-share"
        )
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
        except UnreadableImages as error:  # a split for validation is of the files of train
            found[str(error)] = error
    if found:
        faults = [fault for error in found.values() for fault in error.faults]
        hint = next(iter(found.values())).hint
        if spec.source == "folder" and not hint:  # all were tried
            total = sum(len(split.labels) for split in dataset.splits.values())
            raise DataError(f"{where}: {undecodable(faults, total)}; {folders.SKIP}")
        raise UnreadableImages(faults, sum(error.count for error in found.values()), hint)


def digits(spec: DataSpec) -> Dataset:
    """scikit-learn's 1,797 digits, 8x8 in 17 gray levels, enlarged; a fifth of each is 'test'.

    The customary last fifth is other writers; this split is drawn once and for all.
    """
    from sklearn.datasets import load_digits

    values, target = load_digits(return_X_y=True)
    pixels = np.rint(np.asarray(values).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = np.asarray(target, np.int32)
    test = held_out(labels, 0.2, np.random.default_rng(_DIGITS))
    digests = identity.of_rows(pixels)
    splits = {
        name: Split(
            fitted(pixels[mask], spec.image_size, spec.threads), labels[mask], digests[mask]
        )
        for name, mask in (("train", ~test), ("test", test))
    }
    return Dataset(splits, tuple(map(str, range(10))))


def synthetic(spec: DataSpec) -> Dataset:
    """Ten kinds of stripes, 5 colors by 2 directions, under noise: 512 for 'train', 128 for 'test'.

    A net learns them in seconds; mirroring and shifting keep the class. Needs no files.
    """
    generator, size = np.random.default_rng(_SYNTHETIC), spec.image_size
    hues = np.arange(5) / 5 * 2 * np.pi
    colors = 0.5 + 0.5 * np.cos(hues[:, None] - np.arange(3) * 2 * np.pi / 3)
    splits = {}
    for name, count in (("train", 512), ("test", 128)):
        labels = np.arange(count, dtype=np.int32) % 10
        images = np.empty((count, size, size, 3), np.uint8)
        for image, label, phase in zip(
            images, labels, generator.uniform(0, 2 * np.pi, count), strict=True
        ):
            stripes = 0.5 + 0.5 * np.sin(phase + np.arange(size) * (2 * np.pi * 4 / size))
            stripes = stripes[:, None, None] if label < 5 else stripes[None, :, None]
            noise = generator.normal(0, 30, (size, size, 3))
            image[:] = np.clip(40 + 150 * stripes * colors[label % 5] + noise, 0, 255)
        splits[name] = Split(images, labels, identity.of_rows(images))
    names = tuple(f"{direction}-{hue}" for direction in ("rows", "columns") for hue in range(5))
    return Dataset(splits, names)


def arrays(spec: DataSpec) -> Dataset:
    """A .npz file: train_images uint8 [n h w 3] or [n h w], train_labels [n], maybe class_names.

    The same for val and test; all but train may be missing. Raises DataError.
    """
    path = pathlib.Path(spec.path or "").expanduser()
    content = _npz(path)
    content, notes = _with_our_names(path, content)
    splits = {}
    for name in SPLITS:
        if f"{name}_images" in content or name == "train":
            splits[name] = _checked(path, name, content)
    found = int(max(split.labels.max(initial=-1) for split in splits.values())) + 1
    trained = int(splits["train"].labels.max(initial=-1)) + 1
    named = content.get("class_names", np.arange(trained))
    if named.ndim != 1:
        raise DataError(
            f"{path}: class_names has the shape {list(named.shape)}, not one name a class"
        )
    names = class_names(named, f"{path}: class_names")
    if found > len(names):
        known = "class_names" if "class_names" in content else "train_labels"
        raise DataError(
            f"{path}: a label is {found - 1}, but {known} has the classes 0 to {len(names) - 1}"
        )
    splits = {
        name: split._replace(
            images=fitted(split.images, spec.image_size, spec.threads),
            digests=identity.of_rows(split.images),
        )
        for name, split in splits.items()
    }
    return Dataset(splits, names, notes=notes)


def _with_our_names(
    path: pathlib.Path, content: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays of splits under the names of SPLITS, and a note of the others. Raises DataError."""
    found, others = {}, []
    for key, array in content.items():
        prefix, _, kind = key.rpartition("_")
        split = split_of(prefix) if kind in ("images", "labels") else None
        name = f"{split}_{kind}" if split else key
        if name in found:
            raise DataError(f"{path} has {name} twice, the second time as {key}; remove one")
        if split or key == "class_names":
            found[name] = array
        else:
            others.append(key)
    note = f"{path}: left out {len(others):,} arrays of other names: {listed(others)}"
    return found, (note,) * bool(others)


def _npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name. Raises DataError."""
    if other := files.not_regular(path):
        raise DataError(f"cannot read {path}: {other}; source 'arrays' reads {_NPZ}")
    if not path.is_file():
        raise DataError(f"no file {path}; source 'arrays' reads {_NPZ}")
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise DataError(f"{path} holds a single array; source 'arrays' reads {_NPZ}")
            # A small file can say that it holds more than any machine has.
            needed = sum(member.file_size for member in loaded.zip.infolist())
            if needed > _memory_bytes():
                raise DataError(
                    f"{path} holds {needed:,} bytes of arrays, more than the memory of this machine; "
                    "source 'folder' reads image by image"
                )
            # A member that is no array comes as bytes.
            return {key: np.asarray(loaded[key]) for key in loaded.files}
    except (ValueError, SyntaxError, tokenize.TokenError):
        raise DataError(f"{path} is not {_NPZ}; Python objects are not loaded") from None
    except (OSError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; it should be {_NPZ}") from None


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _checked(path: pathlib.Path, name: str, content: dict[str, np.ndarray]) -> Split:
    for key in (f"{name}_images", f"{name}_labels"):
        if key not in content:
            raise DataError(
                f"{path} has no {key}; it has {', '.join(content) or 'nothing'}, and should be {_NPZ}"
            )
    images, labels = content[f"{name}_images"], content[f"{name}_labels"]
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or (images.ndim == 4 and images.shape[3] != 3)
        or 0 in images.shape[1:]
    ):
        raise DataError(
            f"{path}: {name}_images is {images.dtype} {list(images.shape)}, "
            "not uint8 [n height width 3] or [n height width]"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise DataError(
            f"{path}: {name}_labels is {labels.dtype} {list(labels.shape)}, "
            f"not integers [{len(images)}], one an image"
        )
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= MOST_CLASSES:
        raise DataError(
            f"{path}: {name}_labels has {labels.min()}..{labels.max()}; labels count from 0, to at most "
            f"{MOST_CLASSES - 1:,}"
        )
    return Split(images, labels.astype(np.int32))


def _with_validation(dataset: Dataset, share: float, seed: int) -> Dataset:
    """`share` of each class of 'train' as 'val'; a 'val' becomes 'test'. Raises DataError."""
    splits = dict(dataset.splits)
    if "val" in splits:
        if "test" in splits:
            raise DataError(
                f"config.data.validation={share} would replace the val split that the data has; "
                "set --config.data.validation=0"
            )
        splits["test"] = splits.pop("val")
    train = splits["train"]
    mask = held_out(train.labels, share, np.random.default_rng((_VALIDATION, seed % 2**64)))
    if mask.all() or not mask.any():
        raise DataError(
            f"config.data.validation={share} of {len(mask)} training images leaves a split empty"
        )
    splits["train"], splits["val"] = (
        take(train, np.flatnonzero(~mask)),
        take(train, np.flatnonzero(mask)),
    )
    return dataset._replace(splits=splits, statistics=None)


SOURCES = {
    "digits": digits,
    "synthetic": synthetic,
    "folder": folders.folder,
    "arrays": arrays,
    "cifar10": cifar10.cifar10,
    "tfds": tfds.tfds,
    "store": store.store,
}
