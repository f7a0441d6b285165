"""Images in folders: PATH/train/CLASS/*.jpg, and the same below val/ and test/."""

import hashlib
import logging
import os
import pathlib
from typing import NamedTuple

import numpy as np

from alexnet_jax.data import archives
from alexnet_jax.data.image_files import ImageFiles
from alexnet_jax.data.images import FORMATS
from alexnet_jax.data.splits import Dataset, Split, class_numbers
from alexnet_jax.errors import DataError
from alexnet_jax.specs import DataSpec

SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
LAYOUT = "PATH/train/CLASS/*.jpg (or .png ...), and the same below val/ and test/"

log = logging.getLogger(__name__)


class File(NamedTuple):
    name: str
    """Relative to the folder of its split, with '/'."""
    size: int
    modified: int
    label: int


def folder(spec: DataSpec) -> Dataset:
    """A folder a class, in sorted order; images of any format and size. Hidden files do not count.

    Raises DataError for what is missing. Images are decoded, and checked, when they are first used.
    """
    try:
        return _scan(spec)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None


def _scan(spec: DataSpec) -> Dataset:
    root = pathlib.Path(spec.path or "").expanduser()
    names = ("train", "val", "test")
    found = [name for name in names if (root / name).is_dir()]
    if "train" not in found:
        if not spec.path or not root.is_dir():
            raise DataError(f"no folder {spec.path}; it should hold {LAYOUT}")
        entries = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
        if "index.json" in entries:
            raise DataError(f"{root} is a prepared store: say --config.data.source=store")
        if any(archives.is_archive(name) for name in entries):
            raise DataError(
                f"{root} holds archives: prepare a store from them first, by "
                f"python -m alexnet_jax.data.prepare --from {root} --out STORE"
            )
        seen = ", ".join(entries[:8]) + (" ..." if len(entries) > 8 else "")
        raise DataError(
            f"no folder train in {root}; it has {seen or 'nothing'}, and should hold {LAYOUT}"
        )
    classes = _class_names(root, found)
    if spec.classes:
        class_numbers(spec.classes, classes)
        classes = spec.classes
    digest, splits = hashlib.sha256(), {}
    for name in found:
        files = [
            file
            for label, kind in enumerate(classes)
            for file in class_files(root / name, kind, label)
        ]
        for file in files:
            digest.update(f"{name}/{file.name} {file.size} {file.label}\n".encode(errors="surrogateescape"))
        splits[name] = _split(root / name, files, spec)
    return Dataset(splits, classes, digest.hexdigest())


def _class_names(root: pathlib.Path, found: list[str]) -> tuple[str, ...]:
    """The class folders of train/. Raises DataError where another split has others."""
    classes = {}
    for name in found:
        with os.scandir(root / name) as entries:
            classes[name] = {
                entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
            }
    if not classes["train"]:
        raise DataError(f"{root / 'train'} has no class folders; {root} should hold {LAYOUT}")
    for name in found[1:]:
        for more, less in ((name, "train"), ("train", name)):
            extra = sorted(classes[more] - classes[less])
            if extra:
                listed = ", ".join(extra[:5]) + (
                    f" and {len(extra) - 5} more" if len(extra) > 5 else ""
                )
                raise DataError(
                    f"class folders of {root} differ: {more} has {listed}, which {less} has not; "
                    f"it should hold {LAYOUT}"
                )
    return tuple(sorted(classes["train"]))


def class_files(folder: pathlib.Path, kind: str, label: int) -> list[File]:
    """The image files below a class folder, sorted. Raises DataError where there are none."""

    def refuse(error: OSError):
        raise error  # os.walk would leave a folder out that it cannot read

    files, others = [], 0
    for parent, folders, names in os.walk(folder / kind, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            if not name.lower().endswith(SUFFIXES):
                others += 1
                continue
            path = os.path.join(parent, name)
            status = os.stat(path)
            relative = os.path.relpath(path, folder).replace(os.sep, "/")
            files.append(File(relative, status.st_size, status.st_mtime_ns, label))
    if not files:
        raise DataError(
            f"class folder {folder / kind} has no images"
            + (f" (its {others} files end in none of {' '.join(SUFFIXES)})" if others else "")
            + f"; {folder.parent} should hold {LAYOUT}"
        )
    if others:
        log.warning("%s: %d files that are no images were left out", folder / kind, others)
    return sorted(files)


def _split(folder: pathlib.Path, files: list[File], spec: DataSpec) -> Split:
    paths = [os.path.join(folder, file.name) for file in files]
    identity = hashlib.sha256()
    for file in files:
        identity.update(f"{file.name} {file.size} {file.modified}\n".encode(errors="surrogateescape"))
    images = ImageFiles(
        lambda i: (None, paths[i]),
        len(paths),
        spec.image_size,
        threads=spec.threads,
        identity=identity.hexdigest(),
        title=f"{len(paths)} images of {folder}",
        exif=spec.exif,
    )
    return Split(images, np.array([file.label for file in files], np.int32))
