"""Folders of images: train/CLASS/*.jpg, and the same below val/ and test/; or CLASS/*.jpg alone.

Training, `prepare` and `doctor` all find images by `discover`, so that they see the same ones.
"""

import errno
import itertools
import os
import pathlib
import stat
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import NamedTuple

from alexnet_jax.data.pipeline.pillow import FORMATS
from alexnet_jax.data.pipeline.splits import SPLITS, split_of
from alexnet_jax.data.sources import archives
from alexnet_jax.errors import DataError, listed, printable

SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
LAYOUT = (
    "PATH/train/CLASS/*.jpg (or .png ...), and the same below val/ and test/, or PATH/CLASS/*.jpg"
)
#: Image formats that are not read: named in the notes rather than counted as other files.
_OTHER_IMAGES = (
    ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".tga", ".ico", ".dng",
    ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".eps", ".exr",
)  # fmt: skip
_SYSTEM_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")
#: Maximum number of names of each kind in a message.
_NAMED = 5


class File(NamedTuple):
    """An image file, with the size and time that show whether it changed.

    Attributes:
        size: Bytes; -1 for a dangling link.
        modified: Modification time in nanoseconds.
    """

    path: str
    size: int
    modified: int

    @property
    def title(self) -> str:
        return self.path

    def fault(self) -> str | None:
        """Why the file cannot be opened; None if it can."""
        try:
            if self.size < 0:
                os.stat(self.path)
            if os.access(self.path, os.R_OK):
                return None
            why = os.strerror(errno.EACCES)
        except OSError as error:
            why = error.strerror
        return f"cannot read {self.path}: {why}"

    def read(self) -> bytes:
        """Read the encoded image. Raises DataError."""
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}") from None


class Tree(NamedTuple):
    """Result of `discover`, by split in the order of SPLITS.

    Attributes:
        splits: Split -> class -> its images, sorted by name.
        archives: Split -> class -> the archive that takes the place of its folder.
        faults: What has to be corrected, one line for each kind, with counts.
        notes: What was left out, one line for each kind, with counts.
    """

    folders: dict[str, pathlib.Path]
    splits: dict[str, dict[str, list[File]]]
    archives: dict[str, dict[str, pathlib.Path]]
    faults: list[str]
    notes: list[str]


def refusal(
    root: pathlib.Path, faults: list[str], unreadable: str | None = None, layout: str = LAYOUT
) -> DataError:
    """The one-line error for a tree with `faults` and `unreadable` images."""
    if unreadable and not faults:
        return DataError(f"{root}: {unreadable}")
    lines = [*faults, unreadable] if unreadable else faults
    hint = f"; it should hold {layout}" if layout else ""
    if len(lines) == 1:
        return DataError(f"{root}: {lines[0]}{hint}")
    numbered = "; ".join(f"({i}) {line}" for i, line in enumerate(lines, 1))
    return DataError(f"{root} has {len(lines)} kinds of faults: {numbered}{hint}")


def has_train(root: pathlib.Path) -> bool:
    """Whether an entry of the folder `root` is named like the training split; a dangling link counts."""
    try:  # or the folder itself is the training split
        return any(split_of(name) == "train" for name in os.listdir(root)) or is_flat(root)
    except OSError:
        return False


def is_flat(root: pathlib.Path) -> bool:
    """Whether `root` is the training split itself: no split, but two folders or more that hold images, lie in it."""
    try:
        with os.scandir(root) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
        if any(split_of(entry.name) or archives.is_archive(entry.name) for entry in entries):
            return False
        folders = [entry.path for entry in entries if entry.is_dir()]
        with_images = (folder for folder in folders if any(map(is_image, os.listdir(folder))))
        return len(list(itertools.islice(with_images, 2))) == 2
    except OSError:
        return False


