"""Source 'huggingface': Parquet shards of Hugging Face datasets, and folders that `save_to_disk` wrote.

Images are read at their place in Arrow files. Parquet files, which have no random access, are unpacked into these.
"""

import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax import files
from alexnet_jax.data.pipeline.splits import SPLITS, Dataset, split_of
from alexnet_jax.data.sources import archives, labels, listing, sharded, tree
from alexnet_jax.data.sources.archives import Member
from alexnet_jax.data.sources.labels import Example
from alexnet_jax.data.sources.listing import Listing, Unpack
from alexnet_jax.data.sources.sharded import Shards
from alexnet_jax.errors import DataError, listed, printable, short
from alexnet_jax.specs import DataSpec

LAYOUT = "train-*.parquet, or dataset_dict.json and state.json with *.arrow"
INSTALL = 'pip install -e ".[parquet]"'
_PARQUET, _ARROW = ".parquet", ".arrow"
_IMAGES = ("image", "img", "images", "jpg", "pixel_values")
_LABELS = ("label", "labels", "fine_label", "class", "target", "cls")
#: Rows read from Parquet at once: the images of ImageNet have 110 kB each.
_ROWS = 64
_AGAIN = "download it again"


def load(spec: DataSpec) -> Dataset:
    """Open the dataset in the folder `spec.path`. Raises DataError."""
    return listing.load(spec, find, LAYOUT)


def find(root: pathlib.Path, unpack: Unpack) -> Listing | None:
    """List the images of the shards in a folder, or of one shard; None if there are none. Raises DataError."""
    shards = _saved(root) or _shards(root)
    if shards is None:
        return None
    library, faults = _pyarrow(), list(shards.faults)
    class_names: dict[tuple[str, ...] | None, pathlib.Path] = {}
    table: dict[str, list] = {}
    holders = [path for paths in shards.splits.values() for path in paths]
    unpack.reserve([path for path in holders if path.name.lower().endswith(_PARQUET)])

    def read(path: pathlib.Path) -> list[Example]:
        names, found = _read(library, path, root, unpack, table)
        if any(one.label is not None for one in found):
            class_names.setdefault(names, path)
        return found

    examples = sharded.examples(shards, read, faults)
    if len(class_names) > 1:
        one, other = list(class_names.values())[:2]
        faults.append(f"{one} and {other} have other class names: {_AGAIN}")
    return labels.by_class(
        root,
        "a Hugging Face dataset",
        examples,
        next(iter(class_names), None),
        holders=holders,
        faults=[*faults, *tree.in_words(table)],
        missing=shards.missing,
        notes=shards.notes,
    )


def _shards(root: pathlib.Path) -> Shards | None:
    """Find the shards of a dataset of the hub, or one file."""
    if root.is_file():
        known = root.name.lower().endswith((_PARQUET, _ARROW))
        return Shards({"train": [root]}) if known else None
    for suffix in (_PARQUET, _ARROW):
        if found := sharded.find(root, (suffix,)):
            return found
    return None


def _saved(root: pathlib.Path) -> Shards | None:
    """Find the files of datasets that `save_to_disk` wrote: of a DatasetDict, or of one Dataset, which is 'train'."""
    if (root / "dataset_dict.json").is_file():
        index = _json(root / "dataset_dict.json").get("splits")
        folders = [str(name) for name in index] if isinstance(index, list) else []
    elif (root / "state.json").is_file():
        folders = ["train"]
    else:
        return None
    splits: dict[str, list[pathlib.Path]] = {}
    faults, missing, notes = [], [], []
    for name in folders:
        split = split_of(name)
        if split is None:
            notes.append(f"left out the split {printable(name)}")
            continue
        folder = root / name if (root / name).is_dir() else root
        state = _json(folder / "state.json")
        if state.get("_indices_data_files") or state.get("_indices_files"):
            faults.append(f"{folder} selects rows: save it again after flatten_indices()")
        paths = [folder / name for name in _data_files(state)]
        splits[split] = [path for path in paths if path.is_file()]
        missing += [f"{path} is missing: copy it, too" for path in paths if not path.is_file()]
        if not paths:
            missing.append(f"{folder}/state.json names no files of {split}: copy it, too")
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    return Shards(ordered, faults, missing, notes)


