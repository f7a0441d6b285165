"""§3.2: each tower on a device of its own, and what crosses between them.

Inside `jax.shard_map`, where the maps or units of an array are split over the mesh axis of the towers.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from alexnet_jax.kernels.linear import linear
from alexnet_jax.model.geometry import whole_on_each
from alexnet_jax.model.mesh import TOWER
from alexnet_jax.specs import FCSpec, ModelSpec


def gather(x):
    """Own maps [... c/towers] -> those of all towers [... c], for a row of which each tower computes a part.

    Backward, each tower receives the sum of what all towers' parts say about its own maps.
    """
    return lax.all_gather(x, TOWER, axis=x.ndim - 1, tiled=True)


@jax.custom_jvp
def gather_for_all(x):
    """The same, for what every tower computes whole: all have the same gradient, so nothing crosses back."""
    return gather(x)


@gather_for_all.defjvp
def _gather_derivative(primals, tangents):
    apply, transpose = lambda _, part: gather(part), lambda _, gradient: (own(gradient),)
    return gather(*primals), linear(apply, transpose, (), tangents)


def own(x):
    """This tower's part of the last axis."""
    part = x.shape[-1] // lax.axis_size(TOWER)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(TOWER) * part, part, axis=x.ndim - 1)


def with_neighbors(x, before: int, after: int):
    """Own maps [... c] -> [... before + c + after]: the next ones of the towers beside this one, zeros at the ends.

    Backward, each tower receives what its neighbors say of the maps it lent. Both counts are at most c.
    """
    last = lax.axis_size(TOWER) - 1
    up = [(tower, tower + 1) for tower in range(last)]
    down = [(tower + 1, tower) for tower in range(last)]
    width, parts = x.shape[-1], [x]
    if before:
        parts.insert(0, lax.ppermute(x[..., width - before :], TOWER, up))
    if after:
        parts.append(lax.ppermute(x[..., :after], TOWER, down))
    return jnp.concatenate(parts, axis=-1)


def partition(model: ModelSpec, tree):
    """A PartitionSpec for every array of `tree`: parameters, or what has the same rows and names inside.

    Maps and units, the last axis, are split over the towers. The last row is whole on each, as both towers see
    all of fc8's inputs, unless its towers do not meet.
    """
    return jax.tree_util.tree_map_with_path(functools.partial(_partition, model), tree)


def _partition(model: ModelSpec, path, array):
    names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    if not names or array.ndim == 0:  # a count of the optimizer
        return jax.P()
    if whole_on_each(model, names[0]):
        return jax.P()
    row = dict((*model.convs, *model.fcs))[names[0]]
    if isinstance(row, FCSpec) and row.groups > 1 and names[1] == "kernel":
        return jax.P(TOWER)  # [groups inputs/groups features/groups]
    return jax.P(*[None] * (array.ndim - 1), TOWER)
