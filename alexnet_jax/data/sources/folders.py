"""Images in folders: PATH/train/CLASS/*.jpg, and the same below val/ and test/.

`discover` reads such a tree, for training, prepare and doctor alike.
"""

import errno
import os
import pathlib
import stat
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.pipeline import identity, image_files
from alexnet_jax.data.pipeline.image_files import ImageFiles, undecodable
from alexnet_jax.data.pipeline.images import FORMATS
from alexnet_jax.data.pipeline.splits import (
    SPLITS,
    Dataset,
    Split,
    class_numbers,
    duplicates,
    split_of,
    take,
)
from alexnet_jax.data.sources import archives
from alexnet_jax.errors import DataError, listed, printable
from alexnet_jax.specs import DataSpec

SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
LAYOUT = "PATH/train/CLASS/*.jpg (or .png ...), and the same below val/ and test/"
_OTHER_IMAGES = (
    ".jfif", ".jpe", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".svg", ".psd", ".tga", ".ico", ".dng",
    ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".eps", ".exr",
)  # fmt: skip
"""Of images that are not read, unless FORMATS has them."""
_OF_SYSTEMS = (".DS_Store", "Thumbs.db", "desktop.ini")
SKIP = "remove or replace them, or skip them by --config.data.skip_unreadable=True"
_NAMED = 5
"""Names of each kind in a message."""


class File(NamedTuple):
    """An image file; `size` and `modified` (ns) tell whether it changed."""

    path: str
    size: int
    """-1 of a link to nothing."""
    modified: int

    @property
    def title(self) -> str:
        return self.path

    def fault(self) -> str | None:
        """Why the file cannot be opened."""
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
        """Raises DataError."""
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}") from None


class Tree(NamedTuple):
    """What `discover` found; all of it by split, in the order of SPLITS."""

    folders: dict[str, pathlib.Path]
    splits: dict[str, dict[str, list[File]]]
    """Class -> its images, sorted by name."""
    archives: dict[str, dict[str, pathlib.Path]]
    """Class -> the archive in the place of its folder."""
    faults: list[str]
    """What has to be mended, a line for each kind, with counts."""
    notes: list[str]
    """What was left out, a line for each kind, with counts."""


def folder(spec: DataSpec) -> Dataset:
    """A folder a class, in sorted order; images of any format and size.

    Raises DataError with everything that is wrong with the tree. Images are decoded, and checked, when they are
    first used; or here, where unreadable ones are to be skipped.
    """
    root = pathlib.Path(spec.path or "").expanduser()
    if not spec.path or not has_train(root):
        raise DataError(_no_train(root, spec))
    tree = discover(root, spec.classes)
    faults = list(tree.faults)
    if packed := [str(path) for kinds in tree.archives.values() for path in kinds.values()]:
        faults.append(f"{len(packed):,} classes are archives ({listed(packed)}): {_prepare(root)}")
    names = tuple(sorted(class_names(tree)["train"]))
    if spec.classes and names:
        class_numbers(spec.classes, names)
    classes = spec.classes or names
    faults += [*mismatches(class_names(tree, spec.classes)), *unprintable(classes)]
    chosen = {
        name: [(file, i) for i, kind in enumerate(classes) for file in kinds.get(kind, ())]
        for name, kinds in tree.splits.items()
    }
    faulty = {file: why for pairs in chosen.values() for file, _ in pairs if (why := file.fault())}
    lost = list(faulty.values())
    if faults or (lost and not spec.skip_unreadable):
        raise refusal(root, faults, _unreadable(chosen, spec, lost))
    total = sum(map(len, chosen.values()))
    if lost:
        chosen = {
            name: [pair for pair in pairs if pair[0] not in faulty]
            for name, pairs in chosen.items()
        }
    names = [_relative(file.path, root) for pairs in chosen.values() for file, _ in pairs]
    try:
        known = identity.of_files(root, names, spec.threads)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None
    ends = np.cumsum([len(pairs) for pairs in chosen.values()])[:-1]
    splits, skipped = {}, list(lost)
    for (name, pairs), digests in zip(chosen.items(), np.split(known.digests, ends), strict=True):
        splits[name] = _split(tree.folders[name], pairs, digests, known, spec)
        if spec.skip_unreadable:
            bad = dict(splits[name].images.unreadable())
            skipped += bad.values()
            readable = np.delete(np.arange(len(pairs)), list(bad))
            splits[name] = take(splits[name], readable)
            chosen[name] = [pairs[i] for i in readable]
    notes = list(tree.notes)
    if not known.sampled:
        twice = duplicates(
            {name: split.digests.tolist() for name, split in splits.items()},
            {name: split.labels for name, split in splits.items()},
        )
        notes += twice.notes(lambda name, i: printable(_relative(chosen[name][i][0].path, root)))
    if skipped:
        notes.append(f"skipped: {undecodable(skipped, total)}")
    return Dataset(
        splits,
        classes,
        times=known.times,
        notes=tuple(f"{root}: {note}" for note in notes),
        skipped=tuple(map(printable, skipped)),
    )


