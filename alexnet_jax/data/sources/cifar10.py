"""Source 'cifar10': CIFAR-10 from its official binary files, or from class folders."""

import pathlib

import numpy as np
from jaxtyping import UInt8

from alexnet_jax.data.pipeline import digests
from alexnet_jax.data.pipeline.image_files import fitted
from alexnet_jax.data.pipeline.splits import Dataset, Split
from alexnet_jax.data.sources import folder as class_folders
from alexnet_jax.errors import DataError
from alexnet_jax.specs import DataSpec

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
LAYOUT = "data_batch_1.bin to data_batch_5.bin and test_batch.bin, with 3,073 bytes per image"
RECORD = 1 + 3 * 32 * 32


def load(spec: DataSpec) -> Dataset:
    """Read data_batch_1.bin ... in PATH or PATH/cifar-10-batches-bin, or else class folders in PATH.

    Raises DataError, also for the Python version of the files, which is pickled and not read.
    """
    root = pathlib.Path(spec.path or "").expanduser()
    for folder in (root, root / "cifar-10-batches-bin"):
        if any((folder / name).is_file() for names in FILES.values() for name in names):
            return _binary(folder, spec)
    if (root / "train").is_dir():
        return class_folders.load(spec)
    if any((root / name).exists() for name in ("data_batch_1", "cifar-10-batches-py")):
        raise DataError(
            f"{root} holds the Python (pickled) version of CIFAR-10; get the binary version, "
            "cifar-10-binary.tar.gz"
        )
    raise DataError(
        f"no CIFAR-10 in {spec.path}: there is neither data_batch_1.bin, nor a folder "
        "cifar-10-batches-bin (unpacked from cifar-10-binary.tar.gz), nor train/CLASS/*.png"
    )


def _binary(folder: pathlib.Path, spec: DataSpec) -> Dataset:
    splits = {}
    for split, names in FILES.items():
        records = np.concatenate([_records(folder / name) for name in names])
        pixels = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        splits[split] = Split(
            fitted(pixels, spec.image_size, spec.threads),
            records[:, 0].astype(np.int32),
            digests.of_rows(records[:, 1:]),
        )
    return Dataset(splits, CLASSES)


def _records(path: pathlib.Path) -> np.ndarray:
    try:
        return records(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; there should be {LAYOUT}") from None


def records(content: bytes, title: str) -> UInt8[np.ndarray, "n 3073"]:
    """Return rows of a label and 1,024 red, green and blue values each. Raises DataError."""
    if not content or len(content) % RECORD:
        raise DataError(
            f"{title} has {len(content)} bytes, but there should be {LAYOUT}: download it again"
        )
    found = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    if found[:, 0].max() > 9:
        raise DataError(
            f"{title} has the label {found[:, 0].max()}, but the classes are 0 to 9: download it again"
        )
    return found
