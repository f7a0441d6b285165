"""Conversion between Flax's weight layout and the channels-first layout of PyTorch, Caffe and ONNX, in NumPy.

Each conversion has an exact inverse.

Flax: convolutions [kh kw in/groups out], dense layers [in out], colors in the order R, G, B, feature maps flattened
with the channel last. Channels-first: [out in/groups kh kw], [out in], feature maps flattened with the channel first.
The order of the groups of a convolution and the biases are the same in both.
"""

import math
import os

import numpy as np

from alexnet_jax.errors import CheckpointError, ConfigError
from alexnet_jax.model import geometry, operations
from alexnet_jax.model.operations.local import Local
from alexnet_jax.specs import Config, ModelSpec


def to_channels_first(spec: Config, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert all tensors of a network, given by their Flax names ('params/conv1/kernel'), to channels-first."""
    return {name: _to_channels_first(spec, name, array) for name, array in tensors.items()}


def from_channels_first(
    path: str | os.PathLike, spec: Config, tensors: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Convert the tensors of the file `path` from channels-first to Flax; the inverse of `to_channels_first`.

    Raises:
      CheckpointError: A dense layer with groups has nonzero weights between different groups.
    """
    converted = {}
    for name, array in tensors.items():
        try:
            converted[name] = _from_channels_first(spec, name, array)
        except ValueError as error:
            raise CheckpointError(f"{path}: {name}: {error}") from None
    return converted


def to_torch(spec: Config, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert all tensors of a network to the layouts of the modules of interop/pytorch.py.

    They are channels-first, but a dense layer with groups has [groups out/groups in/groups], and a local layer
    [positions in*kh*kw out], with biases [positions 1 out].
    """
    return {name: _to_torch(spec, name, array) for name, array in tensors.items()}


def from_torch(
    spec: Config, tensors: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Invert `to_torch`; `shapes` are those of Flax."""
    return {name: _from_torch(spec, name, array, shapes[name]) for name, array in tensors.items()}


def shapes_torch(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that `to_torch` gives tensors of these shapes."""
    converted = shapes_channels_first(shapes)
    for name, shape in shapes.items():
        if len(shape) == 6:
            height, width, *patch, outputs = shape
            converted[name] = (height * width, math.prod(patch), outputs)
        elif len(shape) == 3 and name.endswith("/kernel"):
            groups, inputs, outputs = shape
            converted[name] = (groups, outputs, inputs)
        elif len(shape) == 3:
            converted[name] = (shape[0] * shape[1], 1, shape[2])
    return converted


def shapes_channels_first(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that `to_channels_first` gives tensors of these shapes."""
    converted = {}
    for name, shape in shapes.items():
        if name.endswith("/kernel") and len(shape) == 4:
            shape = (shape[3], shape[2], *shape[:2])
        elif name.endswith("/kernel"):
            groups, inputs, outputs = (1, *shape)[-3:]
            shape = (groups * outputs, groups * inputs)
        converted[name] = shape
    return converted


def refuse_local(model: ModelSpec, program: str) -> None:
    """Raise ConfigError if the model has a locally connected layer."""
    for node in operations.all_nodes(model):
        if isinstance(node.operation, Local):
            raise ConfigError(
                f"layer {node.layer} is locally connected (a separate kernel at each position), and {program} has no "
                "such layer; use --format safetensors"
            )


def _to_channels_first(spec: Config, name: str, array: np.ndarray) -> np.ndarray:
    _, layer, leaf = name.split("/")
    order = input_order(spec, layer)
    if leaf == "kernel":
        return hwio_to_oihw(array) if array.ndim == 4 else dense_to_rows(array, order)
    return array if order is None or not leaf.startswith("before_") else array[order]


def _from_channels_first(spec: Config, name: str, array: np.ndarray) -> np.ndarray:
    _, layer, leaf = name.split("/")
    order = input_order(spec, layer)
    if leaf == "kernel" and array.ndim == 4:
        return oihw_to_hwio(array)
    if leaf == "kernel":
        return rows_to_dense(array, dict(spec.model.fcs)[layer].groups, order)
    return array if order is None or not leaf.startswith("before_") else array[np.argsort(order)]


def _to_torch(spec: Config, name: str, array: np.ndarray) -> np.ndarray:
    _, layer, leaf = name.split("/")
    if array.ndim == 6:
        height, width, *_, outputs = array.shape
        return array.transpose(0, 1, 4, 2, 3, 5).reshape(height * width, -1, outputs)
    if array.ndim == 3 and leaf == "kernel":
        order = input_order(spec, layer)
        rows = array.reshape(-1, array.shape[2])
        return (rows if order is None else rows[order]).reshape(array.shape).swapaxes(1, 2)
    if array.ndim == 3:
        return array.reshape(-1, 1, array.shape[2])
    return _to_channels_first(spec, name, array)


def _from_torch(spec: Config, name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    _, layer, leaf = name.split("/")
    if len(shape) == 6:
        height, width, *kernel, inputs, outputs = shape
        patches = array.reshape(height, width, inputs, *kernel, outputs)
        return patches.transpose(0, 1, 3, 4, 2, 5)
    if len(shape) == 3 and leaf == "kernel":
        order = input_order(spec, layer)
        rows = array.swapaxes(1, 2).reshape(-1, shape[2])
        return (rows if order is None else rows[np.argsort(order)]).reshape(shape)
    return array.reshape(shape) if len(shape) == 3 else _from_channels_first(spec, name, array)


def input_order(spec: Config, layer: str) -> np.ndarray | None:
    """Return `channels_first` for the first dense layer, which flattens feature maps, and None for other layers."""
    first, fc = spec.model.fcs[0]
    if layer != first:
        return None
    size, channels = spec.augment.crop_size, 3
    if spec.model.convs:
        layers = geometry.layers(spec.model, size, spec.model.num_classes or 2)
        last = layers[-len(spec.model.fcs) - 1]  # the last convolution or its pool
        size, channels = last.height, last.channels
    return channels_first(size, size, channels, fc.groups)


def hwio_to_oihw(kernel: np.ndarray) -> np.ndarray:
    """Convert a kernel of a convolution to channels-first."""
    return kernel.transpose(3, 2, 0, 1)


def oihw_to_hwio(weight: np.ndarray) -> np.ndarray:
    """Convert a channels-first kernel of a convolution to Flax."""
    return weight.transpose(2, 3, 1, 0)


def swap_red_and_blue(kernel: np.ndarray) -> np.ndarray:
    """Convert a kernel [kh kw 3 out] from RGB inputs to BGR inputs, or back."""
    return kernel[:, :, ::-1]


def dense_to_rows(kernel: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """Convert a dense kernel [in out] or [groups in/groups out/groups] to [out in], with the inputs in `order`.

    A kernel with groups becomes a block-diagonal matrix.
    """
    if kernel.ndim == 3:
        groups, inputs, outputs = kernel.shape
        matrix = np.zeros((groups, inputs, groups, outputs), kernel.dtype)
        for group in range(groups):
            matrix[group, :, group] = kernel[group]
        kernel = matrix.reshape(groups * inputs, groups * outputs)
    return (kernel if order is None else kernel[order]).T


def rows_to_dense(
    weight: np.ndarray, groups: int = 1, order: np.ndarray | None = None
) -> np.ndarray:
    """Invert `dense_to_rows`. Raises ValueError if a weight outside the diagonal blocks is not zero."""
    kernel = weight.T if order is None else weight.T[np.argsort(order)]
    if groups == 1:
        return kernel
    inputs, outputs = (size // groups for size in kernel.shape)
    matrix = kernel.reshape(groups, inputs, groups, outputs)
    blocks = np.stack([matrix[group, :, group] for group in range(groups)])
    if np.count_nonzero(matrix) > np.count_nonzero(blocks):
        raise ValueError(f"nonzero weights between different groups ({groups} groups)")
    return blocks


def channels_first(height: int, width: int, channels: int, groups: int) -> np.ndarray:
    """Return, for each value of feature maps flattened as [c h w], its index in Flax's order; argsort inverts it.

    Flax's order is [h w c], or [groups h w c/groups] if the dense layer has groups: each tower is then contiguous.
    """
    indices = np.arange(height * width * channels)
    return indices.reshape(groups, height, width, channels // groups).transpose(0, 3, 1, 2).ravel()
