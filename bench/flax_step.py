"""The paper's network (§3.5) and its training step, written plainly in Flax and optax."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from alexnet_jax.specs import Config

from .workload import DECAY, MOMENTUM, RATE, examples


class Plain(nn.Module):
    """The network as one would first write it."""

    dtype: Any
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def pool(x: jax.Array) -> jax.Array:
            return nn.max_pool(x, (3, 3), (2, 2))

        def conv(*settings: Any, **others: Any) -> nn.Conv:
            return nn.Conv(*settings, **others, dtype=self.dtype)

        pad = ((0, 3), (0, 3))  # 227x227, as 55x55 outputs need
        x = pool(normalize(nn.relu(conv(96, (11, 11), 4, pad)(x))))
        x = pool(normalize(nn.relu(conv(256, (5, 5), feature_group_count=2)(x))))
        x = nn.relu(conv(384, (3, 3))(x))
        x = nn.relu(conv(384, (3, 3), feature_group_count=2)(x))
        x = pool(nn.relu(conv(256, (3, 3), feature_group_count=2)(x)))
        x = x.reshape(x.shape[0], -1)
        for _ in range(2):
            x = nn.Dropout(0.5, deterministic=False)(nn.relu(nn.Dense(4096, dtype=self.dtype)(x)))
        return nn.Dense(self.classes, dtype=self.dtype)(x)


def normalize(x: jax.Array) -> jax.Array:
    """Local response normalization (§3.3) within each of two towers."""
    towers = x.reshape(*x.shape[:-1], 2, -1)
    squares = jax.lax.reduce_window(
        towers**2, 0.0, jax.lax.add, (1, 1, 1, 1, 5), (1, 1, 1, 1, 1), "SAME"
    )
    return (towers / (2 + 1e-4 * squares) ** 0.75).reshape(x.shape)


def build(spec: Config) -> tuple[Callable[[int], float], dict[str, Any]]:
    """Build the program: run(steps) -> the last loss, and facts."""
    images, labels = examples(spec)
    images = jnp.asarray(images, jnp.float32) / 255
    labels = jnp.asarray(labels, jnp.int32)
    model = Plain(spec.model.compute_dtype, spec.model.num_classes or 1000)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = jax.jit(model.init)(keys, images)
    optimizer = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, MOMENTUM))

    def loss(params: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
        logits: Any = model.apply(params, images, rngs={"dropout": key})
        losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
        return losses.mean()

    @jax.jit
    def step(params: Any, opt_state: Any, key: jax.Array, images: Any, labels: Any) -> Any:
        key, dropout_key = jax.random.split(key)
        value, gradient = jax.value_and_grad(loss)(params, images, labels, dropout_key)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, key, value

    current: Any = (params, jax.jit(optimizer.init)(params), jax.random.key(2))

    def run(steps: int) -> float:
        nonlocal current
        value = jnp.zeros(())
        for _ in range(steps):
            *current, value = step(*current, images, labels)
        jax.block_until_ready(current)
        return float(value)

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return run, {"version": f"jax {jax.__version__}", "parameters": count}
