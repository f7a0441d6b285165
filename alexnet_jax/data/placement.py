"""From examples to a batch on the devices: sent with each step, or gathered from images that are all there."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import parallel
from alexnet_jax.data.batches import Batch, batch
from alexnet_jax.data.splits import Split
from alexnet_jax.errors import ConfigError

AUTO_SHARE, LARGEST_SHARE = 0.25, 0.8
"""Of a device's memory: up to the first, 'auto' places the images there; above the second they do not fit."""


def placed(
    split: Split, mesh: jax.sharding.Mesh, placement: str
) -> Callable[[np.ndarray, np.ndarray], Batch]:
    """f(indices, epochs) -> the Batch of these examples, split over the data axis of `mesh`.

    placement: 'host' reads and sends the images of each batch; 'device' puts all of them on the devices, a share
    on each, and gathers there; 'auto' is 'device' where they take at most AUTO_SHARE of its memory, and never on
    CPU, where it gains nothing. The batches are the same. Raises ConfigError if 'device' cannot be.
    """
    sharding = jax.NamedSharding(mesh, jax.P(parallel.DATA))
    if not on_device(split, mesh, placement):
        return lambda indices, epochs: jax.device_put(batch(split, indices, epochs), sharding)
    gather = _gatherer(split, mesh)

    def gathered(indices: np.ndarray, epochs: np.ndarray) -> Batch:
        labels, numbers, used = jax.device_put((split.labels[indices], indices, epochs), sharding)
        return Batch(gather(indices), labels, numbers, used)

    return gathered


def on_device(split: Split, mesh: jax.sharding.Mesh, placement: str) -> bool:
    """Whether `placed` puts all images of `split` on the devices. Raises ConfigError."""
    if placement == "host":
        return False
    each = len(split.labels) * split.images[np.arange(1)].nbytes / mesh.size
    statistics = mesh.devices.flat[0].memory_stats() or {}  # CPUs have none
    limit = statistics.get("bytes_limit")
    if placement == "auto":
        return limit is not None and each <= AUTO_SHARE * limit
    if limit is not None and each > LARGEST_SHARE * limit:
        raise ConfigError(
            f"config.data.placement='device': the images take {each / 1e9:.1f} GB of each device, which has "
            f"{limit / 1e9:.1f} GB; use 'host'"
        )
    return True


def _gatherer(split: Split, mesh: jax.sharding.Mesh) -> Callable:
    """f(indices [b]) -> uint8 [b s s 3] split over the devices, each of which holds a share of all images."""
    devices = mesh.size
    share = -(-len(split.labels) // devices)
    first = split.images[np.arange(1)]
    pool = np.zeros((share * devices, *first.shape[1:]), np.uint8)
    for start in range(0, len(split.labels), 4096):
        numbers = np.arange(start, min(start + 4096, len(split.labels)))
        pool[numbers] = split.images[numbers]
    pool = jax.device_put(pool, jax.NamedSharding(mesh, jax.P(parallel.DATA)))

    def gather(pool, indices):
        if devices == 1:
            return pool[indices]
        # Each device has some of the batch and adds zeros for the rest; then each receives its part of the sum.
        mine = indices - jax.lax.axis_index(parallel.DATA) * share
        here = (mine >= 0) & (mine < share)
        found = jnp.where(here[:, None, None, None], pool[jnp.where(here, mine, 0)], 0)
        return jax.lax.psum_scatter(found, parallel.DATA, scatter_dimension=0, tiled=True)

    mapped = jax.jit(
        jax.shard_map(
            gather,
            mesh=mesh,
            in_specs=(jax.P(parallel.DATA), jax.P()),
            out_specs=jax.P(parallel.DATA),
            check_vma=False,
        )
    )
    replicated = jax.NamedSharding(mesh, jax.P())
    return lambda indices: mapped(pool, jax.device_put(indices, replicated))
