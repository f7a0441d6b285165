"""What images are, by their bytes: the digests that name datasets and cached files, and how two datasets differ.

A set of files of up to WHOLE_BYTES is known by all of its bytes. A larger one is known by the name and size of every
file and a sample of bytes; the times of its files then belong to the keys of the cache folder, not to the fingerprint,
since a copy on another disk is the same dataset.
"""

import hashlib
import io
import json
import logging
import os
import pathlib
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax import files
from alexnet_jax.data.pipeline import cache
from alexnet_jax.errors import ConfigError, DataError, StorageError

WHOLE_BYTES = 2 * 2**30
"""Sets of files that are larger in all are sampled."""
PREFIX = "content:"
"""Of fingerprints; those of earlier versions, which were of names and sizes, have none."""
RECORD = "dataset.npz"
"""In a run folder: the digests of the images that the run was begun with."""
_SAMPLED_FILES, _BLOCKS, _BLOCK_BYTES = 1024, 4096, 2**14
"""Of a large set: about so many files are read in part; blocks in all, and of one."""
_SETTLED_NS = 2 * 10**9
"""A file changed later than this before it was read may change again without a new time."""
_MEMO_ENTRIES = 2**20
"""Remembered of files that were not asked for this time."""
_REPORT_SECONDS = 5.0
_WORDS = {"train": "training", "val": "validation", "test": "test"}

log = logging.getLogger(__name__)


class Files(NamedTuple):
    """Files below `root`, as they were when `of_files` read them."""

    root: str
    names: Sequence[str]
    digests: np.ndarray
    """uint64 [n]"""
    stamp: str
    """Changes with the size, inode and times of any file."""
    sampled: bool

    @property
    def times(self) -> str:
        """What a cache key needs besides the digests; '' where those are of all bytes."""
        return self.stamp if self.sampled else ""

    def check(self) -> None:
        """Raises DataError where the content of a file is no longer what the digests say."""
        now = of_files(self.root, self.names)
        changed = np.flatnonzero(now.digests != self.digests)
        if len(changed):
            path = os.path.join(self.root, self.names[int(changed[0])])
            raise DataError(f"{path} was changed while it was read; run the same command again")


def of_bytes(content) -> int:
    """64 bits of SHA-256, which has instructions of its own on current CPUs."""
    return short(hashlib.sha256(content).digest())


def short(sha256: bytes) -> int:
    """The 64 bits of a SHA-256 that are kept."""
    return int.from_bytes(sha256[:8], "little")


def of_rows(rows: np.ndarray) -> np.ndarray:
    """Digests uint64 [n] of the rows of an array [n ...], their shape and type included."""
    about = hashlib.sha256(f"{rows.dtype.str} {rows.shape[1:]}".encode())
    digests = np.empty(len(rows), np.uint64)
    for i, row in enumerate(rows):
        digest = about.copy()
        digest.update(np.ascontiguousarray(row).data)
        digests[i] = short(digest.digest())
    return digests


