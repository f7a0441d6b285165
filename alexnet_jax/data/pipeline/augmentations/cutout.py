"""A square of half the side of the crop, at a random place, becomes the mean (DeVries and Taylor, 2017)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from alexnet_jax.data.pipeline.draws import Draws


def apply(crops: Float[Array, "b c c 3"], draws: Draws) -> Float[Array, "b c c 3"]:
    """Set the square to 0, the mean of centered crops; it may reach over the border."""
    side = crops.shape[1]
    centers = (draws.uniform("cutout", 2) + 1) / 2 * side
    inside = jnp.abs(jnp.arange(side) + 0.5 - centers[..., None]) < side / 4  # [b 2 c]
    square = inside[:, 0, :, None] & inside[:, 1, None, :]
    return jnp.where(square[..., None], 0, crops)
