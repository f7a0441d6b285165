"""Dropout (§4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alexnet_jax.model.operations.base import Operation

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Key


class Dropout(Operation):
    """Sets values to zero with probability `rate` in training (§4.2); a factor compensates, then or at test time."""

    name = "dropout"
    on_dense = True

    def apply(self, layer, x, call):
        import jax.numpy as jnp

        dropout = layer.model.dropout
        keep = 1 - dropout.rate
        if dropout.rate == 0:
            return x
        if not call.train:
            return x * jnp.asarray(keep, x.dtype) if dropout.scale_at == "test" else x
        key = call.next_key()
        mask = layer.sharding.local(
            lambda shape: _mask(key, keep, shape), x.shape, over_inputs=bool(call.node.prefix)
        )
        factor = 1.0 if dropout.scale_at == "test" else 1 / keep
        return jnp.where(mask, x * jnp.asarray(factor, x.dtype), jnp.zeros_like(x))

    def mixes_groups(self, model):
        return True  # one mask is drawn for all maps

    def to_onnx(self, graph, node, x):
        dropout = graph.model.dropout
        if dropout.scale_at == "train" or dropout.rate == 0:
            return x
        keep = graph.constant(f"{node.feature}/keep", 1 - dropout.rate)
        return graph.add(node.feature, "Mul", x, keep)

    def to_torch(self, node, model, inputs):
        dropout = model.dropout
        is_scaled = dropout.scale_at == "test" and dropout.rate > 0
        return {node.module: f"{'PaperDropout' if is_scaled else 'nn.Dropout'}({dropout.rate})"}


def _mask(key: Key[Array, "*b"], keep: float, shape: tuple[int, ...]) -> Bool[Array, "b *place c"]:
    """Draw a mask that is True with probability `keep`: from the key of each example, or from one key for all."""
    import jax

    if key.ndim:
        return jax.vmap(lambda key: jax.random.bernoulli(key, keep, shape[1:]))(key)
    if (256 * keep).is_integer():  # 8 random bits a value are enough
        return jax.random.bits(key, shape, "uint8") < int(256 * keep)
    return jax.random.bernoulli(key, keep, shape)
