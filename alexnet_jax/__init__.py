"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX and Flax."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from alexnet_jax.inference.network import Network
    from alexnet_jax.inference.trained import Step

__version__ = "0.1.0"


def load(path: str | Path, step: Step = None) -> Network:
    """Load a trained network from a run folder (default: its newest checkpoint) or a .safetensors file.

    Call predict(images), top(images) or features(images, "fc7") on the result. Raises
    alexnet_jax.errors.StorageError.
    """
    from alexnet_jax.inference import network  # imports JAX, which importing this package does not

    return network.load(path, step)
