"""A prepared set: squares of one size in a few large files, with an index that vouches for them.

    index.json                   what is there; written last
    train-00000.array_record     JPEG records, or train-00000.npy: uint8 [n s s 3]; ...
    train-labels.npy             int32 [n]; the same for val and test
    statistics.npz               mean image and principal components of train
    refused.jsonl                the images that could not be used, a line each

`alexnet prepare` writes it.
"""

import hashlib
import json
import os
import pathlib
import re
import threading
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import numpy as np

from alexnet_jax import files
from alexnet_jax.data.pipeline import identity, statistics
from alexnet_jax.data.pipeline.image_files import ImageFiles
from alexnet_jax.data.pipeline.splits import Dataset, Split
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import DataError
from alexnet_jax.files import sha256_of
from alexnet_jax.specs import DataSpec, Exif, Pixels, Range

SCHEMA = 1
INDEX = "index.json"
STATISTICS = "statistics.npz"
REFUSED = "refused.jsonl"
INSTALL = 'pip install -e ".[store]"'
SUFFIXES = {"jpeg": ".array_record", "raw": ".npy"}
# One record a chunk: any of them is read alone. JPEG does not become smaller by packing it again.
WRITER_OPTIONS = "group_size:1,uncompressed"
_AGAIN = "prepare it again: alexnet prepare"


class Shard(NamedTuple):
    file: str
    count: int


class _FileName:
    """A file elsewhere is none of the store's."""

    def __contains__(self, value: str) -> bool:
        return value == os.path.basename(value) and value.isprintable() and value.strip(".") != ""

    def __str__(self) -> str:
        return "the name of a file"


class _Hexadecimal(int):
    """So many digits."""

    def __contains__(self, value: str) -> bool:
        return re.fullmatch(f"[0-9a-f]{{{int(self)}}}", value) is not None

    def __str__(self) -> str:
        return f"{int(self)} hexadecimal digits"


_Name = Annotated[str, _FileName()]


class _Shard(TypedDict):
    file: _Name
    count: Annotated[int, Range(1, 2**40)]


class _Split(TypedDict):
    shards: list[_Shard]


class _File(TypedDict):
    size: Annotated[int, Range(0)]
    sha256: Annotated[str, _Hexadecimal(64)]
    sample: NotRequired[Annotated[str, _Hexadecimal(16)]]


class _Found(TypedDict):
    count: Annotated[int, Range(0)]
    first: list[str]


class _Report(TypedDict, total=False):
    """What prepare tells of a store, and doctor again."""

    per_class: dict[str, list[Annotated[int, Range(0)]]]
    converted: dict[str, dict[str, _Found]]
    refused: dict[str, _Found]
    notes: list[str]
    duplicates: _Found
    two_classes: _Found
    bytes: int


class _Request(TypedDict, total=False):
    official: str | None


class _AnySchema(TypedDict):
    schema: int


class _Index(_AnySchema):
    """index.json"""

    format: Literal["jpeg", "raw"]
    size: Pixels
    classes: list[str]
    class_names: list[str]
    splits: dict[Literal["train", "val", "test"], _Split]
    files: dict[_Name, _File]
    fingerprint: str
    request: _Request
    report: _Report


class Index(NamedTuple):
    """The content of index.json."""

    format: str
    """'jpeg' or 'raw'"""
    size: int
    """Pixels a side."""
    classes: tuple[str, ...]
    """Sorted: synsets, or names of folders."""
    words: tuple[str, ...]
    """What people call the classes."""
    splits: dict[str, tuple[Shard, ...]]
    files: dict[str, tuple[int, str]]
    """Name -> bytes and SHA-256, of every other file."""
    fingerprint: str
    """SHA-256 of what training sees: format, size, classes, images and labels."""
    request: dict[str, Any]
    """What prepare was asked for."""
    report: dict[str, Any]
    """What it found: counts, conversions, refusals, duplicates."""
    samples: dict[str, int] | None = None
    """Name of a shard -> digest of a sample of its bytes, for stores too large to be read at each start."""


