"""The step that all programs of bench/peers.py compute: a config without crops, rates and images of its own."""

import numpy as np

from alexnet_jax import config
from alexnet_jax.errors import ConfigError
from alexnet_jax.specs import Config

#: The learning rate is low, because training on random images may diverge.
RATE, MOMENTUM, DECAY = 1e-4, 0.9, 5e-4


def load(name: str, batch: int, overrides: list[str]) -> Config:
    """Load a config at a batch size, without data: with 1000 classes unless it sets their number."""
    at_batch = [f"--config.train.batch_size={batch}", *overrides]
    spec = config.parse(config.load(name, at_batch), needs_images=False)
    return config.with_classes(spec, spec.model.num_classes or 1000)


def without_augmentation(name: str, batch: int, dtype: str) -> Config:
    """Load a config for images that have the input size of the network already.

    Raises ConfigError if its loss is not that of the peers.
    """
    spec = load(name, batch, [])
    if spec.train.loss != "cross_entropy":
        raise ConfigError(f"--config {name}: train.loss={spec.train.loss} has no peers")
    return load(
        name,
        batch,
        [
            f"--config.data.image_size={spec.augment.crop_size}",
            "--config.augment.resize=None",
            "--config.augment.crop=center",
            "--config.augment.flip=False",
            "--config.augment.mean=none",
            f"--config.augment.scale={1 / 255}",
            "--config.augment.color_std=0.0",
            f"--config.schedule.weights.learning_rate={RATE}",
            f"--config.optimizer.momentum={MOMENTUM}",
            f"--config.model.compute_dtype={dtype}",
        ],
    )


def examples(spec: Config) -> tuple[np.ndarray, np.ndarray]:
    """Draw random images uint8 [b s s 3] and labels int64 [b]."""
    generator = np.random.default_rng(0)
    batch, size = spec.train.batch_size, spec.data.image_size
    images = generator.integers(0, 256, (batch, size, size, 3), np.uint8)
    return images, generator.integers(0, spec.model.num_classes or 1000, batch)
