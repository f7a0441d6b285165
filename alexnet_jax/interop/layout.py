"""Layouts of weights in other programs, in NumPy: each conversion and its exact inverse.

Ours are Flax's: convolutions [kh kw in/groups out], dense layers [in out], colors in the order R, G, B, and maps
flattened with the channel last. PyTorch, Caffe and ONNX have [out in/groups kh kw], [out in] and maps flattened with
the channel first. The groups of a convolution lie in the same order everywhere, and biases are the same.
"""

import numpy as np

from alexnet_jax.errors import CheckpointError, ConfigError
from alexnet_jax.model import geometry, operations
from alexnet_jax.model.operations.local import Local
from alexnet_jax.specs import Config, ModelSpec


def to_channels_first(spec: Config, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All tensors of a network, by our names ('params/conv1/kernel'), in the layout of the other programs."""
    return {name: _to_channels_first(spec, name, array) for name, array in tensors.items()}


def from_channels_first(path, spec: Config, tensors: dict[str, np.ndarray]) -> dict:
    """The inverse. Raises CheckpointError, which names `path`, for weights between groups that are not zero."""
    ours = {}
    for name, array in tensors.items():
        try:
            ours[name] = _from_channels_first(spec, name, array)
        except ValueError as error:
            raise CheckpointError(f"{path}: {name}: {error}") from None
    return ours


def shapes_channels_first(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors after `to_channels_first`."""
    found = {}
    for name, shape in shapes.items():
        if name.endswith("/kernel") and len(shape) == 4:
            shape = (shape[3], shape[2], *shape[:2])
        elif name.endswith("/kernel"):
            groups, inputs, outputs = (1, *shape)[-3:]
            shape = (groups * outputs, groups * inputs)
        found[name] = shape
    return found


def refuse_local(model: ModelSpec, program: str) -> None:
    """Raise ConfigError for a layer whose kernels differ from place to place."""
    for node in operations.all_nodes(model):
        if isinstance(node.operation, Local):
            raise ConfigError(
                f"layer {node.layer} has kernels of its own at every place, for which {program} has no layer; "
                "--format safetensors keeps them"
            )


def _to_channels_first(spec: Config, name: str, array: np.ndarray) -> np.ndarray:
    _, row, leaf = name.split("/")
    order = _input_order(spec, row)
    if leaf == "kernel":
        return hwio_to_oihw(array) if array.ndim == 4 else dense_to_rows(array, order)
    return array if order is None or not leaf.startswith("before_") else array[order]


def _from_channels_first(spec: Config, name: str, array: np.ndarray) -> np.ndarray:
    _, row, leaf = name.split("/")
    order = _input_order(spec, row)
    if leaf == "kernel" and array.ndim == 4:
        return oihw_to_hwio(array)
    if leaf == "kernel":
        return rows_to_dense(array, dict(spec.model.fcs)[row].groups, order)
    return array if order is None or not leaf.startswith("before_") else array[np.argsort(order)]


def _input_order(spec: Config, row: str) -> np.ndarray | None:
    """`channels_first` of the maps that a dense layer flattens; None for a layer whose inputs are units."""
    first, fc = spec.model.fcs[0]
    if row != first:
        return None
    size, channels = spec.augment.crop_size, 3
    if spec.model.convs:
        layers = geometry.layers(spec.model, size, spec.model.num_classes or 2)
        last = layers[-len(spec.model.fcs) - 1]  # the last convolution or its pool
        size, channels = last.height, last.channels
    return channels_first(size, size, channels, fc.groups)


def hwio_to_oihw(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(3, 2, 0, 1)


def oihw_to_hwio(weight: np.ndarray) -> np.ndarray:
    return weight.transpose(2, 3, 1, 0)


def swap_red_and_blue(kernel: np.ndarray) -> np.ndarray:
    """A kernel [kh kw 3 out] over R, G, B as one over B, G, R, or the other way round."""
    return kernel[:, :, ::-1]


def dense_to_rows(kernel: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """[in out], or [groups in/groups out/groups] -> [out in], its inputs in `order`.

    Groups become blocks along the diagonal of a matrix that is zero elsewhere.
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
    """The inverse of `dense_to_rows`. Raises ValueError for a weight outside the blocks that is not zero."""
    kernel = weight.T if order is None else weight.T[np.argsort(order)]
    if groups == 1:
        return kernel
    inputs, outputs = (size // groups for size in kernel.shape)
    matrix = kernel.reshape(groups, inputs, groups, outputs)
    blocks = np.stack([matrix[group, :, group] for group in range(groups)])
    if np.count_nonzero(matrix) > np.count_nonzero(blocks):
        raise ValueError(
            f"its weights join units that are in different ones of its {groups} groups"
        )
    return blocks


def channels_first(height: int, width: int, channels: int, groups: int) -> np.ndarray:
    """For each value of maps flattened [c h w], its place in our flattened maps; argsort inverts it.

    Ours are flattened [h w c], or with groups in the dense layer [groups h w c/groups], which keeps towers apart.
    """
    places = np.arange(height * width * channels)
    return places.reshape(groups, height, width, channels // groups).transpose(0, 3, 1, 2).ravel()
