"""Digests of images by their bytes, read once for every file and remembered in the cache folder.

A set of files of up to WHOLE_BYTES is known by all of its bytes. A larger one is known by the name and size of every
file and a sample of bytes; the times of its files then belong to the keys of the cache folder, not to the fingerprint,
since a copy on another disk is the same dataset.
"""

import hashlib
import logging
import os
import pathlib
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped, UInt64

from alexnet_jax import files
from alexnet_jax.data.pipeline import cache
from alexnet_jax.errors import DataError, StorageError

#: Larger sets of files are sampled.
WHOLE_BYTES = 2 * 2**30
#: In a sampled set: about so many files are read in part; blocks in all, and bytes in a block.
_SAMPLED_FILES, _BLOCKS, _BLOCK_BYTES = 1024, 4096, 2**14
#: A file changed later than this before it was read may change again without a new time.
_SETTLED_NS = 2 * 10**9
#: Most remembered digests of files that were not asked for this time.
_MEMO_ENTRIES = 2**20
_REPORT_SECONDS = 5.0

log = logging.getLogger(__name__)


class Files(NamedTuple):
    """Files below `root`, as they were when `of_files` read them.

    Attributes:
        stamp: Changes with the size, inode and times of any file.
        sampled: Whether only a sample of the bytes was read.
    """

    root: str
    names: Sequence[str]
    digests: UInt64[np.ndarray, " n"]
    stamp: str
    sampled: bool

    @property
    def times(self) -> str:
        """What a cache key needs besides the digests; '' if those are of all bytes."""
        return self.stamp if self.sampled else ""

    def check(self) -> None:
        """Raise DataError if the content of a file no longer has its digest."""
        now = of_files(self.root, self.names)
        changed = np.flatnonzero(now.digests != self.digests)
        if len(changed):
            path = os.path.join(self.root, self.names[int(changed[0])])
            raise DataError(f"{path} was changed while it was read; run the same command again")


def of_bytes(content: bytes | memoryview) -> int:
    """The first 64 bits of SHA-256, for which current CPUs have instructions."""
    return short(hashlib.sha256(content).digest())


def short(sha256: bytes) -> int:
    """The 64 bits of a SHA-256 that serve as digest."""
    return int.from_bytes(sha256[:8], "little")


def of_rows(rows: Shaped[np.ndarray, "n ..."]) -> UInt64[np.ndarray, " n"]:
    """Digests of the rows of an array, their shape and type included."""
    prefix = hashlib.sha256(f"{rows.dtype.str} {rows.shape[1:]}".encode())
    digests = np.empty(len(rows), np.uint64)
    for i, row in enumerate(rows):
        digest = prefix.copy()
        digest.update(np.ascontiguousarray(row).data)
        digests[i] = short(digest.digest())
    return digests


def of_places(
    digests: Sequence[int] | np.ndarray, counts: Sequence[int] | np.ndarray
) -> UInt64[np.ndarray, " n"]:
    """Digests of images known by the digest of their file and their index in it; n is the sum of `counts`."""
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
    """Digest the files `names` in the folder `root`; files that were read before are not read again.

    Args:
        whole: Read all bytes; None: if there are up to WHOLE_BYTES.

    Raises:
        OSError: A file cannot be read.
        DataError: Something is not a file.
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
    """The `stamp` of files, without reading them. Raises as `of_files`."""
    return _stamp(_facts([os.path.join(root, name) for name in names]))


def sample_of(path: str | os.PathLike, size: int) -> int:
    """Digest of 8 blocks spread over a file, or of a whole file that has no more. Raises OSError."""
    return of_bytes(_blocks(path, size, 8))


def key(*parts: Any) -> str:
    """Hash arrays and texts to 32 hexadecimal digits, for the name of a file in the cache folder."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else f"{part}\0".encode())
    return digest.hexdigest()[:32]


def kept(
    name: str, make: Callable[[], dict[str, np.ndarray]], like: dict[str, tuple[files.Shape, str]]
) -> dict[str, np.ndarray]:
    """Read the cached arrays `records-NAME.npz`, or make and cache them; `like` as for files.read_arrays."""
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


def _facts(paths: list[str]) -> Int64[np.ndarray, "n 5"]:
    """Device, inode, size, times of modification and change."""
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
    """Digests by name, size and sample. A name decides whether its file is read, whatever other files there are."""
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
    """Digests of whole files; files of known inode, size and times are not read again."""
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
    """Hash of path and facts -> digest; {} if the file is missing or damaged."""
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
    """Apply `function` to each item in threads; uint64 results in order."""
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
