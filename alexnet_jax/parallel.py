"""The mesh of local devices that a batch is spread over."""

import jax
from jax.sharding import AxisType, Mesh

DATA = "data"
"""Name of the mesh axis over which a batch is split."""


def data_mesh(devices: list | None = None) -> Mesh:
    """A mesh with one axis, 'data', over all local devices.

    Axis type Auto: the default, Explicit, refuses what flax and optax do.
    """
    devices = jax.local_devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def round_up(batch_size: int, devices: int) -> int:
    """The next batch size that divides over the devices; for evaluation, where padding is masked."""
    return -(-batch_size // devices) * devices
