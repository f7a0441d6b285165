"""The images of a source by split and class, listed before any is decoded; and the dataset made of such a listing."""

import os
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import UInt64

from alexnet_jax import files
from alexnet_jax.data.pipeline import cache, digests, image_files
from alexnet_jax.data.pipeline.image_files import ImageFiles, undecodable
from alexnet_jax.data.pipeline.splits import Dataset, Split, class_numbers, duplicates, take
from alexnet_jax.data.sources import archives, tree
from alexnet_jax.data.sources.archives import Member
from alexnet_jax.data.sources.tree import File
from alexnet_jax.errors import DataError, printable
from alexnet_jax.specs import DataSpec

SKIP = "remove or replace them, or skip them with --config.data.skip_unreadable=True"
PREPARE = "prepare a store first, with alexnet prepare --from {} --out STORE"

#: An image file, or an image within another file.
Item = File | Member


class Listing(NamedTuple):
    """The images of a source.

    Attributes:
        root: The path that was given.
        kind: Description of the source.
        splits: Split -> class -> its images, sorted by name.
        holders: The files that hold the images, or their labels; empty if every image is a file and a folder its label.
        words: Class -> its readable name, if the source has one.
        official: 'ILSVRC2012' if the source declares that it is this dataset.
        faults: What has to be corrected, one line for each kind.
        missing: What is missing, one line for each kind; `alexnet prepare --subset` does without it.
        notes: What was left out, one line for each kind.
        layout: What the source should hold, as a hint in errors.
    """

    root: pathlib.Path
    kind: str
    splits: dict[str, dict[str, list[Any]]]  # of Item; Any because lists are invariant
    holders: Sequence[pathlib.Path] = ()
    words: Mapping[str, str] = types.MappingProxyType({})
    official: str | None = None
    faults: Sequence[str] = ()
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()
    layout: str = ""


#: Writes a file with random access from one without, of at most a number of bytes: (source, target, limit).
Write = Callable[[pathlib.Path, pathlib.Path, int], None]


class Unpack(Protocol):
    """Makes files with random access, somewhere."""

    def reserve(self, paths: Sequence[pathlib.Path]) -> None:
        """Check that there is room for the content of files. Raises TooLarge and OSError."""

    def __call__(self, path: pathlib.Path, suffix: str, write: Write) -> str:
        """Unpack a file by `write`; return the path of the result, which ends in `suffix`.

        Raises TooLarge, DataError and OSError.
        """
        ...


#: Lists the images of a path; None if the path does not have the form that the function is for. Raises DataError.
Find = Callable[[pathlib.Path, Unpack], Listing | None]


def plain(path: pathlib.Path, unpack: Unpack) -> str:
    """Return the path of an archive with random access: `path` itself, or a compressed tar unpacked."""
    if not archives.is_compressed(path.name):
        return str(path)
    return unpack(path, ".tar", archives.gunzip)


class CacheUnpack:
    """Unpacks files into the cache folder, together at most as much as it may hold."""

    def __init__(self) -> None:
        self._used = 0

    def reserve(self, paths: Sequence[pathlib.Path]) -> None:
        if paths and sum(path.stat().st_size for path in paths) > cache.limit_bytes():
            raise _no_room(paths[0], len(paths))

    def __call__(self, path: pathlib.Path, suffix: str, write: Write) -> str:
        try:
            # By path and times, since a digest would read whole shards before they are unpacked.
            place = os.fsencode(path.resolve()).hex()
            times = digests.times_of(path.parent, [path.name])
            key = digests.cache_key(place, times, suffix)
            target = files.cache_folder() / f"unpacked-{key}{suffix}"
            left = cache.limit_bytes() - self._used
            if not target.exists():
                with cache.replacing(target, path.stat().st_size) as temporary:
                    write(path, temporary, left)
            cache.touch(target)
            self._used += target.stat().st_size
            if self._used > cache.limit_bytes():
                raise archives.TooLarge
        except archives.TooLarge:
            raise _no_room(path) from None
        except OSError as error:
            raise archives.TooLarge(
                f"cannot unpack {path} into the cache folder {files.cache_folder()}: {error.strerror}; "
                f"ALEXNET_JAX_CACHE=FOLDER chooses another one, or {PREPARE.format(path)}"
            ) from None
        return str(target)


def _no_room(path: pathlib.Path, count: int = 1) -> archives.TooLarge:
    others = f" and {count - 1:,} others" if count > 1 else ""
    return archives.TooLarge(
        f"{path}{others} must be unpacked, and the cache folder has room for {cache.limit_bytes():,} bytes: raise "
        f"{cache.LIMIT_VARIABLE}, or {PREPARE.format(path.parent)}"
    )


def load(spec: DataSpec, find: Find, layout: str) -> Dataset:
    """Open the images of `spec.path` that `find` lists. Raises DataError, also for a path without `layout`."""
    root = pathlib.Path(spec.path or "").expanduser()
    found = find(root, CacheUnpack()) if spec.path else None
    if found is None:
        raise DataError(f"{spec.path} has no {layout}")
    return dataset(found, spec)


