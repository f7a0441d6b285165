"""Source 'tfds': datasets of tensorflow-datasets. A prepared dataset is read without TensorFlow."""

import functools
import importlib.util
import logging
import os
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.pipeline import digests
from alexnet_jax.data.pipeline.image_files import ImageFiles
from alexnet_jax.data.pipeline.splits import Dataset, Split
from alexnet_jax.data.sources.tfrecord import TFRecords
from alexnet_jax.errors import DataError, one_line
from alexnet_jax.specs import DataSpec

INSTALL = 'pip install -e ".[tfds]"'
INSTALL_TF = 'pip install -e ".[tf]"'
SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
DEFAULT_PATH = "~/tensorflow_datasets"
_INFO = "dataset_info.json"

log = logging.getLogger(__name__)


def load(spec: DataSpec) -> Dataset:
    """Open the dataset `spec.name` in the folder `spec.path`, or the only prepared dataset there.

    If TensorFlow is installed, a missing dataset of the catalog is downloaded and prepared. Raises DataError.
    """
    library = _library()
    builder = _builder(library, spec.path, spec.name)
    title = builder.info.full_name
    image, label = _keys(builder)
    names = sorted(set(builder.info.splits) & set(SPLITS))
    if "train" not in names:
        raise DataError(f"{title} has no split 'train'; it has {', '.join(builder.info.splits)}")
    skip = library.decode.SkipDecoding()
    records = {name: _records(builder, name, image, skip) for name in names}
    files, splits = _files(builder, names, spec.threads), {}
    ends = np.cumsum([len(builder.info.splits[name].filepaths) for name in names])[:-1]
    for name, known in zip(names, np.split(files.digests, ends), strict=True):
        counts = builder.info.splits[name].shard_lengths
        about = f"{name} of {title}"
        content = _content(
            records[name], image, label, digests.cache_key(known, files.times), about
        )
        values, labels = content["digests"], content["labels"]
        if files.sampled:
            values = digests.of_records(known, counts)
        _check_labels(labels, about, len(builder.info.features[label].names))
        images = _images(
            records[name], image, about, spec, digests.cache_key(values, files.times), files.check
        )
        splits[SPLITS[name]] = Split(images, labels, values)
    return Dataset(
        splits,
        tuple(builder.info.features[label].names),
        times=files.times,
        notes=other_splits(builder),
        applies_exif=True,
    )


def other_splits(builder: Any) -> tuple[str, ...]:
    """Return a note on the splits that are not in SPLITS, if there are any."""
    others = sorted(set(builder.info.splits) - set(SPLITS))
    if not others:
        return ()
    counts = [f"{name} ({builder.info.splits[name].num_examples:,} images)" for name in others]
    return (f"{builder.info.full_name}: left out the splits {', '.join(counts)}",)


@dataclass(frozen=True, order=True)
class Example:
    """An image of a prepared dataset. It can be pickled, and read by any process.

    Attributes:
        folder: The folder with dataset_info.json.
    """

    folder: str
    split: str
    index: int

    @property
    def title(self) -> str:
        return f"{self.folder}: example {self.index} of {self.split}"

    def read(self) -> bytes:
        """Return the encoded image. Raises DataError."""
        _, image = _opened(self.folder, self.split)
        return self.features()[image]

    def features(self) -> dict[str, Any]:
        """Return all features of the example, the image still encoded. Raises DataError."""
        records, _ = _opened(self.folder, self.split)
        try:
            return records[self.index]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"cannot read {self.title}: {_one_line(error)}") from None


class Listing(NamedTuple):
    """The examples of a prepared dataset.

    Attributes:
        splits: Split -> (label, file name, example); the file name is empty if there is none.
    """

    title: str
    class_names: tuple[str, ...]
    splits: dict[str, list[tuple[int, str, Example]]]
    notes: tuple[str, ...] = ()


def listing(path: str) -> Listing:
    """List every example of the only prepared dataset in the folder `path`. Raises DataError."""
    builder = _builder(_library(), path, None)
    _, label = _keys(builder)
    folder = str(builder.data_path)
    splits = {}
    for name in sorted(set(builder.info.splits) & set(SPLITS)):
        records, _ = _opened(folder, name)
        found = []
        for i in range(len(records)):
            example = Example(folder, name, i)
            features = example.features()
            file_name = features.get("file_name", b"")
            found.append((int(features[label]), file_name.decode("utf-8", "replace"), example))
        splits[SPLITS[name]] = found
    names = tuple(builder.info.features[label].names)
    return Listing(builder.info.full_name, names, splits, other_splits(builder))


def is_prepared(path: pathlib.Path) -> bool:
    """Whether the folder `path` has a prepared dataset, up to three levels deep."""
    return _prepared(path, None) is not None


@functools.lru_cache
def _opened(folder: str, split: str) -> tuple[Any, str]:
    """Open a split once per process; return (records, name of the image feature)."""
    library = _library()
    builder = _builder(library, folder, None)
    image, _ = _keys(builder)
    return _records(builder, split, image, library.decode.SkipDecoding()), image


def _library() -> Any:
    try:
        import tensorflow_datasets
    except ImportError:
        raise DataError(f"source 'tfds' needs tensorflow-datasets: {INSTALL}") from None
    return tensorflow_datasets


