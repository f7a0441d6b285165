"""Source 'kaggle': ImageNet as Kaggle distributes it, ILSVRC/Data/CLS-LOC, as a folder, a zip, a tar or a tar.gz.

`val` is flat there; LOC_val_solution.csv has its labels, and LOC_synset_mapping.txt the names of the classes.
"""

import csv
import io
import pathlib
import re
from collections.abc import Iterator, Sequence

from alexnet_jax.data.pipeline.splits import Dataset
from alexnet_jax.data.sources import archives, labels, listing, tree
from alexnet_jax.data.sources.labels import Example
from alexnet_jax.data.sources.listing import Item, Listing, Unpack
from alexnet_jax.errors import listed, printable
from alexnet_jax.specs import DataSpec

LAYOUT = "ILSVRC/Data/CLS-LOC/train/SYNSET/ and val/ with LOC_val_solution.csv and LOC_synset_mapping.txt (Kaggle)"
_IMAGES = "ILSVRC/Data/CLS-LOC"
_VALIDATION, _SYNSETS = "LOC_val_solution.csv", "LOC_synset_mapping.txt"
_MOST_BYTES = 64 * 2**20


def load(spec: DataSpec) -> Dataset:
    """Open the copy of ImageNet at `spec.path`. Raises DataError."""
    return listing.load(spec, find, LAYOUT)


def find(root: pathlib.Path, unpack: Unpack) -> Listing | None:
    """List the images of a folder or archive with LAYOUT; None for any other. Raises DataError."""
    if root.is_file():
        is_packed = archives.is_archive(root.name) and _is_layout(root)
        return _archive(root, unpack) if is_packed else None
    if home := _home(root):
        # With val sorted into class folders, it is a tree of these.
        is_tree = home / _IMAGES == root.absolute() and tree.is_sorted(root / "val")
        return None if is_tree else _folder(home)
    packed = _packed(root)
    return _archive(packed, unpack) if packed else None


def _home(root: pathlib.Path) -> pathlib.Path | None:
    """Return the folder with ILSVRC/, of which `root` may also be an inner folder."""
    root = root.absolute()
    inner = {root / _IMAGES: root}
    inner |= {
        home / _IMAGES: home for home in root.parents[:3] if (home / _IMAGES).is_relative_to(root)
    }
    return next((home for images, home in inner.items() if images.is_dir()), None)


def _packed(root: pathlib.Path) -> pathlib.Path | None:
    """Return the archive with LAYOUT in a folder, alone or beside LOC_val_solution.csv."""
    try:
        found = [path for path in sorted(root.iterdir()) if archives.is_archive(path.name)]
    except OSError:
        return None
    if len(found) != 1 and not (root / _VALIDATION).is_file():
        return None
    return next((path for path in found if _is_layout(path)), None)


def _is_layout(path: pathlib.Path) -> bool:
    names = archives.peek(path)
    return any("ILSVRC" in name.split("/") or _VALIDATION in name for name in names)


def _folder(home: pathlib.Path) -> Listing:
    """List the images of a folder."""
    splits: dict[str, dict[str, Item]] = {}
    faults, notes = [], []
    for split in ("train", "val"):
        folder = home / _IMAGES / split
        if not folder.is_dir():
            splits[split] = {}
            continue
        found, more_faults, more_notes = tree.files_below(folder)
        splits[split] = {tree.relative(file.path, folder): file for file in found}
        faults += more_faults
        notes += more_notes
    if (home / _IMAGES / "test").is_dir():
        notes.append("left out test: its images have no labels")
    paths = [path for name in (_VALIDATION, _SYNSETS) if (path := home / name).is_file()]
    texts = _texts(paths, faults)
    return _listing(home, splits, texts, paths, faults, notes)


def _texts(paths: Sequence[pathlib.Path], faults: list[str]) -> dict[str, bytes]:
    """Read the start of each list; those that cannot be read go into `faults`."""
    texts = {}
    for path in paths:
        try:
            with open(path, "rb") as file:
                texts[path.name] = file.read(_MOST_BYTES)
        except OSError as error:
            faults.append(f"cannot read {path}: {error.strerror}")
    return texts


