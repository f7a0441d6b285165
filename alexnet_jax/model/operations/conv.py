"""Convolutions (§3.5), with groups for the towers of §3.2."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels.windows import conv_size
from alexnet_jax.model.operations.base import Maps, Operation, Window

if TYPE_CHECKING:
    from jaxtyping import Array, Float


class Conv(Operation):
    """A convolution; with groups, the kernels of a group take only the maps of that group."""

    name = "conv"
    is_linear = True
    takes_groups = True
    tensors = (("params", "kernel", "weight"), ("params", "bias", "bias"))

    def apply(self, layer, x, call):
        from alexnet_jax.kernels import convolution, elementwise

        shape = (*2 * (layer.spec.kernel,), convolution.channels(x) // layer.groups, layer.features)
        kernel, bias = layer.weights(shape, (layer.features,))
        convolve = functools.partial(self._function(layer.spec), groups=1, forms=layer.forms)
        if isinstance(x, tuple):
            parts = [convolution.split(array, len(x)) for array in (kernel, bias)]
            return tuple(
                elementwise.add_bias(convolve(maps, weights), offsets, layer.forms)
                for maps, weights, offsets in zip(x, *parts, strict=True)
            )
        return elementwise.add_bias(convolve(x, kernel, groups=layer.groups), bias, layer.forms)

    def _function(self, spec) -> Callable[..., Float[Array, "b oh ow f"]]:
        """Return the function (x, kernel) -> convolution, without a bias."""
        from alexnet_jax.kernels import convolution

        return functools.partial(
            convolution.convolution, stride=spec.stride, pad=spec.pad, groups=spec.groups
        )

    def output(self, node, model, inputs):
        spec, (size, channels) = node.spec, inputs
        if channels % spec.groups or spec.features % spec.groups:
            raise ConfigError(
                f"{node.path}: groups={spec.groups} must divide its {channels} input maps "
                f"and {spec.features} features"
            )
        outputs = conv_size(size, spec.kernel, spec.stride, spec.pad)
        if outputs < 1:
            raise ConfigError(
                f"{node.path}: its {spec.kernel}x{spec.kernel} kernel does not fit on {size}x{size} "
                f"maps padded by {spec.pad}; use larger images (augment.crop_size) or a smaller kernel"
            )
        return Maps(outputs, spec.features)

    def parameters(self, node, model, inputs):
        return self._weights(node.spec, inputs) + node.spec.features

    def multiply_adds(self, node, model, inputs):
        return self._weights(node.spec, inputs) * self.output(node, model, inputs).size ** 2

    def _weights(self, spec, inputs: Maps) -> int:
        return spec.features * spec.kernel**2 * inputs.channels // spec.groups

    def window(self, node):
        return Window(node.spec.kernel, node.spec.stride, node.spec.pad[0])

    def describe(self, node, model):
        spec, (low, high) = node.spec, node.spec.pad
        pad = f"pad {low}" if low == high else f"pad {low},{high}"
        groups = f", {spec.groups} groups" if spec.groups > 1 else ""
        return f"{spec.kind} {spec.kernel}x{spec.kernel}/{spec.stride} {pad}{groups}"

    def to_onnx(self, graph, node, x):
        spec, (low, high) = node.spec, node.spec.pad
        weights = [graph.tensor(name) for name in node.tensors]
        return graph.add(node.feature, "Conv", x, *weights, pads=[low, low, high, high],
                         strides=[spec.stride] * 2, group=spec.groups)  # fmt: skip

    def to_torch(self, node, model, inputs):
        spec, (low, high) = node.spec, node.spec.pad
        padding = f", padding={low}" if low == high and low else ""
        groups = f", groups={spec.groups}" if spec.groups > 1 else ""
        sizes = f"{inputs.channels}, {spec.features}, kernel_size={spec.kernel}"
        conv = f"nn.Conv2d({sizes}, stride={spec.stride}{padding}{groups})"
        # nn.Conv2d pads equally at both ends.
        pad = {} if low == high else {"pad": f"nn.ZeroPad2d(({low}, {high}, {low}, {high}))"}
        return {**pad, node.module: conv}

    def invert(self, x, inversion):
        """Apply the transposed convolution, without biases."""
        import jax
        import jax.numpy as jnp

        kernel = inversion.params["kernel"]
        function = self._function(inversion.node.spec)
        zeros = jnp.zeros_like(inversion.inputs)
        return jax.vjp(lambda inputs: function(inputs, kernel), zeros)[1](x)[0]
