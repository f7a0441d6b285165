"""Source 'store': images that `alexnet prepare` has decoded, checked and resized."""

import functools
import itertools
import pathlib
import threading
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8, UInt64

from alexnet_jax import files
from alexnet_jax.data.pipeline import digests
from alexnet_jax.data.pipeline.image_files import ImageFiles
from alexnet_jax.data.pipeline.splits import Dataset, Split
from alexnet_jax.data.sources import store_format
from alexnet_jax.data.sources.store_format import AGAIN, Index
from alexnet_jax.errors import DataError, one_line
from alexnet_jax.specs import DataSpec, Exif

INSTALL = 'pip install -e ".[store]"'


def load(spec: DataSpec) -> Dataset:
    """Open the store in the folder `spec.path`; images are resized if `spec.image_size` differs.

    The files that training uses are compared with the index: in a store of up to digests.WHOLE_BYTES by the checksums
    of all new or changed files, in a larger one by samples of the shards (`doctor` compares all checksums). Raises
    DataError.
    """
    folder = pathlib.Path(spec.path or "").expanduser()
    index = store_format.read_index(folder)
    store_format.check_sizes(folder, index)
    labels = {name: store_format.read_labels(folder, index, name) for name in index.splits}
    if index.format == "jpeg":
        array_record()  # fails early
    seen = check_content(folder, index, spec.threads)
    splits = {}
    for name in index.splits:
        found = images(
            folder, index, name, spec.image_size, spec.threads, processes=spec.workers, seen=seen
        )
        splits[name] = Split(found, labels[name], _digests(folder, index, name, seen))
    known = None
    if spec.image_size == index.size:
        known = store_format.read_statistics(folder, index.size)
    notes = _exif_notes(folder, index, spec.exif)
    return Dataset(splits, index.classes, statistics=known, notes=notes, times=seen.times)


def _exif_notes(folder: pathlib.Path, index: Index, exif: Exif) -> tuple[str, ...]:
    """Return a note if the store was prepared with another EXIF option than config.data.exif."""
    prepared = index.request.get("exif", "ignore")  # older stores do not record it
    changes = [change for found in index.report.get("converted", {}).values() for change in found]
    if prepared == exif or not any("EXIF" in change for change in changes):
        return ()
    return (
        f"{folder} was prepared with --exif {prepared}, but the trained net will read photos with "
        f"config.data.exif={exif!r}: use --config.data.exif={prepared} to treat both alike",
    )


class Content(NamedTuple):
    """What was seen of the shards of a store that is too large to read at each start; empty for a smaller store.

    Attributes:
        times: Digest of the modification times of the shards; '' if all bytes were read.
        samples: Shard -> digest of a sample of its bytes; None if all bytes were read.
    """

    times: str = ""
    samples: dict[str, int] | None = None


def check_content(folder: pathlib.Path, index: Index, threads: int) -> Content:
    """Compare the files that training reads with the index. Raises DataError for the first difference."""
    shards = [shard.file for one in index.splits.values() for shard in one]
    others = [store_format.labels_name(name) for name in index.splits]
    others += [store_format.STATISTICS] if store_format.STATISTICS in index.files else []
    sampled = sum(index.files[name][0] for name in shards) > digests.WHOLE_BYTES
    whole = others if sampled else [*shards, *others]
    seen = Content()
    try:
        found = digests.of_files(folder, whole, threads, whole=True).digests.tolist()
        wrong = [name for name, one in zip(whole, found, strict=True) if one != _sum(index, name)]
        if sampled and not wrong:
            samples = {
                name: digests.sample_of(folder / name, index.files[name][0]) for name in shards
            }
            known = index.samples or {}
            wrong = [name for name, one in samples.items() if known.get(name, one) != one]
            seen = Content(digests.times_of(folder, shards), samples)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}; {AGAIN}") from None
    if wrong:
        raise DataError(
            f"{folder / wrong[0]} is not the file that was prepared (its checksum differs from {store_format.INDEX}): "
            f"copy it again, or {AGAIN}"
        )
    return seen


def _sum(index: Index, name: str) -> int:
    """Return the digest of a whole file, as digests.of_bytes would, from the index."""
    return digests.short(bytes.fromhex(index.files[name][1]))


def _digests(
    folder: pathlib.Path, index: Index, split: str, seen: Content
) -> UInt64[np.ndarray, " n"]:
    """Return digests of the images of a split: of their bytes, or in a large store of their shard and position."""
    shards = index.splits[split]
    sums = [_sum(index, shard.file) for shard in shards]
    counts = [shard.count for shard in shards]
    if seen.samples:
        both = [f"{one} {seen.samples[x.file]}" for one, x in zip(sums, shards, strict=True)]
        return digests.of_records([digests.of_bytes(one.encode()) for one in both], counts)
    paths, total = [folder / shard.file for shard in shards], sum(counts)

    def read() -> dict[str, np.ndarray]:
        if index.format == "raw":
            pixels = RawShards(paths, counts, index.size)
            parts = [pixels[np.arange(i, min(i + 64, total))] for i in range(0, total, 64)]
            return {"digests": np.concatenate([digests.of_rows(part) for part in parts])}
        records = JpegShards(paths, counts)
        found = (digests.of_bytes(records.one(i)) for i in range(total))
        return {"digests": np.fromiter(found, np.uint64, total)}

    like: dict[str, Any] = {"digests": ((total,), "uint64")}
    return digests.cached_arrays(digests.cache_key(*sums, *counts), read, like)["digests"]