def store(spec: DataSpec) -> Dataset:
    """The images of the store in the folder `path`, of its own size or resized.

    The files that training sees are compared with the index: of a store of up to identity.WHOLE_BYTES their sums, when
    they are new here or changed; of a larger one samples of the shards (`doctor` compares all sums). Raises DataError.
    """
    folder = pathlib.Path(spec.path or "").expanduser()
    index = read_index(folder)
    check_sizes(folder, index)
    splits = {}
    for name, shards in index.splits.items():
        labels = read_labels(folder, index, name, sum(shard.count for shard in shards))
        splits[name] = Split(None, labels)
    if index.format == "jpeg":
        check_jpeg()
    seen = check_content(folder, index, spec.threads)
    for name, split in splits.items():
        found = images(folder, index, name, spec.image_size, spec.threads, seen=seen)
        digests = _digests(folder, index, name, seen)
        splits[name] = Split(found, split.labels, digests)
    known = read_statistics(folder, index.size) if spec.image_size == index.size else None
    notes = _of_exif(folder, index, spec.exif)
    return Dataset(splits, index.classes, statistics=known, notes=notes, times=seen.times)


def _of_exif(folder: pathlib.Path, index: Index, exif: Exif) -> tuple[str, ...]:
    """A note where photos of the store are turned otherwise than those that the trained net is shown later."""
    made = index.request.get("exif", "ignore")  # older stores do not say
    changes = [change for found in index.report.get("converted", {}).values() for change in found]
    if made == exif or not any("EXIF" in change for change in changes):
        return ()
    return (
        f"{folder} was prepared with --exif {made}, but photos that the trained net is shown are taken by "
        f"config.data.exif={exif!r}: say --config.data.exif={made} to have both alike",
    )


class Content(NamedTuple):
    """What was seen of the shards of a store that is too large to be read at each start."""

    times: str = ""
    """'' where all was read."""
    samples: dict[str, int] | None = None
    """Digest of a sample of each shard, where not all was read."""


def check_content(folder: pathlib.Path, index: Index, threads: int) -> Content:
    """Compare the files that training reads with the index. Raises DataError for one that is another file."""
    shards = [shard.file for one in index.splits.values() for shard in one]
    others = [f"{name}-labels.npy" for name in index.splits]
    others += [STATISTICS] if STATISTICS in index.files else []
    sampled = sum(index.files[name][0] for name in shards) > identity.WHOLE_BYTES
    whole = others if sampled else [*shards, *others]
    seen = Content()
    try:
        found = identity.of_files(folder, whole, threads, whole=True).digests.tolist()
        wrong = [name for name, one in zip(whole, found, strict=True) if one != _sum(index, name)]
        if sampled and not wrong:
            samples = {
                name: identity.sample_of(folder / name, index.files[name][0]) for name in shards
            }
            known = index.samples or {}
            wrong = [name for name, one in samples.items() if known.get(name, one) != one]
            seen = Content(identity.times_of(folder, shards), samples)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}; {_AGAIN}") from None
    if wrong:
        raise DataError(
            f"{folder / wrong[0]} is not the file that was prepared (its sum is not that of {INDEX}): "
            f"copy it again, or {_AGAIN}"
        )
    return seen


def _sum(index: Index, name: str) -> int:
    """As identity.of_bytes of the whole file."""
    return identity.short(bytes.fromhex(index.files[name][1]))


def _digests(folder: pathlib.Path, index: Index, split: str, seen: Content) -> np.ndarray:
    """uint64 [n] of the images of a split: of their bytes, in a large store of their shard and place."""
    shards = index.splits[split]
    sums = [_sum(index, shard.file) for shard in shards]
    counts = [shard.count for shard in shards]
    if seen.samples:
        both = [f"{one} {seen.samples[x.file]}" for one, x in zip(sums, shards, strict=True)]
        return identity.of_places([identity.of_bytes(one.encode()) for one in both], counts)
    paths, total = [folder / shard.file for shard in shards], sum(counts)

    def read() -> dict[str, np.ndarray]:
        if index.format == "raw":
            pixels = RawShards(paths, counts, index.size)
            parts = [pixels[np.arange(i, min(i + 64, total))] for i in range(0, total, 64)]
            return {"digests": np.concatenate([identity.of_rows(part) for part in parts])}
        records = JpegShards(paths, counts)
        found = (identity.of_bytes(records.one(i)) for i in range(total))
        return {"digests": np.fromiter(found, np.uint64, total)}

    like: dict[str, Any] = {"digests": ((total,), "uint64")}
    return identity.kept(identity.key(*sums, *counts), read, like)["digests"]