def dataset(found: Listing, spec: DataSpec) -> Dataset:
    """Make the dataset of a listing; images are decoded and checked at their first use.

    The classes are data.classes or else all of 'train' in sorted order. Images that cannot be decoded are left out if
    data.skip_unreadable is set.

    Raises:
        DataError: Lists all problems of the source.
    """
    names = tuple(sorted(found.splits.get("train", ())))
    if spec.classes and names:
        class_numbers(spec.classes, names)
    classes = spec.classes or names
    wanted = set(spec.classes)
    kept = {
        split: by_class.keys() & wanted if wanted else by_class.keys()
        for split, by_class in found.splits.items()
    }
    faults = [*found.faults, *(f"{one}, or prepare a store with --subset" for one in found.missing)]
    faults += tree.mismatches(kept) + tree.unprintable(classes)
    chosen = {
        split: [(item, i) for i, name in enumerate(classes) for item in by_class.get(name, ())]
        for split, by_class in found.splits.items()
    }
    items = [item for pairs in chosen.values() for item, _ in pairs]
    faulty = {item: why for item in items if isinstance(item, File) and (why := item.fault())}
    unreadable = list(faulty.values())
    if faults or (unreadable and not spec.skip_unreadable):
        raise tree.refusal(found.root, faults, _unreadable(items, spec, unreadable), found.layout)
    if unreadable:
        chosen = {
            split: [pair for pair in pairs if pair[0] not in faulty]
            for split, pairs in chosen.items()
        }
    try:
        seen = _digests(found, [item for item in items if item not in faulty], spec)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None
    splits, skipped = _splits(found, chosen, seen, spec)
    notes = list(found.notes)
    if not seen.files.sampled:
        notes += _duplicate_notes(splits, chosen, found.root)
    skipped = [*unreadable, *skipped]
    if skipped:
        notes.append(f"skipped: {undecodable(skipped, len(items))}")
    return Dataset(
        splits,
        classes,
        times=seen.files.times,
        notes=tuple(f"{found.root}: {note}" for note in notes),
        skipped=tuple(map(printable, skipped)),
        applies_exif=True,
    )


class _Seen(NamedTuple):
    """The digest of each image, and the files that hold them."""

    values: UInt64[np.ndarray, " n"]
    files: digests.Files


def _digests(found: Listing, items: Sequence[Item], spec: DataSpec) -> _Seen:
    """Digest images; of a large dataset, only a sample of the bytes. Raises OSError and DataError."""
    root = found.root if found.root.is_dir() else found.root.parent
    within = [item for item in items if isinstance(item, Member)]
    if not within:
        names = [tree.relative(item.path, root) for item in items if isinstance(item, File)]
        known = digests.of_files(root, names, spec.threads)
        return _Seen(known.digests, known)
    holders = sorted({item.shown for item in within})
    names = [tree.relative(path, root) for path in holders]
    known = digests.of_files(root, names, spec.threads)
    holder_of = dict(zip(holders, known.digests.tolist(), strict=True))
    texts = (f"{holder_of[item.shown]} {item.name}".encode() for item in within)
    places = np.fromiter(map(digests.of_bytes, texts), np.uint64, len(within))
    if known.sampled:
        return _Seen(places, known)

    def read() -> dict[str, np.ndarray]:
        values = (digests.of_bytes(item.read()) for item in within)
        return {"digests": np.fromiter(values, np.uint64, len(within))}

    like: dict[str, tuple[files.Shape, str]] = {"digests": ((len(within),), "uint64")}
    key = digests.cache_key(places)
    return _Seen(digests.cached_arrays(key, read, like)["digests"], known)


def _splits(
    found: Listing, chosen: dict[str, list[tuple[Item, int]]], seen: _Seen, spec: DataSpec
) -> tuple[dict[str, Split], list[str]]:
    """Return the splits, and the faults of the images that were skipped, which are removed from `chosen`."""
    ends = np.cumsum([len(pairs) for pairs in chosen.values()])[:-1]
    splits, skipped = {}, []
    for (name, pairs), values in zip(chosen.items(), np.split(seen.values, ends), strict=True):
        images = ImageFiles(
            _reader([item for item, _ in pairs]),
            len(pairs),
            spec.image_size,
            threads=spec.threads,
            processes=spec.workers,
            identity=digests.cache_key(values, seen.files.times),
            title=f"{len(pairs)} images of {name} in {found.root}",
            check=seen.files.check,
            exif=spec.exif,
            paths=[item.path if isinstance(item, File) else item.name for item, _ in pairs],
        )
        splits[name] = Split(images, np.array([label for _, label in pairs], np.int32), values)
        if spec.skip_unreadable:
            bad = dict(images.unreadable())
            skipped += bad.values()
            readable = np.delete(np.arange(len(pairs)), list(bad))
            splits[name] = take(splits[name], readable)
            chosen[name] = [pairs[i] for i in readable]
    return splits, skipped


def _reader(items: Sequence[Item]) -> Callable[[int], tuple[str | None, str | bytes]]:
    """Return the argument `read` of ImageFiles."""

    def read(i: int) -> tuple[str | None, str | bytes]:
        item = items[i]
        return (None, item.path) if isinstance(item, File) else (item.title, item.read())

    return read


def _duplicate_notes(
    splits: dict[str, Split], chosen: dict[str, list[tuple[Item, int]]], root: pathlib.Path
) -> list[str]:
    """Describe the equal files in two splits or under two classes."""
    equal = duplicates(
        {name: np.asarray(split.digests).tolist() for name, split in splits.items()},
        {name: split.labels for name, split in splits.items()},
    )
    return equal.notes(lambda name, i: printable(chosen[name][i][0].title.removeprefix(f"{root}/")))


def _unreadable(items: Sequence[Item], spec: DataSpec, faults: list[str]) -> str | None:
    """Describe the unreadable images; if there are too many images to decode here, only the known `faults`."""
    images = ImageFiles(
        _reader(items),
        len(items),
        spec.image_size,
        threads=spec.threads,
        processes=spec.workers,
        identity=None,
    )
    if images.nbytes > image_files.CACHE_LIMIT_BYTES:
        return f"{undecodable(faults, len(items))}; remove or replace them" if faults else None
    bad = [fault for _, fault in images.check()]
    return f"{undecodable(bad, len(items))}; {SKIP}" if bad else None
