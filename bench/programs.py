"""The programs that bench/peers.py compares, each run in a process of its own.

    python -m bench.programs NAME --batch 32 --threads 2 --device cpu --dtype float32

answers bench/alternate.py. All compute the paper's network (§3.5) and update it as §5 says: groups, response
normalization within towers, dropout, cross-entropy, momentum and decay. Random images. Weights are float32.
"""

import argparse
import functools
from typing import Any

from bench import alternate

CLASSES, SIZE = 1000, 224
RATE, MOMENTUM, DECAY = 1e-4, 0.9, 5e-4  # a low rate: random images teach nothing and may diverge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PROGRAMS)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
    options = parser.parse_args()
    alternate.serve(
        lambda: PROGRAMS[options.name](options), waits=options.name in ("ours", "plain")
    )


def _examples(batch: int):
    """Images uint8 [b s s 3] and labels int64 [b]."""
    import numpy as np

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
    return images, random.integers(0, CLASSES, batch)


def _ours(options):
    """alexnet_jax as `main` runs it, but for the crops: images come at the size of the network."""
    from bench import ours

    spec = ours.load(
        "configs/paper.py",
        options.batch,
        [
            f"--config.data.image_size={SIZE}",
            "--config.augment.crop=center",
            "--config.augment.flip=False",
            "--config.augment.mean=none",
            f"--config.augment.scale={1 / 255}",
            "--config.augment.color_std=0.0",
            f"--config.schedule.weights.learning_rate={RATE}",
            f"--config.model.compute_dtype={options.dtype}",
        ],
    )
    return ours.program(spec)


def _plain(options):
    """The same network as one writes it first: Flax and optax as they come, no options."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    def normalize(x):
        towers = x.reshape(*x.shape[:-1], 2, -1)
        squares = jax.lax.reduce_window(
            towers**2, 0.0, jax.lax.add, (1, 1, 1, 1, 5), (1, 1, 1, 1, 1), "SAME"
        )
        return (towers / (2 + 1e-4 * squares) ** 0.75).reshape(x.shape)

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            def pool(x):
                return nn.max_pool(x, (3, 3), (2, 2))

            def conv(*settings, **others):
                return nn.Conv(*settings, **others, dtype=options.dtype)

            side = ((0, 3), (0, 3))
            x = pool(normalize(nn.relu(conv(96, (11, 11), 4, side)(x))))
            x = pool(normalize(nn.relu(conv(256, (5, 5), feature_group_count=2)(x))))
            x = nn.relu(conv(384, (3, 3))(x))
            x = nn.relu(conv(384, (3, 3), feature_group_count=2)(x))
            x = pool(nn.relu(conv(256, (3, 3), feature_group_count=2)(x)))
            x = x.reshape(x.shape[0], -1)
            for _ in range(2):
                x = nn.Dropout(0.5, deterministic=False)(
                    nn.relu(nn.Dense(4096, dtype=options.dtype)(x))
                )
            return nn.Dense(CLASSES, dtype=options.dtype)(x)

    images, labels = _examples(options.batch)
    images = jnp.asarray(images, jnp.float32) / 255
    labels = jnp.asarray(labels, jnp.int32)
    model = Plain()
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = jax.jit(model.init)(keys, images)
    optimizer = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, MOMENTUM))

    def loss(params, images, labels, key):
        logits: Any = model.apply(params, images, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), labels
        ).mean()

    @jax.jit
    def step(params, velocity, key, images, labels):
        key, dropout_key = jax.random.split(key)
        value, gradient = jax.value_and_grad(loss)(params, images, labels, dropout_key)
        updates, velocity = optimizer.update(gradient, velocity, params)
        return optax.apply_updates(params, updates), velocity, key, value

    current = (params, jax.jit(optimizer.init)(params), jax.random.key(2))

    def run(steps):
        nonlocal current
        for _ in range(steps):
            *current, value = step(*current, images, labels)
        jax.block_until_ready(current)
        return float(value)

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return run, {"version": f"jax {jax.__version__}", "parameters": count}


def _torch(options, *, mode: str | None, written: bool):
    from bench import torch_step

    examples = _examples(options.batch)
    return torch_step.build(options, *examples, mode=mode, written=written)


MODES = {"eager": None, "compile": "default", "graph": "reduce-overhead", "max": "max-autotune"}
PROGRAMS = {"ours": _ours, "plain": _plain}
for name, mode in MODES.items():
    PROGRAMS[name] = functools.partial(_torch, mode=mode, written=False)
    PROGRAMS[f"{name}-written"] = functools.partial(_torch, mode=mode, written=True)

if __name__ == "__main__":
    main()
