"""Fully-connected layers (§3.5), with groups for towers that are not connected."""

from __future__ import annotations

from alexnet_jax.errors import ConfigError
from alexnet_jax.model.operations.base import Maps, Operation
from alexnet_jax.specs import FCSpec, ModelSpec


class Dense(Operation):
    """A fully-connected layer; with groups, the units of a group take only the inputs of that group."""

    name = "dense"
    is_linear = True
    tensors = (("params", "kernel", "weight"), ("params", "bias", "bias"))

    def apply(self, layer, x, call):
        import jax.numpy as jnp

        from alexnet_jax.kernels import convolution, elementwise

        inputs, features, groups = x.shape[-1], layer.features, layer.groups
        shape: tuple[int, ...] = (inputs, features)
        if layer.spec.groups > 1:
            shape = (groups, inputs // groups, features // groups)
        kernel, bias = layer.weights(shape, (features,), copies=len(shape) - 2)
        # Logits stay float32: rounding them to bfloat16 would change the loss noticeably.
        y = convolution.dense(x, kernel, jnp.float32 if layer.is_last else x.dtype)
        return elementwise.add_bias(y, bias, layer.forms)

    def output(self, node, model, inputs):
        features = features_of(node.spec, model)
        if inputs.channels % node.spec.groups or features % node.spec.groups:
            raise ConfigError(
                f"{node.path}: groups={node.spec.groups} must divide its {inputs.channels} inputs "
                f"and {features} features"
            )
        return Maps(1, features)

    def parameters(self, node, model, inputs):
        return self.multiply_adds(node, model, inputs) + features_of(node.spec, model)

    def multiply_adds(self, node, model, inputs):
        return inputs.channels * features_of(node.spec, model) // node.spec.groups

    def describe(self, node, model):
        return f"{node.spec.groups} groups" if node.spec.groups > 1 else ""

    def to_onnx(self, graph, node, x):
        weights = [graph.tensor(name) for name in node.tensors]
        return graph.add(node.feature, "Gemm", x, *weights, transB=1)

    def to_torch(self, node, model, inputs):
        sizes = f"{inputs.channels}, {features_of(node.spec, model)}"
        if node.spec.groups > 1:
            return {node.module: f"GroupedLinear({sizes}, groups={node.spec.groups})"}
        return {node.module: f"nn.Linear({sizes})"}


def features_of(spec: FCSpec, model: ModelSpec) -> int:
    """Return the number of outputs of a layer; the last layer has one output per class. Raises ConfigError."""
    features = model.num_classes if spec.features is None else spec.features
    if features is None:
        raise ConfigError("config.model.num_classes is not set")
    return features
