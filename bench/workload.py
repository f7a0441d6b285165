"""The network, optimizer settings and random images that all programs of bench/peers.py share."""

import numpy as np

CLASSES, SIZE = 1000, 224
#: A low learning rate: with random images training may diverge.
RATE, MOMENTUM, DECAY = 1e-4, 0.9, 5e-4


def examples(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images uint8 [b s s 3] and labels int64 [b]."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
    return images, random.integers(0, CLASSES, batch)