def refusal(
    root: pathlib.Path, faults: list[str], unreadable: str | None = None, layout: str = LAYOUT
) -> DataError:
    """The error of a tree with `faults` and `unreadable` images, all in one line."""
    if unreadable and not faults:
        return DataError(f"{root}: {unreadable}")
    lines = [*faults, unreadable] if unreadable else faults
    hint = f"; it should hold {layout}" if layout else ""
    if len(lines) == 1:
        return DataError(f"{root}: {lines[0]}{hint}")
    numbered = "; ".join(f"({i}) {line}" for i, line in enumerate(lines, 1))
    return DataError(f"{root} has {len(lines)} kinds of faults: {numbered}{hint}")


def _unreadable(
    chosen: dict[str, list[tuple[File, int]]], spec: DataSpec, lost: list[str]
) -> str | None:
    """All images that cannot be read, in words; the `lost` ones of a set too large to be decoded at once."""
    files = [file for pairs in chosen.values() for file, _ in pairs]
    images = ImageFiles(
        lambda i: (None, files[i].path),
        len(files),
        spec.image_size,
        threads=spec.threads,
        identity=None,
    )
    if images.nbytes > image_files.CACHE_LIMIT_BYTES:
        return f"{undecodable(lost, len(files))}; remove or replace them" if lost else None
    bad = [fault for _, fault in images.check()]
    return f"{undecodable(bad, len(files))}; {SKIP}" if bad else None


def has_train(root: pathlib.Path) -> bool:
    """Whether something in the folder `root` has the name of the training images, be it a dangling link."""
    try:
        return any(split_of(name) == "train" for name in os.listdir(root))
    except OSError:
        return False


def _no_train(root: pathlib.Path, spec: DataSpec) -> str:
    if not spec.path or not root.is_dir():
        return f"no folder {spec.path}; it should hold {LAYOUT}"
    try:
        entries = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
    except OSError as error:
        return f"cannot read {root}: {error.strerror}"
    if "index.json" in entries:
        return f"{root} is a prepared store: say --config.data.source=store"
    if any(archives.is_archive(name) for name in entries):
        return f"{root} holds archives: {_prepare(root)}"
    seen = ", ".join(entries[:8]) + (" ..." if len(entries) > 8 else "")
    return f"no folder train in {root}; it has {seen or 'nothing'}, and should hold {LAYOUT}"


def _prepare(root: pathlib.Path) -> str:
    return f"prepare a store from them first, by alexnet prepare --from {root} --out STORE"


def class_names(tree: Tree, wanted: tuple[str, ...] = ()) -> dict[str, Set[str]]:
    """Split -> the names of its classes, those of archives too; of `wanted` ones alone, where there are any."""
    found = {name: tree.splits[name].keys() | tree.archives[name].keys() for name in tree.splits}
    return {name: kinds & set(wanted) if wanted else kinds for name, kinds in found.items()}


def mismatches(classes: Mapping[str, Set[str]]) -> list[str]:
    """The classes that one split has and another lacks, in words; splits without any do not count."""
    return [
        f"the classes differ: {more} has {listed(extra)}, which {less} has not"
        for name in classes
        if name != "train" and classes[name] and classes["train"]
        for more, less in ((name, "train"), ("train", name))
        if (extra := sorted(map(printable, classes[more] - classes[less])))
    ]


def unprintable(classes: Iterable[str]) -> list[str]:
    """A fault where class names have line breaks, or bytes that are no UTF-8."""
    bad = [repr(name) for name in classes if printable(name) != name]
    return (
        [f"classes whose names cannot be printed, to be renamed: {len(bad):,} ({listed(bad)})"]
        if bad
        else []
    )


def discover(root: pathlib.Path, wanted: tuple[str, ...] = ()) -> Tree:
    """Everything in the folder `root`, which `has_train`; nothing is decoded, and no fault ends the reading.

    Links are followed, each folder of a class once. Of `wanted` (none: all) classes alone the images are listed.
    """
    return _Discovery(root).tree(wanted)


def images_below(folder: pathlib.Path) -> tuple[list[pathlib.Path], list[str]]:
    """The image files below `folder`, sorted, and what was left out. Raises DataError."""
    found = _Discovery(folder)
    files = found.walk(os.fspath(folder))
    if faults := found.faults():
        raise refusal(folder, faults, layout="")
    return sorted(pathlib.Path(file.path) for file in files), found.notes()