def _archive(path: pathlib.Path, unpack: Unpack) -> Listing:
    """List the images of an archive with LAYOUT; the two lists may also lie beside it."""
    splits: dict[str, dict[str, Item]] = {"train": {}, "val": {}}
    texts, others, faults = {}, 0, []
    for member in archives.members(listing.plain(path, unpack), None, shown=str(path)):
        inside = f"/{member.name}".partition(f"/{_IMAGES}/")[2]
        split, _, name = inside.partition("/")
        if member.name.endswith((_VALIDATION, _SYNSETS)):
            texts[member.name.rsplit("/", 1)[-1]] = member.read()
        elif split in splits and tree.is_image(name):
            splits[split][name] = member
        else:
            others += 1
    beside = [path.with_name(name) for name in (_VALIDATION, _SYNSETS) if name not in texts]
    beside = [one for one in beside if one.is_file()]
    texts |= _texts(beside, faults)
    notes = [f"left out {others:,} files that are not images of train or val"] if others else []
    return _listing(path, splits, texts, [path, *beside], faults, notes)


def _listing(
    root: pathlib.Path,
    splits: dict[str, dict[str, Item]],
    texts: dict[str, bytes],
    holders: list[pathlib.Path],
    faults: list[str],
    notes: list[str],
) -> Listing:
    """Label the images: those of train by their folders, those of val by their folders or LOC_val_solution.csv."""
    table: dict[str, list] = {}
    words = dict(_words(texts.get(_SYNSETS, b""), table))
    truth = dict(_truth(texts.get(_VALIDATION, b""), table))
    missing = []
    if _VALIDATION not in texts and not all("/" in name for name in splits["val"]):
        missing.append(f"there is no {_VALIDATION} with the labels of val beside ILSVRC: add it")
    if _VALIDATION in texts and not truth:
        faults = [*faults, f"{_VALIDATION} has no row with a synset: download it again"]
    if _SYNSETS not in texts:
        notes = [*notes, f"there is no {_SYNSETS} with the names of the classes"]
    for split, found in splits.items():
        if not found:
            missing.append(f"there are no images in {_IMAGES}/{split}: unpack or download it again")
    examples: dict[str, list[Example]] = {split: [] for split, found in splits.items() if found}
    for split in examples:
        for name, item in splits[split].items():
            folder, _, base = name.rpartition("/")
            label = folder.split("/")[0] or (
                truth.get(base.split(".")[0]) if split == "val" else None
            )
            examples[split].append(Example(label, base, item))
    for split, found in examples.items():
        for example in found if words else ():
            if example.label and example.label not in words:
                fault = f"images of {split} whose class is not in {_SYNSETS}"
                tree.tally(table, fault, printable(example.item.title))
    if splits["train"] and (absent := words.keys() - {one.label for one in examples["train"]}):
        names = listed(sorted(absent))
        missing.append(f"{len(absent):,} classes of {_SYNSETS} have no images in train: {names}")
    present = {name.rpartition("/")[2].split(".")[0] for name in splits["val"]}
    if present and (absent := truth.keys() - present):
        names = listed(sorted(absent))
        missing.append(f"{len(absent):,} images of {_VALIDATION} are not in val: {names}")
    found = labels.by_class(
        root,
        "Kaggle's copy of ILSVRC2012",
        examples,
        holders=holders,
        official="ILSVRC2012",
        faults=[*faults, *tree.in_words(table)],
        missing=missing,
        notes=notes,
    )
    return found._replace(words=words)


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8-sig", "replace").splitlines()


def _words(text: bytes, table: dict[str, list]) -> Iterator[tuple[str, str]]:
    """Yield the synset and the name of each line; other lines go into `table`."""
    for number, line in enumerate(_lines(text), 1):
        match = re.fullmatch(r"(n\d{8})\s+(\S.*)", line.strip())
        if match:
            yield match[1], match[2]
        elif line.strip():
            tree.tally(table, f"lines of {_SYNSETS} that name no synset", f"line {number}")


def _truth(text: bytes, table: dict[str, list]) -> Iterator[tuple[str, str]]:
    """Yield the name, without a suffix, and the synset of each validation image; other rows go into `table`."""
    rows = csv.reader(io.StringIO("\n".join(_lines(text))))
    try:
        for number, row in enumerate(rows, 1):
            synset = row[1].split(" ")[0] if len(row) > 1 else ""
            if labels.is_synset(synset):
                yield row[0].split(".")[0], synset
            elif row and number > 1:
                tree.tally(table, f"rows of {_VALIDATION} without a synset", f"line {number}")
    except csv.Error as error:
        tree.tally(table, f"{_VALIDATION} is damaged ({error}); download it again", "1")
