"""From examples to a batch on the devices: sent with each step, or gathered from images that are all there."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.data.pipeline.batches import Batch
from alexnet_jax.data.pipeline.splits import Split
from alexnet_jax.errors import ConfigError
from alexnet_jax.model import mesh as parallel
from alexnet_jax.run import processes

AUTO_SHARE, LARGEST_SHARE = 0.25, 0.8
"""Of a device's memory: up to the first, 'auto' places the images there; above the second they do not fit."""


class Pool(NamedTuple):
    """All images of a split on the devices of a mesh, a share on each."""

    images: jax.Array
    """uint8 [n s s 3], split over the data axis; the last is repeated until n divides over the devices."""
    gather: Callable[[jax.Array, jax.Array], jax.Array]
    """Inside shard_map: (this device's images, indices [b] of a whole batch) -> its share of them."""


class Placed(NamedTuple):
    """How the batches of a split come to the devices: `finish(read(indices, epochs))` is a Batch.

    Only `finish` lets devices exchange data. It belongs to the thread that dispatches the steps: several devices, or
    processes, wait for each other for ever where they begin such exchanges in different orders.
    """

    read: Callable[[np.ndarray, np.ndarray], Batch]
    """What can be done ahead, in any thread."""
    finish: Callable[[Batch], Batch]
    pool: Pool | None
    """Where all images are on the devices."""
    read_steps: Callable[[np.ndarray, np.ndarray], Batch]
    """Of several steps, from indices and epochs [k b]: what a step with `pool` takes."""


def placed(split: Split, mesh: jax.sharding.Mesh, placement: str) -> Placed:
    """The examples of `split`, each batch split over the data axis of `mesh`.

    placement: 'host' reads and sends the images of each batch; 'device' puts all of them on the devices, a share
    on each, and gathers there; 'auto' is 'device' where they take at most AUTO_SHARE of its memory, and never on
    CPU, where it gains nothing. The batches are the same. Raises ConfigError if 'device' cannot be.
    """
    sharding = jax.NamedSharding(mesh, jax.P(parallel.DATA))
    images: Callable = functools.partial(sent, split.images, mesh)
    pool = gather = None
    if on_device(split, mesh, placement):
        replicated = jax.NamedSharding(mesh, jax.P())
        images = functools.partial(processes.to_devices, sharding=replicated)
        pool = _pool(split, mesh)
        gather = _gatherer(pool, mesh)

    def read(indices: np.ndarray, epochs: np.ndarray) -> Batch:
        others = (split.labels[indices], indices, epochs)
        return Batch(images(indices), *processes.to_devices(others, sharding))

    def read_steps(indices: np.ndarray, epochs: np.ndarray) -> Batch:
        numbers = processes.to_devices(indices, jax.NamedSharding(mesh, jax.P()))
        others = (split.labels[indices], indices, epochs)
        each = jax.NamedSharding(mesh, jax.P(None, parallel.DATA))
        return Batch(numbers, *processes.to_devices(others, each))

    def finish(batch: Batch) -> Batch:
        return batch._replace(images=gather(batch.images)) if gather else batch

    return Placed(read, finish, pool, read_steps)


def sent(images, mesh: jax.sharding.Mesh, indices: np.ndarray) -> jax.Array:
    """`images[indices]`, split over the data axis of `mesh`; each process reads those of its own devices only."""
    sharding = jax.NamedSharding(mesh, jax.P(parallel.DATA))
    if sharding.is_fully_addressable:
        return jax.device_put(images[indices], sharding)
    count, places = len(indices), sharding.addressable_devices_indices_map(indices.shape)
    rows = [index[0].indices(count) for index in places.values() if index is not None]
    # The devices of a process are neighbors.
    first, last = min(row[0] for row in rows), max(row[1] for row in rows)
    mine = images[indices[first:last]]

    def of_device(index) -> np.ndarray:
        start, stop, _ = index[0].indices(count)
        return mine[start - first : stop - first]

    return jax.make_array_from_callback((count, *mine.shape[1:]), sharding, of_device)


def on_device(split: Split, mesh: jax.sharding.Mesh, placement: str) -> bool:
    """Whether `placed` puts all images of `split` on the devices. Raises ConfigError."""
    if placement == "host":
        return False
    each = len(split.labels) * split.images[np.arange(1)].nbytes / mesh.shape[parallel.DATA]
    statistics = mesh.local_devices[0].memory_stats() or {}  # CPUs have none
    limit = statistics.get("bytes_limit")
    if placement == "auto":
        return limit is not None and each <= AUTO_SHARE * limit
    if limit is not None and each > LARGEST_SHARE * limit:
        raise ConfigError(
            f"config.data.placement='device': the images take {each / 1e9:.1f} GB of each device, which has "
            f"{limit / 1e9:.1f} GB; use 'host'"
        )
    return True


def _pool(split: Split, mesh: jax.sharding.Mesh) -> Pool:
    devices = mesh.shape[parallel.DATA]
    share = -(-len(split.labels) // devices)
    everything = np.minimum(np.arange(share * devices), len(split.labels) - 1)

    def gather(images, indices):
        if devices == 1:
            return images[indices]
        # Each device has some of the batch and adds zeros for the rest; then each receives its part of the sum.
        mine = indices - jax.lax.axis_index(parallel.DATA) * share
        here = (mine >= 0) & (mine < share)
        found = jnp.where(here[:, None, None, None], images[jnp.where(here, mine, 0)], 0)
        return jax.lax.psum_scatter(found, parallel.DATA, scatter_dimension=0, tiled=True)

    return Pool(sent(split.images, mesh, everything), gather)


def _gatherer(pool: Pool, mesh: jax.sharding.Mesh) -> Callable:
    """f(indices [b], on every device) -> uint8 [b s s 3], split over the devices."""
    mapped = jax.jit(
        jax.shard_map(
            pool.gather,
            mesh=mesh,
            in_specs=(jax.P(parallel.DATA), jax.P()),
            out_specs=jax.P(parallel.DATA),
            check_vma=False,
        )
    )
    return functools.partial(mapped, pool.images)
