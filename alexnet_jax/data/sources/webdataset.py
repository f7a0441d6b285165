"""Source 'webdataset': tar shards with KEY.jpg (or .png ...) and KEY.cls or KEY.json, read in place.

The label is the content of KEY.cls, or `label` (or `cls`) of KEY.json. The original file name is `filename` of KEY.json
or else the key. A file classnames.txt, one name per line, names the labels.
"""

import pathlib
import re
from collections.abc import Iterator
from typing import IO, Any

from alexnet_jax import files
from alexnet_jax.data.pipeline.splits import Dataset
from alexnet_jax.data.sources import archives, labels, listing, sharded, tree
from alexnet_jax.data.sources.archives import Member
from alexnet_jax.data.sources.labels import Example
from alexnet_jax.data.sources.listing import Listing, Unpack
from alexnet_jax.errors import DataError, printable
from alexnet_jax.specs import DataSpec

LAYOUT = "shards *.tar with KEY.jpg and KEY.cls or KEY.json"
_SUFFIXES = (".tar", *archives.GZIP_SUFFIXES)
_LABELS = (".cls", ".json")
_CLASS_NAMES = ("classnames.txt", "classes.txt")
_KEYS = ("label", "cls")
#: Shards by which the form is recognized.
_TRIED = 3


def load(spec: DataSpec) -> Dataset:
    """Open the shards in `spec.path`. Raises DataError."""
    return listing.load(spec, find, LAYOUT)


def find(root: pathlib.Path, unpack: Unpack) -> Listing | None:
    """List the images of the shards in a folder, or of one shard; None if there are none. Raises DataError."""
    if root.is_file():
        if not root.name.lower().endswith(_SUFFIXES) or not _is_shard(root):
            return None
        shards = sharded.Shards({"train": [root]})
    else:
        found = sharded.find(root, _SUFFIXES)
        if found is None:
            return None
        # The first shard may be damaged.
        if not any(map(_is_shard, next(iter(found.splits.values()))[:_TRIED])):
            return None
        shards = found
    table: dict[str, list] = {}
    faults: list[str] = []
    holders = [path for paths in shards.splits.values() for path in paths]
    unpack.reserve([path for path in holders if archives.is_compressed(path.name)])
    examples = sharded.examples(shards, lambda path: _examples(path, unpack, table), faults)
    return labels.by_class(
        root,
        "WebDataset shards",
        examples,
        _class_names(root),
        holders=holders,
        faults=[*faults, *tree.in_words(table)],
        missing=shards.missing,
        notes=shards.notes,
    )


def _is_shard(path: pathlib.Path) -> bool:
    """Whether a label is among the first files of a tar."""
    return any(name.lower().endswith(_LABELS) for name in archives.peek(path))


def _split(name: str) -> tuple[str, str]:
    """Split a name into the key, which ends at the first dot of its last part, and the rest in lower case."""
    folder, _, base = name.rpartition("/")
    key, _, rest = base.partition(".")
    return (f"{folder}/{key}" if folder else key).removeprefix("./"), f".{rest.lower()}"


def _examples(path: pathlib.Path, unpack: Unpack, table: dict[str, list]) -> Iterator[Example]:
    """Yield the examples of a shard; faults go into `table`. Raises DataError for a damaged archive."""
    archive, samples = listing.plain(path, unpack), {}
    for member in archives.members(archive, None, shown=str(path)):
        key, end = _split(member.name)
        samples.setdefault(key, {})[end] = member
    try:
        with open(archive, "rb") as file:
            yield from _labeled(samples, file, path, table)
    except OSError as error:
        raise DataError(f"cannot read {archive}: {error.strerror}") from None


def _labeled(
    samples: dict[str, dict[str, Member]],
    file: IO[bytes],
    path: pathlib.Path,
    table: dict[str, list],
) -> Iterator[Example]:
    """Yield the examples of the samples {key: {suffix: member}} of the shard `path`, opened as `file`."""
    for key, parts in samples.items():
        ends = [end for end in parts if end in tree.SUFFIXES]
        ends = ends or [end for end in parts if end.endswith(tree.SUFFIXES)]
        title = printable(f"{path}: {key}")
        if len(ends) != 1:
            fault = (
                "samples with several images; a key ends at its first dot"
                if ends
                else "samples without an image"
            )
            if ends or not parts.keys().isdisjoint(_LABELS):
                tree.tally(table, fault, title)
            continue
        image = parts[ends[0]]
        try:
            label, name = _label(parts, file)
        except (DataError, OSError, ValueError):
            tree.tally(table, "samples whose label in KEY.cls or KEY.json cannot be read", title)
            continue
        yield Example(label, name or image.name, image)


def _label(parts: dict[str, Member], file: IO[bytes]) -> tuple[int | str | None, str]:
    """Return the label, None if there is none, and the original file name, '' if unknown."""
    about: dict[str, Any] = {}
    if ".json" in parts:
        about = files.parse_json(parts[".json"].read_from(file), dict)
    name = about.get("filename")
    if ".cls" in parts:
        text = parts[".cls"].read_from(file).decode().strip()
        label: Any = int(text) if re.fullmatch(r"-?\d{1,9}", text) else text
    else:
        label = next((about[key] for key in _KEYS if key in about), None)
    if isinstance(label, bool) or not isinstance(label, int | str | None):
        raise ValueError(label)
    return label, name if isinstance(name, str) else ""


def _class_names(root: pathlib.Path) -> list[str] | None:
    """Return the lines of the file of class names, if there is one. Raises DataError."""
    folder = root if root.is_dir() else root.parent
    for path in (folder / name for name in _CLASS_NAMES):
        if path.is_file():
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"cannot read {path}: {error}; save it as UTF-8 text") from None
            return [line.strip() for line in lines if line.strip()]
    return None
