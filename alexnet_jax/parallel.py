"""The mesh of devices that training runs on: the batch along one axis, the towers of §3.2 along another."""

import jax
from jax.sharding import AxisType, Mesh

DATA, TOWER = "data", "tower"
"""Names of the mesh axes over which a batch, and a net, are split."""


def device_mesh(devices: list | None = None, towers: int = 1) -> Mesh:
    """A mesh (devices / towers, towers) of all devices, those of other processes too.

    The towers of a net lie on neighboring devices. Axis type Auto: the default, Explicit, refuses what flax
    and optax do.
    """
    devices = jax.devices() if devices is None else devices
    shape = (len(devices) // towers, towers)
    return jax.make_mesh(shape, (DATA, TOWER), axis_types=(AxisType.Auto,) * 2, devices=devices)


def shardings(mesh: Mesh, places):
    """`places`, a tree of PartitionSpecs, as shardings over `mesh`."""
    return jax.tree.map(lambda place: jax.NamedSharding(mesh, place), places)


def round_up(batch_size: int, devices: int) -> int:
    """The next batch size that divides over the devices; for evaluation, where padding is masked."""
    return -(-batch_size // devices) * devices
