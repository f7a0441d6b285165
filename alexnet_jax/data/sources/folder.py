"""Data source 'folder': images in PATH/train/CLASS/, PATH/val/CLASS/ and PATH/test/CLASS/, or in PATH/CLASS/.

A path that has one of the other forms (forms.py) is read as that form.
"""

import os
import pathlib

from alexnet_jax.data.pipeline.splits import Dataset, held_out_count
from alexnet_jax.data.sources import archives, forms, listing, tree
from alexnet_jax.data.sources.listing import Listing
from alexnet_jax.data.sources.tree import LAYOUT
from alexnet_jax.errors import DataError, listed
from alexnet_jax.specs import DataSpec


def load(spec: DataSpec) -> Dataset:
    """Load images of any format and size from a tree with a folder for each class, or from another form.

    The classes are data.classes or else the folder names in sorted order. Images are decoded and checked at their
    first use, or here if data.skip_unreadable is set.

    Raises:
      DataError: Lists all problems of the tree.
    """
    found = _find(spec)
    if found is None:
        raise DataError(_no_train(pathlib.Path(spec.path or "").expanduser(), spec))
    return listing.dataset(found, spec)


def count_training_images(spec: DataSpec) -> int | None:
    """Count the images that a source of specs.LISTED and data.validation leave for training; None if there are none."""
    found = _find(spec)
    if found is None:
        return None
    by_class = found.splits.get("train", {})
    counts = [len(by_class.get(name, ())) for name in spec.classes or by_class]
    return sum(count - held_out_count(count, spec.validation) for count in counts) or None


def _find(spec: DataSpec) -> Listing | None:
    if not spec.path:
        return None
    root, unpack = pathlib.Path(spec.path).expanduser(), listing.CacheUnpack()
    if spec.source in forms.FORMS:
        return forms.FORMS[spec.source].find(root, unpack)
    found = forms.find(root, unpack)
    return found or (_tree(root, spec.classes) if tree.has_train(root) else None)


def _tree(root: pathlib.Path, wanted: tuple[str, ...]) -> Listing:
    found = tree.discover(root, wanted)
    faults = list(found.faults)
    if packed := [str(path) for paths in found.archives.values() for path in paths.values()]:
        faults.append(f"{len(packed):,} classes are archives ({listed(packed)}): {_prepare(root)}")
    splits = {
        name: {class_: found.splits[name].get(class_, []) for class_ in names}
        for name, names in tree.class_names(found).items()
    }
    return Listing(root, "class folders", splits, faults=faults, notes=found.notes, layout=LAYOUT)


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
