"""Cutout (DeVries and Taylor, 2017): replace a random square, half the crop's side, with the mean color."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from alexnet_jax.data.pipeline.draws import Draws


def apply(crops: Float[Array, "b c c 3"], draws: Draws) -> Float[Array, "b c c 3"]:
    """Set a random square of each crop to 0, the mean of centered pixels; it may extend past the border."""
    side = crops.shape[1]
    centers = (draws.uniform("cutout", 2) + 1) / 2 * side
    inside = jnp.abs(jnp.arange(side) + 0.5 - centers[..., None]) < side / 4  # [b 2 c]
    square = inside[:, 0, :, None] & inside[:, 1, None, :]
    return jnp.where(square[..., None], 0, crops)
