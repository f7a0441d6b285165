"""Source 'labels_csv': folders of images and a table (.csv or .tsv) with their names and labels.

The columns are found by what they hold: the one whose values name images, with or without a suffix, and the label. The
split of a row is that of a column `split`, or else of the name of the table, of its folder, or of the folder of the
image; else it is 'train'.
"""

import csv
import io
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alexnet_jax.data.pipeline.splits import Dataset, split_of
from alexnet_jax.data.sources import labels, listing, sharded, tree
from alexnet_jax.data.sources.labels import Example
from alexnet_jax.data.sources.listing import Listing, Unpack
from alexnet_jax.data.sources.tree import File
from alexnet_jax.errors import DataError, listed, printable
from alexnet_jax.specs import DataSpec

LAYOUT = "images in folders of splits, or in one folder, with a .csv of names and labels"
_TABLES = (".csv", ".tsv")
#: Names of the column of labels, in order of preference, in lower case without '_' and spaces.
_LABELS = (
    "label", "labels", "class", "classname", "classid", "category", "target", "species", "breed", "labelname", "y",
)  # fmt: skip
_SPLITS = ("split", "set", "subset", "partition")
_MOST_BYTES = 2**30
_MOST_FOLDERS, _MOST_COLUMNS = 64, 256
#: Rows by which columns are found.
_TRIED = 50


def load(spec: DataSpec) -> Dataset:
    """Open the images in `spec.path` that its tables list. Raises DataError."""
    return listing.load(spec, find, LAYOUT)


def find(root: pathlib.Path, unpack: Unpack) -> Listing | None:
    """List the images that the tables in a folder name; None for class folders, and if no table names images.

    Raises DataError.
    """
    if not root.is_dir():
        return None
    folders = _folders(root)
    if any(split_of(path.name) and tree.is_sorted(path) for path in folders):
        return None
    tables = [path for folder in (root, *folders) for path in _tables(folder)]
    images = _Images(root, folders) if tables else ()
    if not images:
        return None
    table: dict[str, list] = {}
    examples: dict[str, list[Example]] = {}
    used, unused, faults = [], [], []
    for path in tables:
        try:
            rows, columns = _read(path, images)
        except DataError as error:
            faults.append(str(error))
            continue
        if columns is None:
            unused.append(str(path.relative_to(root)))
            continue
        used.append(path)
        for split, example in _examples(path, rows, columns, images, table):
            examples.setdefault(split, []).append(example)
    homes = [{os.path.dirname(one.item.title) for one in found} for found in examples.values()]
    are_classes = tree.is_flat(root) and max(map(len, homes), default=2) > 1
    if are_classes or not (used or faults):
        return None
    named, notes = {one.item.title for found in examples.values() for one in found}, []
    if unused:
        notes.append(f"left out {len(unused):,} tables that do not label images: {listed(unused)}")
    if others := len(images) - len(named):
        notes.append(f"left out {others:,} images that no table labels")
    return labels.by_class(
        root,
        "images with a table of labels",
        _once(examples, table),
        holders=used,
        faults=[*faults, *tree.in_words(table)],
        notes=notes,
    )


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
    """The folders in `root`; none if they are so many that they must be classes."""
    try:
        with os.scandir(root) as entries:
            found = [entry.path for entry in entries if entry.is_dir() and entry.name[0] != "."]
    except OSError:
        return []
    return [pathlib.Path(path) for path in sorted(found)] if len(found) <= _MOST_FOLDERS else []


