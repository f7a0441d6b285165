"""Data source 'arrays': images and labels in one .npz file."""

import os
import pathlib
import tokenize
import zipfile
import zlib

import numpy as np

from alexnet_jax import files
from alexnet_jax.data.pipeline import digests
from alexnet_jax.data.pipeline.image_files import fitted
from alexnet_jax.data.pipeline.splits import SPLITS, Dataset, Split, class_names, split_of
from alexnet_jax.errors import DataError, listed
from alexnet_jax.specs import MOST_CLASSES, DataSpec

_NPZ = "an .npz file with train_images, train_labels and optionally val_ and test_ arrays"


def load(spec: DataSpec) -> Dataset:
    """Load an .npz file with train_images uint8 [n h w 3] or [n h w], train_labels [n] and optionally class_names.

    Arrays val_images, val_labels, test_images and test_labels are optional. Raises DataError.
    """
    path = pathlib.Path(spec.path or "").expanduser()
    content = _npz(path)
    content, notes = _rename(path, content)
    splits = {}
    for name in SPLITS:
        if f"{name}_images" in content or name == "train":
            splits[name] = _checked(path, name, content)
    max_label = int(max(split.labels.max(initial=-1) for split in splits.values()))
    train_classes = int(splits["train"].labels.max(initial=-1)) + 1
    given = content.get("class_names", np.arange(train_classes))
    if given.ndim != 1:
        raise DataError(
            f"{path}: class_names has the shape {list(given.shape)}, not one name per class"
        )
    names = class_names(given, f"{path}: class_names")
    if max_label >= len(names):
        key = "class_names" if "class_names" in content else "train_labels"
        raise DataError(
            f"{path}: a label is {max_label}, but {key} has the classes 0 to {len(names) - 1}"
        )
    splits = {
        name: split._replace(
            images=fitted(split.images, spec.image_size, spec.threads),
            digests=digests.of_rows(split.images),
        )
        for name, split in splits.items()
    }
    return Dataset(splits, names, notes=notes)


def _rename(
    path: pathlib.Path, content: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Rename the arrays by the keys of SPLITS, and return them with a note on other arrays. Raises DataError."""
    renamed, others = {}, []
    for key, array in content.items():
        prefix, _, kind = key.rpartition("_")
        split = split_of(prefix) if kind in ("images", "labels") else None
        name = f"{split}_{kind}" if split else key
        if name in renamed:
            raise DataError(f"{path} has {name} twice, the second time as {key}; remove one")
        if split or key == "class_names":
            renamed[name] = array
        else:
            others.append(key)
    note = f"{path}: left out {len(others):,} arrays with other names: {listed(others)}"
    return renamed, (note,) * bool(others)


def _npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read the arrays of a file, after a check of their total size. Raises DataError."""
    if other := files.not_regular(path):
        raise DataError(f"cannot read {path}: {other}; source 'arrays' reads {_NPZ}")
    if not path.is_file():
        raise DataError(f"no file {path}; source 'arrays' reads {_NPZ}")
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise DataError(f"{path} contains a single array; source 'arrays' reads {_NPZ}")
            # A small compressed file can declare more bytes than the memory of any machine.
            needed = sum(member.file_size for member in loaded.zip.infolist())
            if needed > _memory_bytes():
                raise DataError(
                    f"{path} contains {needed:,} bytes of arrays, more than the memory of this machine; "
                    "source 'folder' reads image by image"
                )
            # np.load returns bytes for a member that is not an array.
            return {key: np.asarray(loaded[key]) for key in loaded.files}
    except (ValueError, SyntaxError, tokenize.TokenError):
        raise DataError(f"{path} is not {_NPZ}; Python objects are not loaded") from None
    except (OSError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}; expected {_NPZ}") from None


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _checked(path: pathlib.Path, name: str, content: dict[str, np.ndarray]) -> Split:
    """Check the arrays of the split `name`, and return it with the images as stored. Raises DataError."""
    for key in (f"{name}_images", f"{name}_labels"):
        if key not in content:
            raise DataError(
                f"{path} has no {key}; it contains {', '.join(content) or 'nothing'}; expected {_NPZ}"
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
            f"not integers [{len(images)}], one per image"
        )
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= MOST_CLASSES:
        raise DataError(
            f"{path}: {name}_labels has {labels.min()}..{labels.max()}; labels count from 0 to at most "
            f"{MOST_CLASSES - 1:,}"
        )
    return Split(images, labels.astype(np.int32))