def images(
    folder: pathlib.Path,
    index: Index,
    split: str,
    size: int,
    threads: int,
    *,
    seen: Content | None = None,
):
    """`images[indices]` -> uint8 [b size size 3] of a split; opened when first used.

    With `seen`, that of check_content, a small set is decoded once, into the cache folder.
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
        read = JpegShards(paths, counts).one
    return ImageFiles(
        lambda i: (f"{folder}: image {i} of {split}", read(i)),
        sum(counts),
        size,
        threads=threads,
        identity=identity.key(
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
    """Raises DataError where the files are not those that were seen."""
    if check_content(folder, index, threads) != seen:
        raise DataError(f"{folder} was changed while it was read; run the same command again")


class RawShards:
    """`shards[indices]` -> uint8 [b s s 3], from memory maps of .npy files."""

    def __init__(self, paths: list[pathlib.Path], counts: list[int], size: int):
        self._paths, self._counts, self._size = paths, counts, size
        self._ends = np.cumsum([0, *counts])
        self._maps: list[np.ndarray | None] = [None] * len(paths)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices)
        shards = np.searchsorted(self._ends, indices, side="right") - 1
        rows = indices - self._ends[shards]
        found = np.empty((len(indices), self._size, self._size, 3), np.uint8)
        for place, (shard, row) in enumerate(zip(shards.tolist(), rows.tolist(), strict=True)):
            found[place] = self._map(shard)[row]
        return found

    def one(self, i: int) -> np.ndarray:
        shard = int(np.searchsorted(self._ends, i, side="right")) - 1
        return self._map(shard)[i - int(self._ends[shard])]

    def _map(self, shard: int) -> np.ndarray:
        known = self._maps[shard]
        if known is not None:
            return known
        path, shape = self._paths[shard], (self._counts[shard], self._size, self._size, 3)
        opened = files.read_array(path, shape, "uint8", mapped=True, error=DataError, remedy=_AGAIN)
        self._maps[shard] = opened
        return opened


class JpegShards:
    """`one(i)` -> the encoded image i. Its readers may be used by many threads at once."""

    def __init__(self, paths: list[pathlib.Path], counts: list[int]):
        self._paths, self._counts = paths, counts
        self._ends = np.cumsum([0, *counts])
        self._readers: list[Any] = [None] * len(paths)
        self._lock = threading.Lock()
        self._reader = _array_record().ArrayRecordReader

    def one(self, i: int) -> bytes:
        shard = int(np.searchsorted(self._ends, i, side="right")) - 1
        reader = self._readers[shard] or self._open(shard)
        try:
            return reader.read([i - int(self._ends[shard])])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._fault(shard, error) from None

    def _open(self, shard: int):
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
                        f"{path} has {count} records, not {self._counts[shard]}; {_AGAIN}"
                    )
                self._readers[shard] = reader
            return self._readers[shard]

    def _fault(self, shard: int, error: Exception) -> DataError:
        text = " ".join(str(error).split())[:200]
        return DataError(f"cannot read {self._paths[shard]}: {text}; {_AGAIN}")


def _array_record() -> Any:
    try:
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        raise DataError(
            f"a store of JPEG records needs array_record: {INSTALL} (one of format raw does not)"
        ) from None
    return array_record_module


def check_jpeg() -> None:
    """Raises DataError where stores of JPEG records cannot be read or written."""
    _array_record()


def jpeg_writer(path: pathlib.Path) -> Any:
    """`write(bytes)` appends a record; nothing counts before `close()`. Raises DataError."""
    return _array_record().ArrayRecordWriter(str(path), WRITER_OPTIONS)


def is_store(folder: pathlib.Path) -> bool:
    return (folder / INDEX).is_file()


def read_index(folder: pathlib.Path) -> Index:
    """Raises DataError where there is none, or one that is damaged or newer than this program."""
    path = folder / INDEX
    schema = files.read_json(path, _AnySchema, error=DataError, remedy=_AGAIN)
    if schema is None:
        raise DataError(
            f"{folder} is no store: it has no {INDEX}; make one with "
            f"alexnet prepare --from SOURCE --out {folder}"
        )
    if schema["schema"] != SCHEMA:
        raise DataError(f"{path} has schema {schema['schema']}, not {SCHEMA}; {_AGAIN}")
    content = files.check(schema, _Index, path, error=DataError, remedy=_AGAIN)
    index = Index(
        content["format"],
        content["size"],
        tuple(content["classes"]),
        tuple(content["class_names"]),
        {
            name: tuple(Shard(shard["file"], shard["count"]) for shard in split["shards"])
            for name, split in content["splits"].items()
        },
        {name: (file["size"], file["sha256"]) for name, file in content["files"].items()},
        content["fingerprint"],
        dict(content["request"]),
        dict(content["report"]),
        {
            name: int(file["sample"], 16)
            for name, file in content["files"].items()
            if "sample" in file
        },
    )
    whole = "train" in index.splits
    whole &= 0 < len(index.classes) == len(set(index.classes)) == len(index.words)
    for name, shards in index.splits.items():
        whole &= f"{name}-labels.npy" in index.files
        whole &= all(shard.file in index.files for shard in shards)
    if not whole:
        raise DataError(f"{path} is damaged; {_AGAIN}")
    return index


def write_index(path: pathlib.Path, index: Index) -> None:
    """As JSON, with its synsets named; the files that it names lie beside it. Raises OSError."""
    shards = {shard.file for one in index.splits.values() for shard in one}
    content = {
        "schema": SCHEMA,
        "format": index.format,
        "size": index.size,
        "classes": index.classes,
        "class_names": index.words,
        "splits": {
            name: {
                "count": sum(shard.count for shard in shards),
                "shards": [shard._asdict() for shard in shards],
            }
            for name, shards in index.splits.items()
        },
        "files": {
            name: {"size": size, "sha256": sha256}
            | (
                {"sample": f"{identity.sample_of(path.parent / name, size):016x}"}
                if name in shards
                else {}
            )
            for name, (size, sha256) in sorted(index.files.items())
        },
        "fingerprint": index.fingerprint,
        "request": index.request,
        "report": index.report,
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def fingerprint(index: Index) -> str:
    """SHA-256 over all that training sees of a store; sources and reports have no part in it."""
    seen: list[Any] = [index.format, index.size, index.classes]
    for name, shards in sorted(index.splits.items()):
        names = [*(shard.file for shard in shards), f"{name}-labels.npy"]
        seen.append([name, [index.files[file][1] for file in names]])
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def check_sizes(folder: pathlib.Path, index: Index) -> None:
    """Raises DataError for the first file that is missing or has another size."""
    for name, (size, _) in index.files.items():
        path = folder / name
        try:
            found = path.stat().st_size
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; {_AGAIN}") from None
        if found != size:
            raise DataError(f"{path} has {found:,} bytes, not {size:,}: copy it again, or {_AGAIN}")


def damaged_files(folder: pathlib.Path, index: Index):
    """Yields (name, bytes, fault) of every file of the index; fault is None where the sum fits."""
    for name, (size, sha256) in sorted(index.files.items()):
        try:
            found = sha256_of(folder / name)
        except OSError as error:
            yield name, size, error.strerror
            continue
        yield name, size, None if found == sha256 else "its SHA-256 is not that of the index"


def read_statistics(folder: pathlib.Path, size: int) -> Statistics:
    """Of images of `size` pixels. Raises DataError."""
    return statistics.read(folder / STATISTICS, size, error=DataError, remedy=_AGAIN)


def read_labels(folder: pathlib.Path, index: Index, split: str, count: int) -> np.ndarray:
    """int32 [count], all of them classes of the index. Raises DataError."""
    path = folder / f"{split}-labels.npy"
    labels = files.read_array(path, (count,), "int32", error=DataError, remedy=_AGAIN)
    if count and not 0 <= labels.min() <= labels.max() < len(index.classes):
        raise DataError(
            f"{path} has the labels {labels.min()} to {labels.max()}, but there are "
            f"{len(index.classes)} classes; {_AGAIN}"
        )
    return labels