def _tables(folder: pathlib.Path) -> list[pathlib.Path]:
    """The tables in a folder, but those of predictions for a competition."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    names = [n for n in names if n.lower().endswith(_TABLES) and "submission" not in n.lower()]
    return [folder / name for name in names if (folder / name).is_file()]


class _Images:
    """The images in a folder and in the folders in it, by their names with and without a suffix."""

    def __init__(self, root: pathlib.Path, folders: Sequence[pathlib.Path]):
        self.root = root
        #: Folder, relative to the root -> name or stem -> file.
        self._names: dict[str, dict[str, File]] = {}
        #: Folder that a row names, split of its table -> the folders in the order of the search.
        self._ranked: dict[tuple[str | None, str | None], list[dict[str, File]]] = {}
        self._count = 0
        for folder in (root, *folders):
            names = self._names[tree.relative(str(folder), root) if folder != root else ""] = {}
            for file in sorted(_files(folder)):
                base = os.path.basename(file.path)
                self._count += 1
                for name in (_folded(base), os.path.splitext(base)[0]):
                    names.setdefault(name, file)
                    names.setdefault(_folded(name), file)
                names[base] = file

    def __len__(self) -> int:
        return self._count

    def split(self, table: pathlib.Path) -> str | None:
        """Return the split that a table or its folder is named after."""
        inside = table.parent != self.root and sharded.split_in(table.parent.name)
        return sharded.split_in(table.name) or inside or None

    def find(self, name: str, wanted: str | None) -> File | None:
        """Find the image that a row names, wherever its author had it; `wanted` is the split of the table."""
        folder, _, base = name.replace("\\", "/").rpartition("/")
        if not base:
            return None
        above = folder.rpartition("/")[2]
        key = above if above in self._names else None, wanted
        if key not in self._ranked:
            self._ranked[key] = self._rank(*key)
        folders = self._ranked[key]
        found = (names.get(one) for one in (base, _folded(base)) for names in folders)
        return next(filter(None, found), None)

    def _rank(self, above: str | None, wanted: str | None) -> list[dict[str, File]]:
        """Rank the folder `above` first, then those of the split, then the others that may be meant."""
        ranked = []
        for one in self._names:
            split = sharded.split_in(one)
            if one == above or wanted in (None, split) or split is None:
                ranked.append((one != above, split != (wanted or "train"), one))
        return [self._names[one] for *_, one in sorted(ranked)]


def _folded(name: str) -> str:
    """Return a name with its suffix in lower case, and as composed Unicode, which file systems may have decomposed."""
    stem, suffix = os.path.splitext(unicodedata.normalize("NFC", name))
    return stem + suffix.lower()


def _files(folder: pathlib.Path) -> Iterator[File]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if tree.is_image(entry.name) and entry.name[0] != "." and entry.is_file():
                    status = entry.stat()
                    yield File(entry.path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}") from None


class _Columns(NamedTuple):
    """Numbers of columns, and the number of the first row with an image."""

    image: int
    label: int
    split: int | None
    first: int


def _read(path: pathlib.Path, images: _Images) -> tuple[list[list[str]], _Columns | None]:
    """Return the rows of a table and its columns; None if no row names an image. Raises DataError."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path} has more than {_MOST_BYTES:,} bytes; remove it")
        text = path.read_text(encoding="utf-8-sig")
        text = re.sub(r"\Asep=.\n", "", text)  # of Excel
        head = text.partition("\n")[0]
        delimiter = max(",;\t|", key=head.count)
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}; save it as UTF-8 text") from None
    tried, wanted = rows[: _TRIED + 1], images.split(path)
    width = min(max(map(len, tried), default=0), _MOST_COLUMNS)
    found = [[images.find(_cell(row, i), wanted) for row in tried] for i in range(width)]
    # Numbers of classes may be names of images, too, but of fewer.
    hits = [(len(files) - files.count(None), len({*files} - {None})) for files in found]
    if not any(map(any, hits)):
        return [], None
    image = hits.index(max(hits))
    first = _cell(rows[0], image)
    has_header = not tree.is_image(first) and images.find(first, wanted) is None
    header = [re.sub(r"[_\s-]", "", one).lower() for one in rows[0][:width]] if has_header else []
    split = next((header.index(name) for name in _SPLITS if name in header), None)
    others = [i for i in range(width) if i not in (image, split)]
    named = {header[i]: i for i in reversed(others) if i < len(header)}
    label = next((named[name] for name in _LABELS if name in named), None)
    if label is None and len(others) == 1:
        label = others[0]
    if label is None:
        if not others or sharded.split_in(path.name) == "test":
            return [], None
        shown = listed([printable(one) for one in rows[0]], 10)
        raise DataError(
            f"{path}: which column is the label? Its first row is {shown}; call one 'label'"
        )
    return rows, _Columns(image, label, split, int(has_header))


def _cell(row: list[str], column: int) -> str:
    return row[column].strip() if len(row) > column else ""


def _examples(
    path: pathlib.Path,
    rows: list[list[str]],
    columns: _Columns,
    images: _Images,
    faults: dict[str, list],
) -> Iterator[tuple[str, Example]]:
    """Yield the split and the example of each row."""
    wanted = images.split(path)
    for number, row in enumerate(rows[columns.first :], columns.first + 1):
        name = _cell(row, columns.image)
        file = images.find(name, wanted)
        if file is None:
            tree.tally(
                faults,
                f"images that {path.name} names and that are not there; add them or remove their rows",
                printable(name),
            )
            continue
        label = _cell(row, columns.label)
        of_image = sharded.split_in(tree.relative(os.path.dirname(file.path), images.root))
        split = wanted or of_image or "train"
        if columns.split is not None:
            given = _cell(row, columns.split)
            split = split_of(given)
            if split is None:
                fault = f"rows of {path.name} whose split is none of train, val and test"
                tree.tally(faults, fault, printable(f"{given!r} in row {number}"))
                continue
        yield split, Example(label, os.path.basename(file.path), file)


def _once(examples: dict[str, list[Example]], faults: dict[str, list]) -> dict[str, list[Example]]:
    """Keep each image once; one with two labels or splits is a fault."""
    seen: dict[str, tuple[str, int | str | None]] = {}
    kept: dict[str, list[Example]] = {split: [] for split in examples}
    for split, found in examples.items():
        for one in found:
            path = one.item.title
            if path not in seen:
                kept[split].append(one)
            elif seen[path] != (split, one.label):
                tree.tally(faults, "images with two labels or in two splits", printable(path))
            seen.setdefault(path, (split, one.label))
    return kept
