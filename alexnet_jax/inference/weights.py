"""Read, write and check the tensors and metadata of .safetensors files."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import files
from alexnet_jax.errors import CheckpointError, StorageError
from alexnet_jax.specs import Config

#: Types that NumPy supports; a file with another type is rejected before its tensors are read.
_READABLE = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
#: The tensors and the metadata of a file.
Content = tuple[dict[str, np.ndarray], dict[str, str]]


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a .safetensors file; equal tensors and metadata give equal bytes. Raises StorageError."""
    import safetensors.numpy

    # safetensors writes the memory of an array as it is, so the array must be contiguous.
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    encoded = _with_sorted_metadata(safetensors.numpy.save(tensors), metadata)
    try:
        files.write_atomically(path, encoded)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None


def read(path: str | Path) -> Content:
    """Read all tensors and the metadata of a .safetensors file. Raises CheckpointError."""
    with _open(path) as file:
        names = list(file.keys())
        for name in names:
            dtype = file.get_slice(name).get_dtype()
            if dtype not in _READABLE:
                raise CheckpointError(f"{path}: {name} is {dtype}, not float32")
        return {name: file.get_tensor(name) for name in names}, file.metadata() or {}


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the metadata of a .safetensors file. Raises CheckpointError."""
    with _open(path) as file:
        return file.metadata() or {}


@contextlib.contextmanager
def _open(path: str | Path) -> Iterator[Any]:
    """Open a .safetensors file. Raises CheckpointError, also for errors of reading from it."""
    import safetensors

    if fault := files.not_regular(path):
        raise CheckpointError(f"cannot read {path}: {fault}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}") from None
    except (safetensors.SafetensorError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None


def check_shapes(
    path: str | Path, tensors: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]]
) -> None:
    """Raise CheckpointError unless `tensors` are finite float32 arrays with exactly the `expected` names and shapes."""
    for name in sorted(expected.keys() - tensors.keys()):
        raise CheckpointError(f"{path} has no tensor {name}")
    for name, array in tensors.items():
        if name not in expected:
            raise CheckpointError(f"{path} has a tensor {name}, which its network does not have")
        if array.shape != expected[name]:
            raise CheckpointError(
                f"{path}: {name} has shape {array.shape}, but its network has {expected[name]}"
            )
        if array.dtype != np.float32:
            raise CheckpointError(f"{path}: {name} is {array.dtype}, not float32")
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} is not finite")


def shapes(spec: Config) -> dict[str, tuple[int, ...]]:
    """Map the names of a network's parameters and running averages, such as 'params/conv1/kernel', to their shapes."""
    from alexnet_jax.model import alexnet

    shapes = alexnet.shapes(spec.model, spec.augment.crop_size)
    return {name: leaf.shape for name, leaf in files.flatten(shapes).items()}


def _with_sorted_metadata(encoded: bytes, metadata: dict[str, str]) -> bytes:
    """Add metadata in sorted order to a safetensors file, because the library's order changes between runs."""
    size = int.from_bytes(encoded[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(encoded[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + encoded[8 + size :]