def _builder(library: Any, path: str | None, name: str | None) -> Any:
    """Return the builder of a dataset, prepared if needed. Raises DataError."""
    root = pathlib.Path(path or DEFAULT_PATH).expanduser()
    found = _prepared(root, name)
    if found is not None:
        try:
            return library.builder_from_directory(str(found))
        except Exception as error:  # a damaged description can raise any exception
            raise DataError(f"cannot read {found / _INFO}: {_one_line(error)}") from None
    if not name:
        raise DataError(
            f"no prepared dataset ({_INFO}) in {root}; config.data.name says which one to use"
        )
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(
            f"{name} is not prepared in {root}: install TensorFlow ({INSTALL_TF}), then the same command "
            "downloads and prepares it"
        )
    return _prepare(library, name, root)


def _prepared(root: pathlib.Path, name: str | None) -> pathlib.Path | None:
    """Find the newest version of the dataset `name` ('dataset' or 'dataset/config'; None: any) in `root`."""
    below = [root / name] if name else []
    for folder in (*below, root):
        for pattern in (_INFO, f"*/{_INFO}", f"*/*/{_INFO}", f"*/*/*/{_INFO}"):
            found = sorted(folder.glob(pattern), key=_version)
            if folder == root and name:
                found = [path for path in found if name.split("/")[0] in path.parts[-4:-1]]
            if found:
                return found[-1].parent
    return None


def _version(path: pathlib.Path) -> tuple:
    """Return a sort key with which version 10.0.0 comes after 9.0.0."""
    return tuple((int(part) if part.isdigit() else -1) for part in path.parent.name.split("."))


def _prepare(library: Any, name: str, root: pathlib.Path) -> Any:
    """Download and prepare a dataset of the catalog with TensorFlow. Raises DataError."""
    log.info("preparing %s in %s", name, root)
    try:
        builder = library.builder(name, data_dir=str(root), file_format="array_record")
        builder.download_and_prepare()
    except library.core.DatasetNotFoundError:
        raise DataError(f"tensorflow-datasets has no dataset {name!r}") from None
    except Exception as error:  # the dataset's own code can raise any exception
        raise DataError(f"cannot prepare {name} in {root}: {_one_line(error)}") from None
    return builder


def _one_line(error: Exception) -> str:
    text = one_line(error) or type(error).__name__
    return text if len(text) <= 400 else text[:400] + " ..."


def _keys(builder: Any) -> tuple[str, str]:
    """Return the names of the image feature and the label feature. Raises DataError."""
    features = builder.info.features
    image, label = builder.info.supervised_keys or ("image", "label")
    if {image, label} - set(features) or not hasattr(features[label], "names"):
        raise DataError(
            f"{builder.info.full_name} has no image with a class label; its features are {', '.join(features)}"
        )
    return image, label


class _TFRecordSource:
    """A sequence of examples with encoded images, as `as_data_source` returns for ArrayRecord files."""

    def __init__(self, builder: Any, name: str, decoders: dict[str, Any]):
        self._records = TFRecords(builder.info.splits[name].filepaths)
        self._features, self._decoders = builder.info.features, decoders

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._features.deserialize_example_np(self._records[i], decoders=self._decoders)


def _records(builder: Any, name: str, image: str, skip: Any) -> Any:
    """Open a split as a sequence of the features of each example, with encoded images. Raises DataError."""
    kind = builder.info.file_format.value
    try:
        if kind == "array_record":
            records = builder.as_data_source(split=name, decoders={image: skip})
        elif kind == "tfrecord":
            records = _TFRecordSource(builder, name, {image: skip})
        else:
            raise DataError(
                f"{builder.data_path} has files of type {kind}; prepare it as array_record or tfrecord"
            )
        length = len(records)
    except ImportError as error:
        raise DataError(f"reading {builder.data_path} needs {error.name}: {INSTALL}") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"cannot read {builder.data_path}: {_one_line(error)}") from None
    if length != builder.info.splits[name].num_examples:
        expected = builder.info.splits[name].num_examples
        raise DataError(f"{builder.data_path}: {length} examples in {name}, not {expected}")
    return records


def _images(
    records: Any,
    image: str,
    about: str,
    spec: DataSpec,
    key: str | None = None,
    check: Callable[[], None] | None = None,
) -> ImageFiles:
    """Return the decoded images of `records`; `key` is the `identity` of ImageFiles."""
    return ImageFiles(
        lambda i: (f"example {i} of {about}", records[i][image]),
        len(records),
        spec.image_size,
        threads=spec.threads,
        processes=spec.workers,
        identity=key,
        title=about,
        exif=spec.exif,
        check=check,
    )


def _files(builder: Any, names: list[str], threads: int) -> digests.Files:
    """Compute digests of the files of the splits `names`. Raises DataError."""
    folder = os.fspath(builder.data_path)
    paths = [os.fspath(path) for name in names for path in builder.info.splits[name].filepaths]
    try:
        return digests.of_files(folder, [os.path.relpath(path, folder) for path in paths], threads)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None


def _content(records: Any, image: str, label: str, key: str, about: str) -> dict[str, np.ndarray]:
    """Return digests and labels of all records. They are cached, since reading all records takes long."""

    def read() -> dict[str, np.ndarray]:
        log.info("reading the labels of %s", about)
        values, labels = np.empty(len(records), np.uint64), np.empty(len(records), np.int64)
        for i in range(len(records)):
            example = records[i]
            values[i], labels[i] = digests.of_bytes(example[image]), example[label]
        return {"digests": values, "labels": labels.astype(np.int32)}

    count = (len(records),)
    return digests.cached_arrays(
        key, read, {"digests": (count, "uint64"), "labels": (count, "int32")}
    )


def _check_labels(labels: np.ndarray, about: str, num_classes: int) -> None:
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise DataError(
            f"{about}: labels from {labels.min()} to {labels.max()}, but only {num_classes} classes"
        )