class _Discovery:
    """One reading of a tree, with what is wrong and what is left out: kind -> [count, the first names]."""

    def __init__(self, root: pathlib.Path):
        self._root = root
        self._faults: dict[str, list] = {}
        self._left_out: dict[str, list] = {}
        self._others: dict[str, list] = {}

    def tree(self, wanted: tuple[str, ...]) -> Tree:
        folders = self._folders()
        splits, packed = {}, {}
        for name in SPLITS:
            if name in folders:
                splits[name], packed[name] = self._classes(folders[name], set(wanted))
        splits.setdefault("train", {})
        packed.setdefault("train", {})
        return Tree(folders, splits, packed, self.faults(), self.notes())

    def faults(self) -> list[str]:
        return [_in_words(kind, *found) for kind, found in self._faults.items()]

    def notes(self) -> list[str]:
        notes = [f"left out {_in_words(k, *found)}" for k, found in self._left_out.items()]
        if self._others:
            kinds = sorted(self._others.items(), key=lambda item: -item[1][0])
            shown = listed([f"{count:,} {kind}" for kind, (count, _) in kinds])
            total = sum(count for count, _ in self._others.values())
            notes.append(f"left out {total:,} files that are no images: {shown}")
        return notes

    def _fault(self, kind: str, path: str) -> None:
        _count(self._faults, kind, printable(path))

    def _leave_out(self, kind: str, path: str) -> None:
        _count(self._left_out, kind, self._shown(path))

    def _shown(self, path: str) -> str:
        return printable(_relative(path, self._root))

    def _entries(
        self, folder: str, *, hidden: bool = True
    ) -> Iterator[tuple[os.DirEntry, os.stat_result | None]]:
        """Sorted, with what each is at the end of all links, None where there is nothing."""
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            self._fault(f"cannot read: {error.strerror}", folder)
            return
        for entry in entries:
            if entry.name in _OF_SYSTEMS or entry.name.startswith("._"):
                continue
            if entry.name.startswith("."):
                if hidden:
                    _count(self._others, "hidden", self._shown(entry.path))
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
                    self._leave_out("folders that are no split", entry.path)
                elif packed:
                    self._leave_out("archives beside the folder of train", entry.path)
                elif _is_image(entry.name):
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

    def _classes(self, folder: pathlib.Path, wanted: set[str]):
        """(class -> images, class -> archive)."""
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
                    self._fault("classes that are there twice", entry.path)
                packed[archives.stem(name)] = pathlib.Path(entry.path)
            elif _is_image(name):
                loose += 1
                self._leave_out("images in no class folder", entry.path)
            else:
                self._other(entry)
        for name in classes.keys() & packed.keys():
            self._fault("classes that are there twice", os.fspath(folder / name))
        if not classes and not packed:
            flat = (
                f" (their {loose:,} images lie flat, and nothing says their classes)"
                if loose
                else ""
            )
            self._fault(f"splits without class folders{flat}", os.fspath(folder))
        return classes, packed

    def _images(self, folder: str, split: pathlib.Path) -> list[File]:
        """Of a class folder."""
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
        """The images below `folder`, sorted by name. Each folder is read once, and those `above` never."""
        files: list[File] = []
        seen = {_place(os.stat(path)) for path in above}
        # Links come last, so that what they lead to has its own name if it is in this class.
        pending, links = [(folder, os.stat(folder))], []
        while pending or links:
            path, status = pending.pop() if pending else links.pop(0)
            if _place(status) in seen:
                self._leave_out("links to folders that were read already", path)
                continue
            seen.add(_place(status))
            for entry, status in self._entries(path):
                if status is not None and stat.S_ISDIR(status.st_mode):
                    (links if entry.is_symlink() else pending).append((entry.path, status))
                elif _is_image(entry.name):
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
            _count(self._others, printable(suffix) or "without a suffix", self._shown(entry.path))


def _count(table: dict[str, list], kind: str, name: str) -> None:
    found = table.setdefault(kind, [0, []])
    found[0] += 1
    if found[0] <= _NAMED:
        found[1].append(name)


def _in_words(kind: str, count: int, first: list[str]) -> str:
    more = f" and {count - len(first):,} more" if count > len(first) else ""
    return f"{kind}: {count:,} ({', '.join(first)}{more})"


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _place(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _relative(path: str, folder: pathlib.Path) -> str:
    """With '/'."""
    base = os.path.join(folder, "")
    # os.path.relpath takes ten times as long, and large sets have a million paths.
    inside = path[len(base) :] if path.startswith(base) else os.path.relpath(path, folder)
    return inside.replace(os.sep, "/")


def _split(
    folder: pathlib.Path,
    pairs: list[tuple[File, int]],
    digests: np.ndarray,
    known: identity.Files,
    spec: DataSpec,
) -> Split:
    paths = [file.path for file, _ in pairs]
    images = ImageFiles(
        lambda i: (None, paths[i]),
        len(paths),
        spec.image_size,
        threads=spec.threads,
        identity=identity.key(digests, known.times),
        title=f"{len(paths)} images of {folder}",
        check=known.check,
        exif=spec.exif,
    )
    return Split(images, np.array([label for _, label in pairs], np.int32), digests)
