"""Batches on the devices: sent with each step, or gathered there from all images of a split."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from alexnet_jax.data.pipeline.batches import Batch
from alexnet_jax.data.pipeline.splits import Images, Split
from alexnet_jax.errors import ConfigError
from alexnet_jax.model import mesh as parallel
from alexnet_jax.run import processes

#: Shares of a device's memory: up to the first, 'auto' puts the images there; above the second they do not fit.
AUTO_SHARE, LARGEST_SHARE = 0.25, 0.8


class Pool(NamedTuple):
    """All images of a split on the devices of a mesh, a share on each.

    Attributes:
        images: Split over the data axis; the last image is repeated until n divides over the devices.
        gather: Inside shard_map: (this device's images, indices of a whole batch) -> its share of the batch.
    """

    images: UInt8[Array, "n s s 3"]
    gather: Callable[[UInt8[Array, "m s s 3"], Int[Array, " b"]], UInt8[Array, "k s s 3"]]


class Placed(NamedTuple):
    """How the batches of a split get to the devices: `finish(read(indices, epochs))` is a Batch.

    Only `finish` exchanges data between devices. It must be called in the thread that dispatches the steps: devices or
    processes that begin such exchanges in different orders wait for each other forever.

    Attributes:
        read: The part that can be done ahead, in any thread.
        pool: All images, if they are on the devices.
        read_steps: Batches of several steps, from indices and epochs [k b], for a step that uses `pool`.
    """

    read: Callable[[np.ndarray, np.ndarray], Batch]
    finish: Callable[[Batch], Batch]
    pool: Pool | None
    read_steps: Callable[[np.ndarray, np.ndarray], Batch]


def placed(split: Split, mesh: jax.sharding.Mesh, placement: str) -> Placed:
    """Place the examples of `split`, with each batch split over the data axis of `mesh`.

    placement: 'host' reads and sends the images of each batch; 'device' puts all of them on the devices, a share on
    each, and gathers there; 'auto' is 'device' if they take at most AUTO_SHARE of its memory, and never on CPU, where
    that gains nothing. The batches are the same. Raises ConfigError if 'device' is impossible.
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


def sent(
    images: Images, mesh: jax.sharding.Mesh, indices: Int[np.ndarray, " b"]
) -> UInt8[Array, "b s s 3"]:
    """Put `images[indices]`, split over the data axis, on the devices; a process reads only those of its devices."""
    sharding = jax.NamedSharding(mesh, jax.P(parallel.DATA))
    if sharding.is_fully_addressable:
        return jax.device_put(images[indices], sharding)
    count, places = len(indices), sharding.addressable_devices_indices_map(indices.shape)
    rows = [index[0].indices(count) for index in places.values() if index is not None]
    # The devices of a process are neighbors.
    first, last = min(row[0] for row in rows), max(row[1] for row in rows)
    mine = images[indices[first:last]]

    def of_device(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(count)
        return mine[start - first : stop - first]

    return jax.make_array_from_callback((count, *mine.shape[1:]), sharding, of_device)


def on_device(split: Split, mesh: jax.sharding.Mesh, placement: str) -> bool:
    """Whether `placed` puts all images of `split` on the devices. Raises ConfigError if they do not fit."""
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

    def gather(
        images: UInt8[Array, "m s s 3"], indices: Int[Array, " b"]
    ) -> UInt8[Array, "k s s 3"]:
        if devices == 1:
            return images[indices]
        # Each device contributes its images of the batch and zeros for the rest, and receives its part of the sum.
        mine = indices - jax.lax.axis_index(parallel.DATA) * share
        here = (mine >= 0) & (mine < share)
        found = jnp.where(here[:, None, None, None], images[jnp.where(here, mine, 0)], 0)
        return jax.lax.psum_scatter(found, parallel.DATA, scatter_dimension=0, tiled=True)

    return Pool(sent(split.images, mesh, everything), gather)


def _gatherer(
    pool: Pool, mesh: jax.sharding.Mesh
) -> Callable[[Int[Array, " b"]], UInt8[Array, "b s s 3"]]:
    """A function from indices, which are on every device, to the batch, split over the devices."""
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
