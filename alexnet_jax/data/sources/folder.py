"""Data source 'folder': images in PATH/train/CLASS/, PATH/val/CLASS/ and PATH/test/CLASS/, or in PATH/CLASS/."""

import os
import pathlib

import numpy as np

from alexnet_jax.data.pipeline import digests, image_files
from alexnet_jax.data.pipeline.image_files import ImageFiles, undecodable
from alexnet_jax.data.pipeline.splits import (
    Dataset,
    Split,
    class_numbers,
    duplicates,
    held_out_count,
    take,
)
from alexnet_jax.data.sources import archives, tree
from alexnet_jax.data.sources.tree import LAYOUT, File
from alexnet_jax.errors import DataError, listed, printable
from alexnet_jax.specs import DataSpec

SKIP = "remove or replace them, or skip them with --config.data.skip_unreadable=True"


def load(spec: DataSpec) -> Dataset:
    """Load images of any format and size from a tree with a folder for each class.

    The classes are data.classes or else the folder names in sorted order. Images are decoded and checked at their
    first use, or here if data.skip_unreadable is set.

    Raises:
      DataError: Lists all problems of the tree.
    """
    root = pathlib.Path(spec.path or "").expanduser()
    if not spec.path or not tree.has_train(root):
        raise DataError(_no_train(root, spec))
    found = tree.discover(root, spec.classes)
    faults = list(found.faults)
    if packed := [str(path) for paths in found.archives.values() for path in paths.values()]:
        faults.append(f"{len(packed):,} classes are archives ({listed(packed)}): {_prepare(root)}")
    names = tuple(sorted(tree.class_names(found)["train"]))
    if spec.classes and names:
        class_numbers(spec.classes, names)
    classes = spec.classes or names
    faults += tree.mismatches(tree.class_names(found, spec.classes)) + tree.unprintable(classes)
    chosen = {
        name: [(file, i) for i, class_ in enumerate(classes) for file in by_class.get(class_, ())]
        for name, by_class in found.splits.items()
    }
    faulty = {file: why for pairs in chosen.values() for file, _ in pairs if (why := file.fault())}
    unreadable = list(faulty.values())
    if faults or (unreadable and not spec.skip_unreadable):
        raise tree.refusal(root, faults, _unreadable(chosen, spec, unreadable))
    total = sum(map(len, chosen.values()))
    if unreadable:
        chosen = {
            name: [pair for pair in pairs if pair[0] not in faulty]
            for name, pairs in chosen.items()
        }
    paths = [tree.relative(file.path, root) for pairs in chosen.values() for file, _ in pairs]
    try:
        tree_files = digests.of_files(root, paths, spec.threads)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None
    ends = np.cumsum([len(pairs) for pairs in chosen.values()])[:-1]
    splits, skipped = {}, list(unreadable)
    for (name, pairs), values in zip(
        chosen.items(), np.split(tree_files.digests, ends), strict=True
    ):
        splits[name] = _split(found.folders[name], pairs, values, tree_files, spec)
        if spec.skip_unreadable:
            bad = dict(splits[name].images.unreadable())
            skipped += bad.values()
            readable = np.delete(np.arange(len(pairs)), list(bad))
            splits[name] = take(splits[name], readable)
            chosen[name] = [pairs[i] for i in readable]
    notes = list(found.notes)
    if not tree_files.sampled:
        notes += _duplicate_notes(splits, chosen, root)
    if skipped:
        notes.append(f"skipped: {undecodable(skipped, total)}")
    return Dataset(
        splits,
        classes,
        times=tree_files.times,
        notes=tuple(f"{root}: {note}" for note in notes),
        skipped=tuple(map(printable, skipped)),
        applies_exif=True,
    )


def count_training_images(spec: DataSpec) -> int | None:
    """Count the images that `load` and data.validation leave for training, by their names; None if there are none."""
    root = pathlib.Path(spec.path or "").expanduser()
    if not spec.path or not tree.has_train(root):
        return None
    classes = tree.discover(root, spec.classes).splits["train"].values()
    return sum(len(kind) - held_out_count(len(kind), spec.validation) for kind in classes) or None


def _duplicate_notes(
    splits: dict[str, Split], chosen: dict[str, list[tuple[File, int]]], root: pathlib.Path
) -> list[str]:
    """Describe the equal files in two splits or under two classes."""
    equal = duplicates(
        {name: np.asarray(split.digests).tolist() for name, split in splits.items()},
        {name: split.labels for name, split in splits.items()},
    )
    return equal.notes(lambda name, i: printable(tree.relative(chosen[name][i][0].path, root)))


def _unreadable(
    chosen: dict[str, list[tuple[File, int]]], spec: DataSpec, faults: list[str]
) -> str | None:
    """Describe the unreadable images; if there are too many images to decode here, only the known `faults`."""
    files = [file for pairs in chosen.values() for file, _ in pairs]
    images = ImageFiles(
        lambda i: (None, files[i].path),
        len(files),
        spec.image_size,
        threads=spec.threads,
        processes=spec.workers,
        identity=None,
    )
    if images.nbytes > image_files.CACHE_LIMIT_BYTES:
        return f"{undecodable(faults, len(files))}; remove or replace them" if faults else None
    bad = [fault for _, fault in images.check()]
    return f"{undecodable(bad, len(files))}; {SKIP}" if bad else None


def _no_train(root: pathlib.Path, spec: DataSpec) -> str:
    """Explain why `root` is not a folder of training images."""
    if not spec.path or not root.is_dir():
        return f"no folder {spec.path}; expected {LAYOUT} in it"
    try:
        entries = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
    except OSError as error:
        return f"cannot read {root}: {error.strerror}"
    if "index.json" in entries:
        return f"{root} is a prepared store: set --config.data.source=store"
    if any(archives.is_archive(name) for name in entries):
        return f"{root} contains archives: {_prepare(root)}"
    listing = ", ".join(entries[:8]) + (" ..." if len(entries) > 8 else "")
    return f"no folder train in {root}; it contains {listing or 'nothing'}; expected {LAYOUT}"


def _prepare(root: pathlib.Path) -> str:
    return f"prepare a store from them first, with alexnet prepare --from {root} --out STORE"


def _split(
    folder: pathlib.Path,
    pairs: list[tuple[File, int]],
    values: np.ndarray,
    tree_files: digests.Files,
    spec: DataSpec,
) -> Split:
    paths = [file.path for file, _ in pairs]
    images = ImageFiles(
        lambda i: (None, paths[i]),
        len(paths),
        spec.image_size,
        threads=spec.threads,
        processes=spec.workers,
        identity=digests.cache_key(values, tree_files.times),
        title=f"{len(paths)} images of {folder}",
        check=tree_files.check,
        exif=spec.exif,
        paths=paths,
    )
    return Split(images, np.array([label for _, label in pairs], np.int32), values)
