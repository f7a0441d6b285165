"""Noise: Gaussian, shot (Poisson) and impulse (salt and pepper). Images are float32 [b s s 3] in [0, 1]."""

import numpy as np

from alexnet_jax.data.pipeline.corruptions.draws import Draws


def gaussian_noise(x: np.ndarray, draws: Draws, scale: float, deviation: float) -> np.ndarray:
    """Add normal noise with a standard deviation, as in low light."""
    return x + np.float32(deviation) * draws.normal(*x.shape[1:])


def shot_noise(x: np.ndarray, draws: Draws, scale: float, photons: float) -> np.ndarray:
    """Draw each value from a Poisson distribution; white has an expectation of `photons`."""
    return draws.poisson(x * np.float32(photons)) / np.float32(photons)


def impulse_noise(x: np.ndarray, draws: Draws, scale: float, share: float) -> np.ndarray:
    """Set a share of the values to 0 or 1, each with probability 1/2."""
    drawn = draws.uniform(0, 1, *x.shape[1:])
    return np.where(drawn < share, np.float32(drawn < share / 2), x)
