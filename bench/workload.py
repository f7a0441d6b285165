"""Input size, optimizer settings and random images shared by all programs of bench/peers.py."""

import numpy as np

CLASSES, SIZE = 1000, 224
#: The learning rate is low, because training on random images may diverge.
RATE, MOMENTUM, DECAY = 1e-4, 0.9, 5e-4


def examples(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw random images uint8 [b s s 3] and labels int64 [b]."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
    return images, generator.integers(0, CLASSES, batch)
