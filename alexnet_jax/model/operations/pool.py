"""Pooling (§3.4), overlapping where the window is larger than the stride."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels.windows import pool_size
from alexnet_jax.model.operations.base import Maps, Operation, Window
from alexnet_jax.specs import PoolSpec

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class Pool(Operation):
    name = "pool"
    compares = True
    has_own_line = True

    def apply(self, layer, x, call):
        from alexnet_jax.kernels import pooling

        pool = layer.spec.pool
        windows = dict(window=pool.window, stride=pool.stride, rounding=pool.rounding)
        if pool.kind == "average":
            return pooling.average_pool(x, **windows, dtype=call.dtype)
        return pooling.max_pool(x, **windows, forms=layer.forms, dtype=call.dtype)

    def output(self, node, model, inputs):
        pool, size = node.spec.pool, inputs.size
        outputs = pool_size(size, pool.window, pool.stride, pool.rounding)
        if size < pool.window:
            raise ConfigError(
                f"{node.path}.pool: window {pool.window} is larger than its {size}x{size} maps; "
                "use larger images (augment.crop_size)"
            )
        if (outputs - 1) * pool.stride >= size:
            raise ConfigError(
                f"{node.path}.pool: its last window lies beyond the {size}x{size} maps; use rounding='floor'"
            )
        return Maps(outputs, inputs.channels)

    def window(self, node):
        return Window(node.spec.pool.window, node.spec.pool.stride, 0)

    def describe(self, node, model):
        pool = node.spec.pool
        return f"{pool.kind} {pool.window}x{pool.window}/{pool.stride}"

    def faults(self, node, model):
        if node.spec.pool is None:
            yield f"{node.path}.then lists 'pool', but the layer has no pool"
        if node.spec.ops.count("pool") > 1:
            yield f"{node.path}.then lists 'pool' more than once"

    def to_onnx(self, graph, node, x):
        """Pad where a last window extends over the border; ONNX excludes the padding from maxima and means."""
        pool, size = node.spec.pool, graph.size(node)
        count = pool_size(size, pool.window, pool.stride, pool.rounding)
        over = max((count - 1) * pool.stride + pool.window - size, 0)
        kind = "MaxPool" if pool.kind == "max" else "AveragePool"
        return graph.add(node.feature, kind, x, kernel_shape=[pool.window] * 2,
                         strides=[pool.stride] * 2, pads=[0, 0, over, over])  # fmt: skip

    def to_torch(self, node, model, inputs):
        pool = node.spec.pool
        kind = "nn.MaxPool2d" if pool.kind == "max" else "nn.AvgPool2d"
        arguments = f"kernel_size={pool.window}, stride={pool.stride}"
        # The means of windows that extend over the border are of the values inside.
        arguments += ", ceil_mode=True" if pool.rounding == "ceil" else ""
        return {node.module: f"{kind}({arguments})"}

    def invert(self, x, inversion):
        return unpool(inversion.inputs, x, inversion.node.spec.pool)


def unpool(
    inputs: Float[Array, "b h w c"], x: Float[Array, "b oh ow c"], pool: PoolSpec
) -> Float[Array, "b h w c"]:
    """Project `x` from the outputs of a pool to its `inputs`: to the first maximum of a window, or spread equally."""
    import jax

    from alexnet_jax.kernels import pooling
    from alexnet_jax.kernels.forms import Forms

    windows = dict(window=pool.window, stride=pool.stride, rounding=pool.rounding)
    if pool.kind == "average":
        function = functools.partial(pooling.average_pool, **windows)
    else:  # the gradient of this form goes to the first maximum of a window, that of others to all
        function = functools.partial(pooling.max_pool, **windows, forms=Forms(pool="reduce_window"))
    return jax.vjp(function, inputs)[1](x)[0]
