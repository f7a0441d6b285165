"""Norms of arrays that may be split over devices, inside jax.shard_map."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from alexnet_jax.kernels import elementwise
from alexnet_jax.kernels.forms import Forms


@dataclass(frozen=True)
class Norms:
    """Computes norms of whole arrays from the parts on each device.

    Attributes:
        placement: The PartitionSpec of each array; at most one axis of an array is split.
    """

    placement: Any
    forms: Forms

    def each(self, tree: Any) -> Any:
        """Return the norm of each array of `tree`."""

        def norm(leaf: Array, where: jax.P) -> Float[Array, ""]:
            total, axis = elementwise.sum_of_squares(leaf, self.forms), _axis(where)
            return jnp.sqrt(total if axis is None else jax.lax.psum(total, axis))

        return jax.tree.map(norm, tree, self.placement)

    def total(self, tree: Any) -> Float[Array, ""]:
        """Return the norm over all arrays of `tree`."""
        sums: dict[str | None, Any] = {None: jnp.float32(0)}
        for leaf, where in zip(jax.tree.leaves(tree), jax.tree.leaves(self.placement), strict=True):
            axis = _axis(where)
            square = elementwise.sum_of_squares(leaf, self.forms)
            sums[axis] = sums.get(axis, jnp.float32(0)) + square
        whole = sums.pop(None)
        return jnp.sqrt(whole + sum(jax.lax.psum(part, axis) for axis, part in sums.items()))


def _axis(where: jax.P) -> Any:
    """Return the mesh axis over which an array is split; None if it is replicated."""
    return next(filter(None, where), None)