def images(
    folder: pathlib.Path,
    index: Index,
    split: str,
    size: int,
    threads: int,
    *,
    processes: int | None = 0,
    seen: Content | None = None,
) -> "RawShards | ImageFiles":
    """Return the images of a split, which indexing with `indices` reads as uint8 [b size size 3].

    Files are opened on first use. With `seen`, the result of check_content, the decoded images of a small dataset are
    kept in the cache folder.
    """
    shards = index.splits[split]
    paths = [folder / shard.file for shard in shards]
    counts = [shard.count for shard in shards]
    if index.format == "raw":
        pixels = RawShards(paths, counts, index.size)
        if size == index.size:
            return pixels
        read = pixels.one
    else:
        read = functools.partial(Record, JpegShards(paths, counts))
    return ImageFiles(
        lambda i: (f"{folder}: image {i} of {split}", read(i)),
        sum(counts),
        size,
        threads=threads,
        processes=processes,
        identity=digests.cache_key(
            *(index.files[shard.file][1] for shard in shards), *counts, seen.times
        )
        if seen
        else None,
        title=f"{sum(counts)} images of {split} in {folder}",
        check=lambda: _check_unchanged(folder, index, threads, seen),
    )


def _check_unchanged(
    folder: pathlib.Path, index: Index, threads: int, seen: Content | None
) -> None:
    """Raise DataError if the files have changed since they were first read."""
    if check_content(folder, index, threads) != seen:
        raise DataError(f"{folder} was changed while it was read; run the same command again")


class RawShards:
    """Raw images by index, from memory-mapped .npy files."""

    def __init__(self, paths: list[pathlib.Path], counts: list[int], size: int):
        self._paths, self._counts, self._size = paths, counts, size
        self._ends = np.cumsum([0, *counts])
        self._maps: list[np.ndarray | None] = [None] * len(paths)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, indices: np.ndarray) -> UInt8[np.ndarray, "b s s 3"]:
        indices = np.asarray(indices)
        shards = np.searchsorted(self._ends, indices, side="right") - 1
        rows = indices - self._ends[shards]
        found = np.empty((len(indices), self._size, self._size, 3), np.uint8)
        for i, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            found[i] = self._map(shard)[row]
        return found

    def one(self, i: int) -> UInt8[np.ndarray, "s s 3"]:
        """Return image i. Raises DataError."""
        shard = int(np.searchsorted(self._ends, i, side="right")) - 1
        return self._map(shard)[i - int(self._ends[shard])]

    def _map(self, shard: int) -> np.ndarray:
        known = self._maps[shard]
        if known is not None:
            return known
        path, shape = self._paths[shard], (self._counts[shard], self._size, self._size, 3)
        opened = files.read_array(path, shape, "uint8", mapped=True, error=DataError, remedy=AGAIN)
        self._maps[shard] = opened
        return opened


class JpegShards:
    """Encoded images by index; thread-safe."""

    def __init__(self, paths: list[pathlib.Path], counts: list[int]):
        self._paths, self._counts = paths, counts
        self._ends = np.cumsum([0, *counts])
        self._readers: list[Any] = [None] * len(paths)
        self._lock = threading.Lock()
        self._reader = array_record().ArrayRecordReader
        self._number = next(_numbers)

    def one(self, i: int) -> bytes:
        """Return the JPEG file of image i. Raises DataError."""
        shard = int(np.searchsorted(self._ends, i, side="right")) - 1
        reader = self._readers[shard] or self._open(shard)
        try:
            return reader.read([i - int(self._ends[shard])])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._fault(shard, error) from None

    def shard_of(self, i: int) -> tuple[int, pathlib.Path, int, int]:
        """Return what tells these shards from others, the path and count of a shard, and the row of image i in it."""
        shard = int(np.searchsorted(self._ends, i, side="right")) - 1
        return self._number, self._paths[shard], self._counts[shard], i - int(self._ends[shard])

    def _open(self, shard: int) -> Any:
        with self._lock:
            if self._readers[shard] is None:
                path = str(self._paths[shard])
                try:
                    reader = self._reader(path, "readahead_buffer_size:0")
                    count = reader.num_records()
                except (RuntimeError, ValueError) as error:
                    raise self._fault(shard, error) from None
                if count != self._counts[shard]:
                    raise DataError(
                        f"{path} has {count} records, not {self._counts[shard]}; {AGAIN}"
                    )
                self._readers[shard] = reader
            return self._readers[shard]

    def _fault(self, shard: int, error: Exception) -> DataError:
        text = one_line(error)[:200]
        return DataError(f"cannot read {self._paths[shard]}: {text}; {AGAIN}")


_numbers = itertools.count()


class Record(NamedTuple):
    """The JPEG file of an image, as a function; pickled, it opens the shard again in the other process."""

    shards: JpegShards
    i: int

    def __call__(self) -> bytes:
        return self.shards.one(self.i)

    def __reduce__(self) -> tuple:
        return functools.partial, (_read_again, *self.shards.shard_of(self.i))


def _read_again(number: int, path: pathlib.Path, count: int, row: int) -> bytes:
    return _opened(number, path, count).one(row)


@functools.lru_cache(maxsize=4096)
def _opened(number: int, path: pathlib.Path, count: int) -> JpegShards:
    """Open a shard once in this process; another store at the same path has another number."""
    return JpegShards([path], [count])


def array_record() -> Any:
    """Import the module that reads and writes JPEG records. Raises DataError if it is not installed."""
    try:
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        raise DataError(
            f"a store of JPEG records needs array_record: {INSTALL} (a store of format raw does not)"
        ) from None
    return array_record_module
