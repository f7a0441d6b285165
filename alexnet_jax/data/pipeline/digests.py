"""64-bit digests of images and files, remembered in the cache folder.

Files of up to WHOLE_BYTES in total are hashed completely. For larger datasets, the digest of a file covers its name and
size and, for some of the files, a sample of the bytes. The cache keys of such a dataset also include the file times;
its fingerprint does not, because a copy on another disk is the same dataset.
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

#: Datasets with more bytes are sampled.
WHOLE_BYTES = 2 * 2**30
#: For sampled datasets: approximate number of files to read from, total number of blocks, and bytes in a block.
_SAMPLED_FILES, _BLOCKS, _BLOCK_BYTES = 1024, 4096, 2**14
#: The digest of a file is remembered only if the file is older than this when read: within the resolution of file
#: times, it could change again without a new time.
_SETTLED_NS = 2 * 10**9
#: Maximum number of remembered digests of files outside the current dataset.
_MEMO_ENTRIES = 2**20
_REPORT_SECONDS = 5.0

log = logging.getLogger(__name__)


class Files(NamedTuple):
    """Files below `root` and their digests.

    Attributes:
        stamp: Hash of the inodes, sizes and times of the files.
        sampled: Whether the digests cover only a sample of the bytes.
    """

    root: str
    names: Sequence[str]
    digests: UInt64[np.ndarray, " n"]
    stamp: str
    sampled: bool

    @property
    def times(self) -> str:
        """`stamp` if the digests cover only a sample, else ''; cache keys include it besides the digests."""
        return self.stamp if self.sampled else ""

    def check(self) -> None:
        """Raise DataError if the digest of a file has changed."""
        now = of_files(self.root, self.names)
        changed = np.flatnonzero(now.digests != self.digests)
        if len(changed):
            path = os.path.join(self.root, self.names[int(changed[0])])
            raise DataError(f"{path} was changed while it was read; run the same command again")


def of_bytes(content: bytes | memoryview) -> int:
    """Return the first 64 bits of the SHA-256 of `content`."""
    return short(hashlib.sha256(content).digest())


def short(sha256: bytes) -> int:
    """Truncate a SHA-256 to the 64 bits of a digest."""
    return int.from_bytes(sha256[:8], "little")


def of_rows(rows: Shaped[np.ndarray, "n ..."]) -> UInt64[np.ndarray, " n"]:
    """Digest each row of an array, including its shape and type."""
    prefix = hashlib.sha256(f"{rows.dtype.str} {rows.shape[1:]}".encode())
    digests = np.empty(len(rows), np.uint64)
    for i, row in enumerate(rows):
        digest = prefix.copy()
        digest.update(np.ascontiguousarray(row).data)
        digests[i] = short(digest.digest())
    return digests


def of_records(
    digests: Sequence[int] | np.ndarray, counts: Sequence[int] | np.ndarray
) -> UInt64[np.ndarray, " n"]:
    """Derive the digest of each image from the digest of its file and its index in the file.

    Args:
        digests: Digest of each file.
        counts: Number of images in each file; their sum is n.
    """
    indices = np.concatenate(
        [np.zeros(0, np.uint64), *(np.arange(n, dtype=np.uint64) for n in counts)]
    )
    mixed = np.repeat(np.asarray(digests, np.uint64), counts) + indices * np.uint64(
        0x9E3779B97F4A7C15
    )
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def of_files(
    root: str | os.PathLike, names: Sequence[str], threads: int = 1, *, whole: bool | None = None
) -> Files:
    """Digest the files `names` in the folder `root`, using remembered digests of unchanged files.

    Args:
        whole: Whether to read all bytes; by default, if they are at most WHOLE_BYTES.

    Raises:
        OSError: A file cannot be read.
        DataError: A path is not a regular file.
    """
    root, started = os.fspath(root), time.time_ns()
    paths = [os.path.join(root, name) for name in names]
    facts = _stat(paths)
    stamp = _stamp(facts)
    sampled = int(facts[:, 2].sum()) > WHOLE_BYTES if whole is None else not whole
    if sampled:
        digests = _sampled(names, paths, facts[:, 2], threads)
    else:
        settled = facts[:, 3:].max(axis=1, initial=0) < started - _SETTLED_NS
        digests = _remembered(root, names, paths, facts, settled, threads)
    return Files(root, names, digests, stamp, sampled)


def times_of(root: str | os.PathLike, names: Sequence[str]) -> str:
    """Return the `stamp` of files without reading them. Raises the errors of `of_files`."""
    return _stamp(_stat([os.path.join(root, name) for name in names]))


def sample_of(path: str | os.PathLike, size: int) -> int:
    """Digest 8 blocks spread over a file of `size` bytes, or the whole file if it is shorter. Raises OSError."""
    return of_bytes(_blocks(path, size, 8))


def cache_key(*parts: Any) -> str:
    """Hash arrays and strings to 32 hexadecimal digits, for the name of a file in the cache folder."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else f"{part}\0".encode())
    return digest.hexdigest()[:32]