def is_sorted(folder: pathlib.Path) -> bool:
    """Whether a split has class folders: a folder lies in it."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)
    except OSError:
        return False


def class_names(tree: Tree) -> dict[str, Set[str]]:
    """Map splits to the names of their classes, archives included."""
    return {split: tree.splits[split].keys() | tree.archives[split].keys() for split in tree.splits}


def mismatches(classes: Mapping[str, Set[str]]) -> list[str]:
    """Describe the classes that one split has and another lacks; splits without classes are ignored."""
    return [
        f"the classes differ: {more} has {listed(extra)}, which {less} does not have"
        for name in classes
        if name != "train" and classes[name] and classes["train"]
        for more, less in ((name, "train"), ("train", name))
        if (extra := sorted(map(printable, classes[more] - classes[less])))
    ]


def unprintable(classes: Iterable[str]) -> list[str]:
    """Return a fault if class names have line breaks, or bytes that are not UTF-8."""
    bad = [repr(name) for name in classes if printable(name) != name]
    return (
        [f"classes whose names cannot be printed, to be renamed: {len(bad):,} ({listed(bad)})"]
        if bad
        else []
    )


def discover(root: pathlib.Path, wanted: tuple[str, ...] = ()) -> Tree:
    """List the images of all splits in the folder `root`, without decoding them, and collect faults.

    Links are followed, and each folder is read once. `has_train(root)` must hold.

    Args:
        wanted: Classes whose images are listed; empty for all.
    """
    return _Discovery(root).tree(wanted)


def images_below(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[str]]:
    """Return the sorted image files below `folder`, and notes on what was left out. Raises DataError."""
    files, faults, notes = files_below(folder)
    if faults:
        raise refusal(folder, faults, layout="")
    return sorted(pathlib.Path(file.path) for file in files), notes


def files_below(folder: pathlib.Path) -> tuple[list[File], list[str], list[str]]:
    """Return the image files below `folder` sorted by path, faults, and notes on what was left out. Raises OSError."""
    found = _Discovery(folder)
    files = found.walk(os.fspath(folder))
    return files, found.faults(), found.notes()


class _Discovery:
    """One walk through a tree that collects faults and omissions: kind -> [count, the first names]."""

    def __init__(self, root: pathlib.Path):
        self._root = root
        self._faults: dict[str, list] = {}
        self._left_out: dict[str, list] = {}
        self._others: dict[str, list] = {}

    def tree(self, wanted: tuple[str, ...]) -> Tree:
        flat = is_flat(self._root)
        folders = {"train": self._root} if flat else self._folders()
        splits, packed = {}, {}
        for name in SPLITS:
            if name in folders:
                splits[name], packed[name] = self._classes(folders[name], set(wanted))
        splits.setdefault("train", {})
        packed.setdefault("train", {})
        notes = self.notes()
        if flat:
            names = listed([printable(name) for name in sorted(splits["train"])])
            notes.append(f"there is no folder train: its folders are the classes {names}")
        return Tree(folders, splits, packed, self.faults(), notes)

    def faults(self) -> list[str]:
        return in_words(self._faults)

    def notes(self) -> list[str]:
        notes = [f"left out {text}" for text in in_words(self._left_out)]
        if self._others:
            kinds = sorted(self._others.items(), key=lambda item: -item[1][0])
            shown = listed([f"{count:,} {kind}" for kind, (count, _) in kinds])
            total = sum(count for count, _ in self._others.values())
            notes.append(f"left out {total:,} files that are not images: {shown}")
        return notes

    def _fault(self, kind: str, path: str) -> None:
        tally(self._faults, kind, printable(path))

    def _leave_out(self, kind: str, path: str) -> None:
        tally(self._left_out, kind, self._shown(path))

    def _shown(self, path: str) -> str:
        return printable(relative(path, self._root))

    def _entries(
        self, folder: str, *, hidden: bool = True
    ) -> Iterator[tuple[os.DirEntry, os.stat_result | None]]:
        """Yield entries sorted by name, with the status of what they link to; None for dangling links."""
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            self._fault(f"cannot read: {error.strerror}", folder)
            return
        for entry in entries:
            if entry.name in _SYSTEM_FILES or entry.name.startswith("._"):
                continue
            if entry.name.startswith("."):
                if hidden:
                    tally(self._others, "hidden", self._shown(entry.path))
                continue
            try:
                yield entry, entry.stat()
            except OSError:
                yield entry, None

    def _folders(self) -> dict[str, pathlib.Path]:
        found: dict[str, pathlib.Path] = {}
        for entry, status in self._entries(os.fspath(self._root), hidden=False):
            split = split_of(entry.name)
            is_folder = status is not None and stat.S_ISDIR(status.st_mode)
            if split is None:
                packed = (
                    split_of(archives.stem(entry.name)) if archives.is_archive(entry.name) else None
                )
                if is_folder:
                    self._leave_out("folders that are not splits", entry.path)
                elif packed:
                    self._leave_out("archives beside the folder of train", entry.path)
                elif is_image(entry.name):
                    self._leave_out("images outside of the splits", entry.path)
            elif status is None:
                self._fault("dangling links", entry.path)
            elif not is_folder:
                self._fault("files in the place of folders", entry.path)
            elif split in found:
                self._fault(
                    f"two folders for {split}; remove or rename one",
                    f"{found[split]}, {entry.path}",
                )
            else:
                found[split] = pathlib.Path(entry.path)
        return found

    def _classes(
        self, folder: pathlib.Path, wanted: set[str]
    ) -> tuple[dict[str, list[File]], dict[str, pathlib.Path]]:
        """Return (class -> images, class -> archive) of a split."""
        classes: dict[str, list[File]] = {}
        packed: dict[str, pathlib.Path] = {}
        loose = 0
        for entry, status in self._entries(os.fspath(folder)):
            name = entry.name
            if status is None:
                self._fault("dangling links", entry.path)
            elif stat.S_ISDIR(status.st_mode):
                classes[name] = (
                    [] if wanted and name not in wanted else self._images(entry.path, folder)
                )
            elif archives.is_archive(name):
                if archives.stem(name) in packed:
                    self._fault("classes that occur twice", entry.path)
                packed[archives.stem(name)] = pathlib.Path(entry.path)
            elif is_image(name):
                loose += 1
                self._leave_out("images that are not in a class folder", entry.path)
            else:
                self._other(entry)
        for name in classes.keys() & packed.keys():
            self._fault("classes that occur twice", os.fspath(folder / name))
        if not classes and not packed:
            without_class = f" ({loose:,} images are not in any)" if loose else ""
            self._fault(f"splits without class folders{without_class}", os.fspath(folder))
        return classes, packed

    def _images(self, folder: str, split: pathlib.Path) -> list[File]:
        """The images of a class folder."""
        before = sum(count for count, _ in self._others.values())
        files = self.walk(folder, self._root, split)
        if not files:
            others = sum(count for count, _ in self._others.values()) - before
            kind = "class folders without images"
            if others:
                kind += f" (their files end in none of {' '.join(SUFFIXES)})"
            self._fault(kind, folder)
        return files

    def walk(self, folder: str, *above: pathlib.Path) -> list[File]:
        """List the images below `folder`, sorted by name; read each folder once, and those in `above` never."""
        files: list[File] = []
        seen = {_inode(os.stat(path)) for path in above}
        # Links come last: a folder of this class that is also linked is then listed under its own path.
        pending, links = [(folder, os.stat(folder))], []
        while pending or links:
            path, status = pending.pop() if pending else links.pop(0)
            if _inode(status) in seen:
                self._leave_out("links to folders that were read already", path)
                continue
            seen.add(_inode(status))
            for entry, status in self._entries(path):
                if status is not None and stat.S_ISDIR(status.st_mode):
                    (links if entry.is_symlink() else pending).append((entry.path, status))
                elif is_image(entry.name):
                    if status is None:
                        files.append(File(entry.path, -1, 0))
                    elif stat.S_ISREG(status.st_mode):
                        files.append(File(entry.path, status.st_size, status.st_mtime_ns))
                    else:
                        self._leave_out("pipes, sockets or devices named as images", entry.path)
                elif status is None:
                    self._fault("dangling links", entry.path)
                else:
                    self._other(entry)
        return sorted(files)

    def _other(self, entry: os.DirEntry) -> None:
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in _OTHER_IMAGES:
            self._leave_out(
                f"{suffix} files, which are not read (convert them to JPEG or PNG)", entry.path
            )
        else:
            tally(self._others, printable(suffix) or "without a suffix", self._shown(entry.path))


def tally(table: dict[str, list], kind: str, name: str) -> None:
    """Count `name` under `kind`: kind -> [count, the first names]."""
    found = table.setdefault(kind, [0, []])
    found[0] += 1
    if found[0] <= _NAMED:
        found[1].append(name)


def in_words(table: dict[str, list]) -> list[str]:
    """Describe each entry of a table that `tally` makes."""
    lines = []
    for kind, (count, first) in table.items():
        more = f" and {count - len(first):,} more" if count > len(first) else ""
        lines.append(f"{kind}: {count:,} ({', '.join(first)}{more})")
    return lines


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def relative(path: str, folder: pathlib.Path) -> str:
    """Return `path` relative to `folder`, with '/' as the separator."""
    base = os.path.join(folder, "")
    # os.path.relpath takes ten times as long, and large datasets have a million paths.
    inside = path[len(base) :] if path.startswith(base) else os.path.relpath(path, folder)
    return inside.replace(os.sep, "/")
