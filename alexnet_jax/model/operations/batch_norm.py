"""Batch normalization (Ioffe and Szegedy, 2015), which the paper does not use."""

from __future__ import annotations

from alexnet_jax.model.operations.base import Operation
from alexnet_jax.specs import ConvSpec


class BatchNorm(Operation):
    """Normalizes each map or unit by the statistics of the batch, over all devices.

    flax's nn.BatchNorm would name its parameters conv1/BatchNorm_0/scale and bias; checkpoints and weights files have
    conv1/scale and conv1/offset.
    """

    name = "batch_norm"
    on_dense = True
    tensors = (
        ("params", "scale", "weight"), ("params", "offset", "bias"),
        ("batch_stats", "mean", "running_mean"), ("batch_stats", "var", "running_var"),
    )  # fmt: skip

    def apply(self, layer, x, call):
        import flax.linen as nn
        import jax.numpy as jnp
        from jax import lax

        def device_mean(x):
            return x if layer.axis_name is None else lax.pmean(x, layer.axis_name)

        shape, prefix, settings = (x.shape[-1],), call.node.prefix, layer.model.batch_norm
        scale = layer.param(f"{prefix}scale", nn.initializers.ones, shape, jnp.float32)
        offset = layer.param(f"{prefix}offset", nn.initializers.zeros, shape, jnp.float32)
        running_mean = layer.variable("batch_stats", f"{prefix}mean", jnp.zeros, shape)
        running_var = layer.variable("batch_stats", f"{prefix}var", jnp.ones, shape)
        x_float32 = x.astype(jnp.float32)
        mean, var = running_mean.value, running_var.value
        if call.train:
            axes = tuple(range(x.ndim - 1))
            mean = device_mean(jnp.mean(x_float32, axes))
            var = device_mean(jnp.mean(jnp.square(x_float32 - mean), axes))
            if not layer.is_initializing():
                momentum = settings.momentum
                running_mean.value = momentum * running_mean.value + (1 - momentum) * mean
                running_var.value = momentum * running_var.value + (1 - momentum) * var
        normalized = (x_float32 - mean) * lax.rsqrt(var + settings.epsilon)
        return (normalized * scale + offset).astype(x.dtype)

    def mixes_groups(self, model):
        return True  # each parameter is one array for the maps of all groups

    def parameters(self, node, model, inputs):
        return 2 * inputs.channels

    def sharding_faults(self, node, model):
        is_last = node.layer == model.layers[-1][0]
        if node.prefix and node.spec.groups == 1 and not is_last:
            yield (
                f"layer {node.layer} normalizes inputs that all towers share; put batch_norm after a layer"
            )

    def to_onnx(self, graph, node, x):
        tensors = [graph.tensor(name) for name in node.tensors]
        epsilon = graph.model.batch_norm.epsilon
        return graph.add(node.feature, "BatchNormalization", x, *tensors, epsilon=epsilon)

    def to_torch(self, node, model, inputs):
        # PyTorch's momentum is the weight of the new statistics.
        settings, kind = model.batch_norm, 2 if isinstance(node.spec, ConvSpec) else 1
        momentum = f"momentum={round(1 - settings.momentum, 12)}"
        arguments = f"{inputs.channels}, eps={settings.epsilon}, {momentum}"
        return {node.module: f"nn.BatchNorm{kind}d({arguments})"}

    def invert(self, x, inversion):
        prefix, epsilon = inversion.node.prefix, inversion.model.batch_norm.epsilon
        var = inversion.batch_stats[f"{prefix}var"] + epsilon
        return x * inversion.params[f"{prefix}scale"] / var**0.5