def cached_arrays(
    name: str, make: Callable[[], dict[str, np.ndarray]], like: dict[str, tuple[files.Shape, str]]
) -> dict[str, np.ndarray]:
    """Read `records-NAME.npz` in the cache folder, or call `make` and write it; `like` as in files.read_arrays."""
    path = files.cache_folder() / f"records-{name}.npz"
    try:
        found = files.read_arrays(path, like)
        cache.touch(path)
        return found
    except StorageError:
        pass
    arrays = make()
    _write(path, arrays)
    return arrays


def _stat(paths: list[str]) -> Int64[np.ndarray, "n 5"]:
    """Return the device, inode, size, mtime and ctime of each file."""
    facts = np.empty((len(paths), 5), np.int64)
    for row, path in zip(facts, paths, strict=True):
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path} is not a regular file")
        row[:] = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    return facts


def _stamp(facts: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(facts[:, 1:]).data).hexdigest()


def _sampled(names: Sequence[str], paths: list[str], sizes: np.ndarray, threads: int) -> np.ndarray:
    """Digest names, sizes and a sample of the bytes; the hash of its name decides whether a file is read."""
    log.info(
        "%d files have %.1f GB: identifying them by name, size and a sample of their bytes",
        len(names), sizes.sum() / 1e9,
    )  # fmt: skip
    one_in = 1 << max(len(names) // _SAMPLED_FILES, 1).bit_length() - 1
    blocks = max(_BLOCKS // (1 << max(len(names) // one_in, 1).bit_length()), 2)

    def digest(i: int) -> int:
        name = os.fsencode(names[i])
        header = name + f"\0{sizes[i]}\0".encode()
        is_read = of_bytes(name) % one_in == 0
        return of_bytes(header + (_blocks(paths[i], int(sizes[i]), blocks) if is_read else b""))

    return _map(digest, range(len(names)), threads)


def _blocks(path: str | os.PathLike, size: int, blocks: int) -> bytes:
    """Read a number of blocks spread evenly over a file, or the whole file if it is shorter."""
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
    """Digest whole files, except those whose path, inode, size and times are in the memo.

    Args:
        facts: As returned by `_stat`.
        settled: Whether each file is old enough to be remembered.
    """
    real = os.path.realpath(root)
    memo_path = files.cache_folder() / f"digests-{cache_key(os.fsencode(real).hex())}.npz"
    memo = _read_memo(memo_path)
    keys = [
        hashlib.sha256(os.fsencode(os.path.join(real, name)) + row.tobytes()).digest()[:16]
        for name, row in zip(names, facts, strict=True)
    ]
    digests = np.array([memo.get(key, 0) for key in keys], np.uint64)
    unknown = [i for i, key in enumerate(keys) if key not in memo]
    if not unknown:
        cache.touch(memo_path)
        return digests
    digests[unknown] = _map(lambda i: _digest_of_file(paths[i]), unknown, threads)
    learned = {keys[i]: digests[i] for i in unknown if settled[i]}
    if learned:
        present = set(keys)
        others = [item for item in memo.items() if item[0] not in present][-_MEMO_ENTRIES:]
        used = [(key, digests[i]) for i, key in enumerate(keys) if key in memo]
        entries = dict(others) | dict(used) | learned
        packed = np.frombuffer(b"".join(entries), np.uint64).reshape(-1, 2)
        _write(memo_path, {"keys": packed, "digests": np.array(list(entries.values()), np.uint64)})
    return digests


def _read_memo(path: pathlib.Path) -> dict[bytes, int]:
    """Read the memo {hash of path and stat: digest}; return {} if it is missing or damaged."""
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
            "cannot write to the cache folder %s (%s): images are read at each start and decoded for each batch",
            path.parent, error.strerror,
        )  # fmt: skip


def _map(function: Callable[[int], int], items: Sequence[int], threads: int) -> np.ndarray:
    """Apply `function` to each item in a thread pool, and return the uint64 results in order."""
    results = np.empty(len(items), np.uint64)
    reported = time.monotonic()
    step = max(min(len(items) // (4 * threads), 256), 1)
    chunks = [range(i, min(i + step, len(items))) for i in range(0, len(items), step)]

    def fill(indices: range) -> int:
        for i in indices:
            results[i] = function(items[i])
        return indices.stop

    with ThreadPoolExecutor(threads, thread_name_prefix="digest") as pool:
        for done in pool.map(fill, chunks):
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                log.info("reading images: %d of %d files", done, len(items))
    return results
