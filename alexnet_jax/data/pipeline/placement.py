"""Placement of batches on devices: sent from the host for each step, or gathered from all images on the devices."""

import functools
import math
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

#: Maximum fraction of device memory for the images with placement 'auto', and with 'device'.
AUTO_FRACTION, MAX_FRACTION = 0.25, 0.8


class Pool(NamedTuple):
    """All images of a split, sharded over the devices of a mesh.

    Attributes:
        images: Sharded over the data axis; the last image is repeated to make n a multiple of the number of devices.
        gather: Function for use in shard_map: (local shard of images, indices of the global batch) -> local shard of
            the batch.
    """

    images: UInt8[Array, "n s s 3"]
    gather: Callable[[UInt8[Array, "m s s 3"], Int[Array, " b"]], UInt8[Array, "k s s 3"]]


class Placed(NamedTuple):
    """Functions that put the batches of a split on the devices: `finish(read(indices, epochs))` is a Batch.

    Only `finish` runs collective operations. It must be called in the thread that dispatches the steps: processes that
    start collectives in different orders deadlock.

    Attributes:
        read: The first stage, which can run ahead in any thread.
        finish: The second stage.
        pool: All images, if they are on the devices.
        read_steps: Makes batches of several steps, from indices and epochs [k b], for a step that uses `pool`.
    """

    read: Callable[[np.ndarray, np.ndarray], Batch]
    finish: Callable[[Batch], Batch]
    pool: Pool | None
    read_steps: Callable[[np.ndarray, np.ndarray], Batch]


def placed(split: Split, mesh: jax.sharding.Mesh, placement: str) -> Placed:
    """Prepare the placement of the examples of `split`, with batches sharded over the data axis of `mesh`.

    Args:
        placement: 'host' reads and sends the images of each batch; 'device' shards all images over the devices once and
            gathers batches there; 'auto' is 'device' if the images take at most AUTO_FRACTION of the device memory, and
            'host' on CPU. The batches are the same.

    Raises:
        ConfigError: The images do not fit on the devices, and `placement` is 'device'.
    """
    sharding = jax.NamedSharding(mesh, jax.P(parallel.DATA))
    images: Callable = functools.partial(send, split.images, mesh)
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
        image_indices = processes.to_devices(indices, jax.NamedSharding(mesh, jax.P()))
        others = (split.labels[indices], indices, epochs)
        sharding = jax.NamedSharding(mesh, jax.P(None, parallel.DATA))
        return Batch(image_indices, *processes.to_devices(others, sharding))

    def finish(batch: Batch) -> Batch:
        return batch._replace(images=gather(batch.images)) if gather else batch

    return Placed(read, finish, pool, read_steps)


def send(
    images: Images, mesh: jax.sharding.Mesh, indices: Int[np.ndarray, " b"]
) -> UInt8[Array, "b s s 3"]:
    """Put `images[indices]` on the devices, sharded over the data axis; each process reads only its local shards."""
    sharding = jax.NamedSharding(mesh, jax.P(parallel.DATA))
    if sharding.is_fully_addressable:
        return jax.device_put(images[indices], sharding)
    count, shards = len(indices), sharding.addressable_devices_indices_map(indices.shape)
    slices = [index[0].indices(count) for index in shards.values() if index is not None]
    # The shards of a process are contiguous.
    first, last = min(s[0] for s in slices), max(s[1] for s in slices)
    local = images[indices[first:last]]

    def shard(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(count)
        return local[start - first : stop - first]

    return jax.make_array_from_callback((count, *local.shape[1:]), sharding, shard)


def on_device(split: Split, mesh: jax.sharding.Mesh, placement: str) -> bool:
    """Whether `placed` puts all images of `split` on the devices. Raises ConfigError if they do not fit."""
    if placement == "host":
        return False
    per_device = len(split.labels) * split.images[np.arange(1)].nbytes / mesh.shape[parallel.DATA]
    statistics = mesh.local_devices[0].memory_stats() or {}  # CPUs have none
    limit = statistics.get("bytes_limit")
    if placement == "auto":
        return limit is not None and per_device <= AUTO_FRACTION * limit
    if limit is not None and per_device > MAX_FRACTION * limit:
        raise ConfigError(
            f"config.data.placement='device': the images take {per_device / 1e9:.1f} GB of each device, which has "
            f"{limit / 1e9:.1f} GB; use 'host'"
        )
    return True


def _pool(split: Split, mesh: jax.sharding.Mesh) -> Pool:
    """Shard all images of a split over the devices."""
    devices = mesh.shape[parallel.DATA]
    shard_size = math.ceil(len(split.labels) / devices)
    padded = np.minimum(np.arange(shard_size * devices), len(split.labels) - 1)

    def gather(
        images: UInt8[Array, "m s s 3"], indices: Int[Array, " b"]
    ) -> UInt8[Array, "k s s 3"]:
        if devices == 1:
            return images[indices]
        # Each device contributes its images of the batch and zeros for the others, and receives its shard of the sum.
        local = indices - jax.lax.axis_index(parallel.DATA) * shard_size
        is_local = (local >= 0) & (local < shard_size)
        contribution = jnp.where(
            is_local[:, None, None, None], images[jnp.where(is_local, local, 0)], 0
        )
        return jax.lax.psum_scatter(contribution, parallel.DATA, scatter_dimension=0, tiled=True)

    return Pool(send(split.images, mesh, padded), gather)


def _gatherer(
    pool: Pool, mesh: jax.sharding.Mesh
) -> Callable[[Int[Array, " b"]], UInt8[Array, "b s s 3"]]:
    """Return a jitted function from replicated indices to the images of a batch, sharded over the devices."""
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
