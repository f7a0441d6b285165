"""Locally-connected layers: convolutions with separate kernels at every position."""

from __future__ import annotations

import functools

from alexnet_jax.kernels.windows import conv_size
from alexnet_jax.model.operations.conv import Conv


class Local(Conv):
    name = "local"
    takes_groups = False

    def apply(self, layer, x, call):
        from alexnet_jax.kernels import elementwise

        spec = layer.spec
        places = tuple(conv_size(s, spec.kernel, spec.stride, spec.pad) for s in x.shape[1:3])
        shape = (*places, spec.kernel, spec.kernel, x.shape[-1], layer.features)
        kernel, bias = layer.weights(shape, (*places, layer.features), copies=len(places))
        return elementwise.add_bias(self._function(spec)(x, kernel), bias, layer.forms)

    def _function(self, spec):
        from alexnet_jax.kernels import convolution

        return functools.partial(convolution.locally_connected, stride=spec.stride, pad=spec.pad)

    def parameters(self, node, model, inputs):
        places = self.output(node, model, inputs).size ** 2
        return super().parameters(node, model, inputs) * places

    def faults(self, node, model):
        if node.spec.groups != 1:
            yield f"{node.path}: a local layer has no groups"

    def to_torch(self, node, model, inputs):
        spec = node.spec
        sizes = (
            f"{inputs.channels}, {spec.features}, out_size={self.output(node, model, inputs).size}"
        )
        windows = f"kernel_size={spec.kernel}, stride={spec.stride}, pad={spec.pad}"
        return {node.module: f"LocallyConnected({sizes}, {windows})"}

    def to_onnx(self, graph, node, x):
        return super(Conv, self).to_onnx(graph, node, x)  # raises: ONNX has no such operator