def _json(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object; {} if there is no such file. Raises DataError."""
    return files.read_json(path, dict, error=DataError, remedy=_AGAIN) or {}


def _data_files(state: dict[str, Any]) -> list[str]:
    """Return the names of the Arrow files that state.json lists."""
    found = state.get("_data_files")
    entries = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    return [pathlib.PurePath(str(one.get("filename"))).name for one in entries]


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"Parquet and Arrow files need pyarrow: {INSTALL}") from None
    return pyarrow


class _Columns(NamedTuple):
    image: str
    label: str
    names: tuple[str, ...] | None


def _read(
    library: Any, path: pathlib.Path, root: pathlib.Path, unpack: Unpack, table: dict[str, list]
) -> tuple[tuple[str, ...] | None, list[Example]]:
    """Return the class names and examples of a shard; faults of images go into `table`. Raises DataError, OSError."""
    arrow = str(path)
    if path.name.lower().endswith(_PARQUET):
        parquet, kept = _parquet(library, path, root)
        if count := _unlabeled(parquet, kept, path):  # as test of ImageNet, which is left out
            return None, [Example(None, "", Member("", arrow, 0, 0, 0, False, None, arrow))] * count

        def write(source: pathlib.Path, target: pathlib.Path, limit: int) -> None:
            _unpack_parquet(library, parquet, kept, source, target, limit)

        arrow = unpack(path, _ARROW, write)
    found: list[Example] = []
    try:
        with library.memory_map(arrow) as source:
            whole = source.read_buffer(source.size())
            source.seek(0)
            reader = library.ipc.open_stream(source)
            columns = _columns(reader.schema, path, root)
            for batch in reader:
                batch.validate(full=True)
                found += _examples(batch, columns, whole, arrow, path, len(found), table)
    except DataError:
        raise
    except Exception as error:  # pyarrow does not document what it raises for a damaged file
        raise _damaged(path, error) from None
    return columns.names, found


def _parquet(library: Any, path: pathlib.Path, root: pathlib.Path) -> tuple[Any, _Columns]:
    """Open a Parquet file and find its columns. Raises DataError."""
    try:
        parquet = library.parquet.ParquetFile(path)
        return parquet, _columns(parquet.schema_arrow, path, root)
    except DataError:
        raise
    except Exception as error:
        raise _damaged(path, error) from None


def _unlabeled(parquet: Any, columns: _Columns, path: pathlib.Path) -> int:
    """Return the number of rows of a Parquet file if none has a label, else 0. Raises DataError."""
    try:
        found = parquet.read([columns.label]).column(0)
        return len(found) * all(value in (None, -1) for value in found.to_pylist())
    except Exception as error:
        raise _damaged(path, error) from None


def _unpack_parquet(
    library: Any,
    parquet: Any,
    columns: _Columns,
    path: pathlib.Path,
    target: pathlib.Path,
    limit: int,
) -> None:
    """Write the images and labels of a Parquet file as an Arrow stream. Raises DataError, and OSError from writing."""
    most = archives.MAX_RATIO * path.stat().st_size + 2**20
    try:
        kept = [columns.image, columns.label]
        batches = parquet.iter_batches(_ROWS, columns=kept)
        schema = library.schema([parquet.schema_arrow.field(name) for name in kept])
        schema = schema.with_metadata(parquet.schema_arrow.metadata)
    except Exception as error:
        raise _damaged(path, error) from None
    with open(target, "wb") as file, library.ipc.new_stream(file, schema) as writer:
        while True:
            try:
                batch = next(batches, None)
            except Exception as error:
                raise _damaged(path, error) from None
            if batch is None:
                return
            writer.write_batch(batch.select(kept))
            if file.tell() > most:
                raise DataError(
                    f"{path} unpacks to more than {archives.MAX_RATIO} times itself: refused"
                )
            if file.tell() > limit:
                raise archives.TooLarge(f"{path} unpacks to more than {limit:,} bytes: refused")


def _damaged(path: pathlib.Path, error: Exception) -> DataError:
    return DataError(f"cannot read {path}: {short(error)}; {_AGAIN}")


def _columns(schema: Any, path: pathlib.Path, root: pathlib.Path) -> _Columns:
    """Find the columns of images and labels, and the class names. Raises DataError."""
    features = _features(schema, path, root)
    kinds = {name: one.get("_type") for name, one in features.items() if isinstance(one, dict)}
    image = _choose(schema.names, [n for n in schema.names if kinds.get(n) == "Image"], _IMAGES)
    label = _choose(
        schema.names, [n for n in schema.names if kinds.get(n) == "ClassLabel"], _LABELS
    )
    if image is None or label is None:
        what = "image" if image is None else "label"
        raise DataError(
            f"{path}: no column is the {what}; it has {listed(schema.names, 10)}; rename one to {what!r}"
        )
    names = features.get(label, {}).get("names") if kinds.get(label) == "ClassLabel" else None
    names = names or _names_in_readme(label, path, root)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = None
    return _Columns(image, label, tuple(names) if names else None)


def _choose(present: list[str], declared: list[str], usual: tuple[str, ...]) -> str | None:
    """Choose a column: the only declared one, or else the first usual name among the declared or all."""
    if len(declared) == 1:
        return declared[0]
    return next((name for name in usual if name in (declared or present)), None)


def _features(schema: Any, path: pathlib.Path, root: pathlib.Path) -> dict[str, Any]:
    """Return the features that the file or dataset_info.json beside it declares; {} if none."""
    declared = []
    if text := (schema.metadata or {}).get(b"huggingface"):
        try:
            declared.append(files.parse_json(text, dict).get("info"))
        except ValueError as error:
            raise DataError(f"{path}: its metadata 'huggingface' is damaged: {error}") from None
    for folder in dict.fromkeys((path.parent, root)):
        declared.append(_json(folder / "dataset_info.json"))
    for info in declared:
        if isinstance(info, dict) and isinstance(info.get("features"), dict):
            return info["features"]
    return {}


def _names_in_readme(label: str, path: pathlib.Path, root: pathlib.Path) -> list[str] | None:
    """Return the class names that the front matter of a dataset card README.md lists for the column `label`."""
    for folder in (root, path.parent, path.parent.parent):
        try:
            with open(folder / "README.md", encoding="utf-8", errors="replace") as file:
                text = file.read(2**22)
        except OSError:
            continue
        start = rf"^ *- name: ['\"]?{re.escape(label)}['\"]? *\n *dtype: *\n *class_label: *\n *names: *\n"
        match = re.search(start + r"((?: *['\"]?\d+['\"]?: .*\n)+)", text, re.MULTILINE)
        if match:
            lines = [line.strip().partition(": ")[2].strip() for line in match[1].splitlines()]
            return [_unquoted(line) for line in lines]
    return None


def _unquoted(text: str) -> str:
    """Return the value of a YAML scalar, of the kinds that class names are."""
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return text


def _examples(
    batch: Any,
    columns: _Columns,
    whole: Any,
    arrow: str,
    path: pathlib.Path,
    first: int,
    table: dict[str, list],
) -> Iterator[Example]:
    """Yield the examples of a batch within the mapped file `whole`, counting rows from `first`. Raises DataError."""
    if not len(batch):
        return
    image, label = batch.column(columns.image), batch.column(columns.label)
    kind, names = image.type, [None] * len(batch)
    present = image.is_valid().to_numpy(zero_copy_only=False)
    if hasattr(kind, "get_field_index") and kind.get_field_index("bytes") >= 0:
        if kind.get_field_index("path") >= 0:
            names = image.field("path").to_pylist()
        image = image.field("bytes")
        present &= image.is_valid().to_numpy(zero_copy_only=False)
    if str(image.type) not in ("binary", "large_binary"):
        raise DataError(
            f"{path}: the column {columns.image} has the type {kind}, not the bytes of image files; "
            "save the dataset with a feature of the type Image"
        )
    offsets, start = _places(image, whole, path)
    for i, (value, name, is_there) in enumerate(
        zip(label.to_pylist(), names, present.tolist(), strict=True)
    ):
        title = f"row {first + i}" + (f": {name}" if name else "")
        at, size = start + int(offsets[i]), int(offsets[i + 1] - offsets[i])
        item = Member(printable(title), arrow, at, size, size, False, None, str(path))
        if not is_there:
            fault = "rows without the bytes of an image (a path alone is not read); save the dataset again with them"
            tree.tally(table, fault, item.title)
        elif size > archives.MAX_FILE_BYTES:
            fault = f"images of more than the {archives.MAX_FILE_BYTES:,} bytes that one may have"
            tree.tally(table, fault, item.title)
        elif value is not None and not isinstance(value, int | str):
            tree.tally(table, "rows whose label is neither an integer nor a name", item.title)
        else:
            yield Example(int(value) if isinstance(value, bool) else value, name or "", item)


def _places(image: Any, whole: Any, path: pathlib.Path) -> tuple[np.ndarray, int]:
    """Return the offsets [n + 1] of the values of a binary array, and the place in the file that they count from.

    Raises DataError if the values are not in the file, because it is compressed.
    """
    _, offsets, values = image.buffers()
    kind = np.int32 if str(image.type) == "binary" else np.int64
    found = np.frombuffer(offsets, kind)[image.offset : image.offset + len(image) + 1].astype(
        np.int64
    )
    start = values.address - whole.address if values is not None else 0
    if len(image) and not 0 <= start + found[0] <= start + found[-1] <= whole.size:
        raise DataError(f"{path} is compressed within: save it again without compression")
    return found, start
