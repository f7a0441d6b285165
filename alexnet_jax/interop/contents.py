"""What a weights file of any program holds: tensors, metadata and, of Caffe's, its layers. Nothing is executed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from alexnet_jax import files
from alexnet_jax.errors import CheckpointError, ConfigError
from alexnet_jax.interop import caffe, onnx, torchvision

#: What wrote a file: ours is alexnet_jax's own, with its configuration in the metadata.
Format = Literal["ours", "state dict", "npz", "caffe", "onnx"]


class Contents(NamedTuple):
    path: Path
    format: Format
    #: In the layout of the program that wrote the file.
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    #: Of a .caffemodel.
    net: caffe.Net | None = None


def read(path: str | Path, suffixes: Sequence[str] = ()) -> Contents:
    """Read a weights file of any program by its suffix.

    Args:
        suffixes: Those of the format, if it is known; a file with another suffix is read like one with the first.

    Raises:
        CheckpointError: The file is missing or damaged.
        ConfigError: The suffix is unknown, or it is a .pth file and torch is not installed or too old.
    """
    path = Path(path)
    suffix = suffixes[0] if suffixes and path.suffix not in suffixes else path.suffix
    if suffix not in READERS:
        raise ConfigError(f"{path}: weights are read from files that end in {', '.join(READERS)}")
    if fault := files.not_regular(path):
        raise CheckpointError(f"cannot read {path}: {fault}")
    if not path.exists():
        raise CheckpointError(f"there is no file {path}")
    return READERS[suffix](path)


def _state_dict(path: Path) -> Contents:
    tensors, metadata = torchvision.read(path)
    is_ours = metadata.get("format") == "alexnet_jax"
    return Contents(path, "ours" if is_ours else "state dict", tensors, metadata)


def _npz(path: Path) -> Contents:
    return Contents(path, "npz", files.read_all_arrays(path, error=CheckpointError), {})


def _caffe(path: Path) -> Contents:
    net = caffe.read_net(path)
    tensors = net.tensors()
    for name, array in tensors.items():
        while array.ndim > 1 and len(array) == 1:  # in old files every blob has four axes
            array = array[0]
        tensors[name] = array
    return Contents(path, "caffe", tensors, {}, net)


def _onnx(path: Path) -> Contents:
    return Contents(path, "onnx", *onnx.read(path))


#: Suffix of a file -> its reader.
READERS: dict[str, Callable[[Path], Contents]] = {
    ".safetensors": _state_dict,
    ".pth": _state_dict,
    ".pt": _state_dict,
    ".npz": _npz,
    ".caffemodel": _caffe,
    ".onnx": _onnx,
}
