"""The format of a prepared store: square images of one size in a few large files, and an index with checksums.

    index.json                   lists the other files, classes and options; written last
    train-00000.array_record     JPEG records, or train-00000.npy: uint8 [n s s 3]; ...
    train-labels.npy             int32 [n]; the same for val and test
    statistics.npz               mean image and principal components of train
    refused.jsonl                the images that could not be used, one per line
    duplicates.jsonl             the images that occur in two splits or under two classes

`alexnet prepare` writes stores (data/prepare), and `data.source='store'` reads them (store.py).
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import numpy as np

from alexnet_jax import files
from alexnet_jax.data.pipeline import digests, statistics
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import DataError
from alexnet_jax.specs import Condition, Pixels, Range

SCHEMA = 1
INDEX = "index.json"
STATISTICS = "statistics.npz"
REFUSED = "refused.jsonl"
DUPLICATES = "duplicates.jsonl"
SUFFIXES = {"jpeg": ".array_record", "raw": ".npy"}
#: Advice at the end of error messages.
AGAIN = "prepare it again: alexnet prepare"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file with `count` images of a split."""

    file: str
    count: int


def _is_file_name(name: str) -> bool:
    return name == os.path.basename(name) and name.isprintable() and name.strip(".") != ""


def _hexadecimal(digits: int) -> Condition:
    pattern = re.compile(f"[0-9a-f]{{{digits}}}")
    return Condition(f"{digits} hexadecimal digits", lambda text: bool(pattern.fullmatch(text)))


_Name = Annotated[str, Condition("the name of a file", _is_file_name)]


class _Shard(TypedDict):
    file: _Name
    count: Annotated[int, Range(1, 2**40)]


class _Split(TypedDict):
    shards: list[_Shard]


class _File(TypedDict):
    size: Annotated[int, Range(0)]
    sha256: Annotated[str, _hexadecimal(64)]
    sample: NotRequired[Annotated[str, _hexadecimal(16)]]


class _Found(TypedDict):
    count: Annotated[int, Range(0)]
    first: list[str]


class _Report(TypedDict, total=False):
    """The report of `prepare`, which `doctor` shows again."""

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
    """The type of index.json."""

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
    """The content of index.json.

    Attributes:
        format: 'jpeg' or 'raw'.
        size: Width and height of the images.
        classes: Synsets or names of folders, sorted.
        words: Readable names of the classes.
        splits: Split -> its shards.
        files: Name -> (bytes, SHA-256) of every other file.
        fingerprint: SHA-256 of all that training depends on: format, size, classes, images and labels.
        request: The options of `alexnet prepare`.
        report: Its report: counts, conversions, refused images, duplicates.
        samples: Shard -> digest of a sample of its bytes, for stores that are too large to read at each start.
    """

    format: str
    size: int
    classes: tuple[str, ...]
    words: tuple[str, ...]
    splits: dict[str, tuple[Shard, ...]]
    files: dict[str, tuple[int, str]]
    fingerprint: str
    request: dict[str, Any]
    report: dict[str, Any]
    samples: dict[str, int] | None = None


def is_store(folder: pathlib.Path) -> bool:
    """Whether a folder is a store: it has an index.json."""
    return (folder / INDEX).is_file()


def read_index(folder: pathlib.Path) -> Index:
    """Read index.json. Raises DataError if it is missing, damaged or of another schema."""
    path = folder / INDEX
    schema = files.read_json(path, _AnySchema, error=DataError, remedy=AGAIN)
    if schema is None:
        raise DataError(
            f"{folder} is not a store: it has no {INDEX}; make one with "
            f"alexnet prepare --from SOURCE --out {folder}"
        )
    if schema["schema"] != SCHEMA:
        raise DataError(f"{path} has schema {schema['schema']}, not {SCHEMA}; {AGAIN}")
    content = files.check(schema, _Index, path, error=DataError, remedy=AGAIN)
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
    is_complete = "train" in index.splits
    is_complete &= 0 < len(index.classes) == len(set(index.classes)) == len(index.words)
    for name, shards in index.splits.items():
        is_complete &= labels_name(name) in index.files
        is_complete &= all(shard.file in index.files for shard in shards)
    if not is_complete:
        raise DataError(f"{path} is damaged; {AGAIN}")
    return index


def write_index(path: pathlib.Path, index: Index) -> None:
    """Write index.json into the folder of the files that it lists. Raises OSError."""
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
                "shards": [dataclasses.asdict(shard) for shard in shards],
            }
            for name, shards in index.splits.items()
        },
        "files": {
            name: {"size": size, "sha256": sha256}
            | (
                {"sample": f"{digests.sample_of(path.parent / name, size):016x}"}
                if name in shards
                else {}
            )
            for name, (size, sha256) in sorted(index.files.items())
        },
        "fingerprint": index.fingerprint,
        "request": index.request,
        "report": index.report,
    }
    files.write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def fingerprint(index: Index) -> str:
    """Return the SHA-256 of all that training depends on, which excludes `request` and `report`."""
    content: list[Any] = [index.format, index.size, index.classes]
    for name, shards in sorted(index.splits.items()):
        names = [*(shard.file for shard in shards), labels_name(name)]
        content.append([name, [index.files[file][1] for file in names]])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def check_sizes(folder: pathlib.Path, index: Index) -> None:
    """Raise DataError for the first file that is missing or has another size."""
    for name, (size, _) in index.files.items():
        path = folder / name
        try:
            found = path.stat().st_size
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; {AGAIN}") from None
        if found != size:
            raise DataError(f"{path} has {found:,} bytes, not {size:,}: copy it again, or {AGAIN}")


def damaged_files(folder: pathlib.Path, index: Index) -> Iterator[tuple[str, int, str | None]]:
    """Yield (name, bytes, fault) for every file in the index; fault is None if its SHA-256 matches."""
    for name, (size, sha256) in sorted(index.files.items()):
        try:
            found = files.sha256_of(folder / name)
        except OSError as error:
            yield name, size, error.strerror
            continue
        yield name, size, None if found == sha256 else "its SHA-256 differs from the index"


def read_statistics(folder: pathlib.Path, size: int) -> Statistics:
    """Read the statistics of size x size images. Raises DataError."""
    return statistics.read(folder / STATISTICS, size, error=DataError, remedy=AGAIN)


def labels_name(split: str) -> str:
    """The name of the file with the labels of a split."""
    return f"{split}-labels.npy"


def read_labels(folder: pathlib.Path, index: Index, split: str) -> np.ndarray:
    """Read and check the labels int32 [n] of a split. Raises DataError."""
    count = sum(shard.count for shard in index.splits[split])
    path = folder / labels_name(split)
    labels = files.read_array(path, (count,), "int32", error=DataError, remedy=AGAIN)
    if count and not 0 <= labels.min() <= labels.max() < len(index.classes):
        raise DataError(
            f"{path} has labels from {labels.min()} to {labels.max()}, but there are "
            f"{len(index.classes)} classes; {AGAIN}"
        )
    return labels
