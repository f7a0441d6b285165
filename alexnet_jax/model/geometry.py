"""Sizes, parameters, multiply-adds and receptive fields of a network, from its specs alone (no JAX)."""

import math
from typing import NamedTuple

from alexnet_jax.errors import ConfigError


class Layer(NamedTuple):
    """One row, or one row's pool, of a network."""

    name: str
    height: int
    channels: int
    parameters: int
    multiply_adds: int
    receptive_field: int
    """Side, in input pixels, of the patch that one output sees."""
    step: int
    """Distance, in input pixels, between the patches of neighboring outputs."""


def conv_size(size: int, kernel: int, stride: int, pad: tuple[int, int]) -> int:
    """Outputs per side of a convolution; rounds down, since the pad says what the border sees."""
    return (size + sum(pad) - kernel) // stride + 1


def pool_size(size: int, window: int, stride: int, rounding: str) -> int:
    """Outputs per side of a pool; 'ceil' (layer.py of the 2012 release) keeps a last clipped window."""
    if rounding == "floor":
        return (size - window) // stride + 1
    return max(math.ceil((size - window) / stride), 0) + 1


def lrn_reach(n: int) -> tuple[int, int]:
    """Maps before and after its own that a window of §3.3 over n maps sees; of an even n, one more before."""
    return n // 2, n - 1 - n // 2


def layers(model, input_size: int, num_classes: int, channels: int = 3) -> list[Layer]:
    """Each row of `model` (a ModelSpec with its switches applied) in order, pools apart.

    Raises ConfigError where a row has nothing left to look at, or where groups do not divide.
    """
    rows, size, field, step = [], input_size, 1, 1
    for name, row in model.convs:
        if channels % row.groups or row.features % row.groups:
            raise ConfigError(
                f"config.model.convs.{name}: groups={row.groups} must divide its {channels} input maps "
                f"and {row.features} features"
            )
        before = size
        size = conv_size(size, row.kernel, row.stride, row.pad)
        if size < 1:
            raise ConfigError(
                f"config.model.convs.{name}: its {row.kernel}x{row.kernel} kernel finds no place on {before}x{before} "
                f"maps padded by {row.pad}; use larger images (augment.crop_size) or a smaller kernel"
            )
        weights = row.features * row.kernel**2 * channels // row.groups
        field, step = field + (row.kernel - 1) * step, step * row.stride
        places = size**2 if row.kind == "local" else 1
        batch_norm = 2 * row.features * row.ops.count("batch_norm")
        # A local layer has its own kernels and biases at every place.
        parameters = (weights + row.features) * places + batch_norm
        rows.append(Layer(name, size, row.features, parameters, weights * size**2, field, step))
        channels = row.features
        if row.pool and "pool" in row.ops:
            before = size
            size = pool_size(size, row.pool.window, row.pool.stride, row.pool.rounding)
            if before < row.pool.window:
                raise ConfigError(
                    f"config.model.convs.{name}.pool: window {row.pool.window} is larger than its {before}x{before} "
                    f"maps; use larger images (augment.crop_size)"
                )
            if (size - 1) * row.pool.stride >= before:
                raise ConfigError(
                    f"config.model.convs.{name}.pool: its last window lies beyond the {before}x{before} maps; "
                    "use rounding='floor'"
                )
            field, step = field + (row.pool.window - 1) * step, step * row.pool.stride
            rows.append(Layer(f"{name}/pool", size, channels, 0, 0, field, step))
    inputs = channels * size**2
    for name, row in model.fcs:
        features = num_classes if row.features is None else row.features
        if inputs % row.groups or features % row.groups:
            raise ConfigError(
                f"config.model.fcs.{name}: groups={row.groups} must divide its {inputs} inputs and {features} features"
            )
        weights = inputs * features // row.groups
        batch_norm = 2 * features * row.ops.count("batch_norm") + 2 * inputs * row.pre_ops.count(
            "batch_norm"
        )
        rows.append(
            Layer(name, 1, features, weights + features + batch_norm, weights, input_size, 1)
        )
        inputs = features
    return rows


class Crossing(NamedTuple):
    """Values of one image that towers on devices of their own send each other (§3.2), in all."""

    name: str
    """The row that needs the maps or units of all towers, or "conv1/lrn", whose windows cross their borders."""
    forward: int
    backward: int


def whole_on_each(model, name: str) -> bool:
    """Whether towers on devices of their own each compute all of a row: the last, fc8, if it joins them (§3.2)."""
    return any(name == last and row.groups == 1 for last, row in model.fcs[-1:])


def crossings(model, input_size: int, num_classes: int, channels: int = 3) -> list[Crossing]:
    """Where the towers of `model` (a ModelSpec, its switches applied) meet: in the paper at conv3, fc6, fc7 and fc8.

    Forward each value goes to the other towers; backward each tower sends what it says of their values, but
    not from the last row, which all compute. Windows of the LRN that do not end with their tower need the maps
    beside each border, whose gradient comes back.
    """
    found, rows = [], (*model.convs, *model.fcs)
    sizes = {layer.name: layer for layer in layers(model, input_size, num_classes, channels)}
    for i, (name, row) in enumerate(rows):
        if i > 0 and row.groups == 1:
            before = rows[i - 1][0]
            layer = sizes.get(f"{before}/pool", sizes[before])
            values = (model.towers - 1) * layer.height**2 * layer.channels
            found.append(Crossing(name, values, 0 if whole_on_each(model, name) else values))
        layer = sizes[name]
        for operation in row.ops:
            if operation == "pool":
                layer = sizes[f"{name}/pool"]
            elif operation == "lrn" and not model.lrn_constants.within_towers:
                maps = sum(lrn_reach(model.lrn_constants.n))
                values = (model.towers - 1) * layer.height**2 * maps
                found.append(Crossing(f"{name}/lrn", values, values))
    if rows[-1][1].groups > 1:  # towers that meet in the softmax only
        found.append(Crossing("softmax", (model.towers - 1) * num_classes, 0))
    return found