def of_places(
    digests: Sequence[int] | np.ndarray, counts: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Digests uint64 [sum of counts] of images that are known by their file and their place in it."""
    places = np.concatenate(
        [np.zeros(0, np.uint64), *(np.arange(n, dtype=np.uint64) for n in counts)]
    )
    mixed = np.repeat(np.asarray(digests, np.uint64), counts) + places * np.uint64(
        0x9E3779B97F4A7C15
    )
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def of_files(
    root: str | os.PathLike, names: Sequence[str], threads: int = 1, *, whole: bool | None = None
) -> Files:
    """The files `names`, relative to the folder `root`; those that were read before are not read again.

    whole: whether all bytes are read; None: for up to WHOLE_BYTES. Raises OSError, and DataError for what is not a
    file.
    """
    root, started = os.fspath(root), time.time_ns()
    paths = [os.path.join(root, name) for name in names]
    facts = _facts(paths)
    stamp = _stamp(facts)
    sampled = int(facts[:, 2].sum()) > WHOLE_BYTES if whole is None else not whole
    if sampled:
        digests = _sampled(names, paths, facts[:, 2], threads)
    else:
        settled = facts[:, 3:].max(axis=1, initial=0) < started - _SETTLED_NS
        digests = _remembered(root, names, paths, facts, settled, threads)
    return Files(root, names, digests, stamp, sampled)


def times_of(root: str | os.PathLike, names: Sequence[str]) -> str:
    """The `stamp` of files, none of which is read. Raises as of_files."""
    return _stamp(_facts([os.path.join(root, name) for name in names]))


def sample_of(path: str | os.PathLike, size: int) -> int:
    """Digest of a spread of 8 blocks of a file, of all of it where it has no more. Raises OSError."""
    return of_bytes(_blocks(path, size, 8))


def key(*parts: Any) -> str:
    """32 hexadecimal digits of arrays and texts, for the name of a file in the cache folder."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else f"{part}\0".encode())
    return digest.hexdigest()[:32]


def kept(
    name: str, make: Callable[[], dict[str, np.ndarray]], like: dict[str, tuple[files.Shape, str]]
) -> dict[str, np.ndarray]:
    """The arrays of the cached file `records-NAME.npz`, or else of `make`; `like` is as for files.read_arrays."""
    path = cache.folder() / f"records-{name}.npz"
    try:
        found = files.read_arrays(path, like)
        cache.touch(path)
        return found
    except StorageError:
        pass
    made = make()
    _write(path, made)
    return made


def fingerprint(dataset: Any, image_size: int, exif: str) -> str:
    """Of all that training sees: images, labels, their order, splits, classes, the stored size, how EXIF is taken."""
    digest = hashlib.sha256(json.dumps([image_size, exif, dataset.class_names]).encode())
    for name, split in sorted(dataset.splits.items()):
        digest.update(f"{name} {len(split.labels)}\0".encode())
        digest.update(np.asarray(split.digests, np.uint64).tobytes())
        digest.update(np.asarray(split.labels, np.int32).tobytes())
    return PREFIX + digest.hexdigest()


def record(dataset: Any) -> bytes:
    """The content of RECORD."""
    arrays: dict[str, Any] = {
        "fingerprint": np.array(dataset.fingerprint),
        "class_names": np.array(dataset.class_names),
        "times": np.array(dataset.times),
    }
    for name, split in dataset.splits.items():
        arrays |= {f"{name}_digests": split.digests, f"{name}_labels": split.labels}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def read_record(folder: str | os.PathLike) -> dict[str, np.ndarray] | None:
    """Of a run folder; None where it has none or a damaged one."""
    like: dict[str, tuple[files.Shape, str]] = {
        "fingerprint": ((), "text"),
        "class_names": (("classes",), "text"),
        "times": ((), "text"),
    }
    splits: dict[str, tuple[files.Shape, str]] = {}
    for split in _WORDS:
        splits |= {
            f"{split}_digests": ((split,), "uint64"),
            f"{split}_labels": ((split,), "integer"),
        }
    try:
        found = files.read_arrays(pathlib.Path(folder) / RECORD, like, splits)
    except StorageError:
        return None
    paired = all((f"{s}_digests" in found) == (f"{s}_labels" in found) for s in _WORDS)
    return found if paired and "train_digests" in found else None


def begun_with(folder: str | os.PathLike, known: str) -> str | None:
    """The fingerprint of the images of a run whose checkpoint says `known`; None if that is of an earlier version."""
    if known.startswith(PREFIX):
        return known
    found = read_record(folder)
    return str(found["fingerprint"]) if found else None


def compare(folder: str | os.PathLike, known: str, dataset: Any) -> str | None:
    """What to say of the images of the run in `folder`, whose checkpoint has the fingerprint `known`.

    Raises ConfigError unless `dataset` has the same images.
    """
    begun, before = begun_with(folder, known), read_record(folder)
    if begun is None:
        return (
            "this run was begun by an earlier version: its images cannot be compared with those it was begun with, "
            "but from now on they are"
        )
    if before is not None and str(before["fingerprint"]) != begun:
        before = None
    if begun != dataset.fingerprint:
        raise ConfigError(
            f"the images changed since {folder} was begun{_in_numbers(before, dataset)}; choose another --workdir"
        )
    if before is not None and str(before["times"]) != dataset.times:
        return (
            "the files of the images have other times than before; their names, sizes and a sample of their bytes "
            "are the same"
        )
    return None


def _in_numbers(before: dict[str, np.ndarray] | None, dataset: Any) -> str:
    if before is None:
        return ""
    if bool(str(before["times"])) != bool(dataset.times):
        return f" (there are more or less than {WHOLE_BYTES / 2**30:.3g} GiB now, so that they cannot be counted)"
    said = []
    splits = {name.removesuffix("_digests") for name in before if name.endswith("_digests")}
    for name in sorted(splits | set(dataset.splits), key=list(_WORDS).index):
        old = before.get(f"{name}_digests", np.zeros(0, np.uint64))
        new = dataset.splits[name].digests if name in dataset.splits else np.zeros(0, np.uint64)
        said += _counted(f"{_WORDS[name]} images", old, new)
    if said:
        return ": " + ", ".join(said)
    if before["class_names"].tolist() != list(dataset.class_names):
        return ": the same images, with other classes or their names in another order"
    for name, split in dataset.splits.items():
        pairs = (
            _pairs(before[f"{name}_digests"], before[f"{name}_labels"]),
            _pairs(split.digests, split.labels),
        )
        count = len(split.labels)
        if others := count - _common(*pairs):
            said.append(
                f"{others:,} of {count:,} {_WORDS[name]} images ({_percent(others, count)}) have other labels"
            )
    return ": " + (", ".join(said) or "the same images, in another order or size")


def _counted(what: str, old: np.ndarray, new: np.ndarray) -> list[str]:
    """How the images `new` differ from `old`, as often as each is there."""
    same = _common(old, new)
    gone, added = len(old) - same, len(new) - same
    replaced = min(gone, added)
    said = []
    if replaced:
        said.append(
            f"{replaced:,} of {len(old):,} {what} ({_percent(replaced, len(old))}) are other ones"
        )
    if gone > replaced:
        said.append(
            f"{gone - replaced:,} of {len(old):,} {what} ({_percent(gone - replaced, len(old))}) are gone"
        )
    if added > replaced:
        said.append(f"{added - replaced:,} {what} were added")
    return said


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """The size of the intersection of two multisets."""
    values, counts = np.unique(one, return_counts=True)
    others, other_counts = np.unique(other, return_counts=True)
    _, here, there = np.intersect1d(values, others, assume_unique=True, return_indices=True)
    return int(np.minimum(counts[here], other_counts[there]).sum())


def _pairs(digests: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return of_places(digests, np.ones(len(digests), int)) + labels.astype(np.uint64)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %"


def _facts(paths: list[str]) -> np.ndarray:
    """Device, inode, size, times of modification and change; int64 [n 5]."""
    facts = np.empty((len(paths), 5), np.int64)
    for row, path in zip(facts, paths, strict=True):
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path} is not a file")
        row[:] = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return facts


def _stamp(facts: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(facts[:, 1:]).data).hexdigest()


def _sampled(names: Sequence[str], paths: list[str], sizes: np.ndarray, threads: int) -> np.ndarray:
    """Which files are read depends on their names: a file more or less does not change the digests of others."""
    log.info(
        "%d files have %.1f GB: they are known by their names, sizes and a sample of their bytes",
        len(names), sizes.sum() / 1e9,
    )  # fmt: skip
    one_in = 1 << max(len(names) // _SAMPLED_FILES, 1).bit_length() - 1
    blocks = max(_BLOCKS // (1 << max(len(names) // one_in, 1).bit_length()), 2)

    def digest(i: int) -> int:
        name = os.fsencode(names[i])
        about = name + f"\0{sizes[i]}\0".encode()
        read = of_bytes(name) % one_in == 0
        return of_bytes(about + (_blocks(paths[i], int(sizes[i]), blocks) if read else b""))

    return _map(digest, range(len(names)), threads)


def _blocks(path: str | os.PathLike, size: int, blocks: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        if size <= blocks * _BLOCK_BYTES:
            return file.read()
        starts = np.linspace(0, size - _BLOCK_BYTES, blocks).astype(np.int64).tolist()
        return b"".join(os.pread(file.fileno(), _BLOCK_BYTES, start) for start in starts)


def _digest_of_file(path: str) -> int:
    return short(bytes.fromhex(files.sha256_of(pathlib.Path(path))))


def _remembered(
    root: str, names: Sequence[str], paths: list[str], facts: np.ndarray, settled: np.ndarray,
    threads: int,
) -> np.ndarray:  # fmt: skip
    """Digests of whole files; those of files whose inode, size and times are known are not read again."""
    real = os.path.realpath(root)
    memo_path = cache.folder() / f"digests-{key(os.fsencode(real).hex())}.npz"
    memo = _read_memo(memo_path)
    keys = [
        hashlib.sha256(os.fsencode(os.path.join(real, name)) + row.tobytes()).digest()[:16]
        for name, row in zip(names, facts, strict=True)
    ]
    digests = np.array([memo.get(one, 0) for one in keys], np.uint64)
    unknown = [i for i, one in enumerate(keys) if one not in memo]
    if not unknown:
        cache.touch(memo_path)
        return digests
    digests[unknown] = _map(lambda i: _digest_of_file(paths[i]), unknown, threads)
    learned = {keys[i]: digests[i] for i in unknown if settled[i]}
    if learned:
        now = set(keys)
        others = [one for one in memo.items() if one[0] not in now][-_MEMO_ENTRIES:]
        mine = [(one, digests[i]) for i, one in enumerate(keys) if one in memo]
        entries = dict(others) | dict(mine) | learned
        packed = np.frombuffer(b"".join(entries), np.uint64).reshape(-1, 2)
        _write(memo_path, {"keys": packed, "digests": np.array(list(entries.values()), np.uint64)})
    return digests


def _read_memo(path: pathlib.Path) -> dict[bytes, int]:
    """{} where it is missing or damaged: its members have checksums."""
    try:
        like: dict[str, tuple[files.Shape, str]] = {
            "keys": (("n", 2), "uint64"),
            "digests": (("n",), "uint64"),
        }
        found = files.read_arrays(path, like)
    except StorageError:
        return {}
    packed, digests = found["keys"].tobytes(), found["digests"].tolist()
    return {packed[16 * i : 16 * i + 16]: digest for i, digest in enumerate(digests)}


def _write(path: pathlib.Path, arrays: dict[str, Any]) -> None:
    try:
        size = sum(array.nbytes for array in arrays.values())
        with cache.replacing(path, size) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        cache.warn(
            "cannot write to the cache folder %s (%s): each start reads all images, and every batch decodes its own",
            path.parent, error.strerror,
        )  # fmt: skip


def _map(function: Callable[[int], int], items: Sequence[int], threads: int) -> np.ndarray:
    """uint64 of `function` of each item, in order."""
    results = np.empty(len(items), np.uint64)
    reported = time.monotonic()
    step = max(min(len(items) // (4 * threads), 256), 1)
    pieces = [range(i, min(i + step, len(items))) for i in range(0, len(items), step)]

    def fill(places: range) -> int:
        for place in places:
            results[place] = function(items[place])
        return places.stop

    with ThreadPoolExecutor(threads, thread_name_prefix="digest") as pool:
        for done in pool.map(fill, pieces):
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                log.info("reading images: %d of %d files", done, len(items))
    return results
