"""Batch normalization (Ioffe and Szegedy, 2015), which came after the paper."""

from __future__ import annotations

from alexnet_jax.model.operations.base import Operation


class BatchNorm(Operation):
    """Normalizes each map or unit by the statistics of the batch, over all devices.

    Not flax's nn.BatchNorm: its parameters would be conv1/BatchNorm_0/scale and bias, where checkpoints and weights
    files have conv1/scale and offset.
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

        def over_devices(mean):
            return mean if layer.axis_name is None else lax.pmean(mean, layer.axis_name)

        shape, prefix, settings = (x.shape[-1],), call.node.prefix, layer.model.batch_norm
        scale = layer.param(f"{prefix}scale", nn.initializers.ones, shape, jnp.float32)
        offset = layer.param(f"{prefix}offset", nn.initializers.zeros, shape, jnp.float32)
        running_mean = layer.variable("batch_stats", f"{prefix}mean", jnp.zeros, shape)
        running_var = layer.variable("batch_stats", f"{prefix}var", jnp.ones, shape)
        wide = x.astype(jnp.float32)
        mean, var = running_mean.value, running_var.value
        if call.train:
            axes = tuple(range(x.ndim - 1))
            mean = over_devices(jnp.mean(wide, axes))
            var = over_devices(jnp.mean(jnp.square(wide - mean), axes))
            if not layer.is_initializing():
                keep = settings.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        normal = (wide - mean) * lax.rsqrt(var + settings.epsilon)
        return (normal * scale + offset).astype(x.dtype)

    def mixes_groups(self, model):
        return True  # its parameters are one array for all maps

    def parameters(self, node, model, inputs):
        return 2 * inputs.channels

    def sharding_faults(self, node, model):
        is_last = node.layer == model.layers[-1][0]
        if node.prefix and node.spec.groups == 1 and not is_last:
            yield f"layer {node.layer} normalizes what all towers see; put batch_norm after a layer"

    def to_onnx(self, graph, node, x):
        tensors = [
            graph.tensor(f"{tree}/{node.layer}/{node.prefix}{name}")
            for tree, name, _ in self.tensors
        ]
        epsilon = graph.model.batch_norm.epsilon
        return graph.add(node.feature, "BatchNormalization", x, *tensors, epsilon=epsilon)

    def invert(self, x, inversion):
        prefix, epsilon = inversion.node.prefix, inversion.model.batch_norm.epsilon
        var = inversion.batch_stats[f"{prefix}var"] + epsilon
        return x * inversion.params[f"{prefix}scale"] / var**0.5
