"""The device mesh for training, with one axis for data parallelism and one for the towers of §3.2."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from alexnet_jax.kernels import compiler
from alexnet_jax.kernels.forms import Forms, choose

#: Names of the mesh axes that shard the batch and the towers of the network.
DATA, TOWER = "data", "tower"


def device_mesh(devices: list[Any] | None = None, towers: int = 1) -> Mesh:
    """Make a mesh of shape (devices / towers, towers) of all devices, including those of other processes.

    The towers of a network are on adjacent devices. The axis type is Auto, because flax and optax do not support the
    default, Explicit.
    """
    devices = jax.devices() if devices is None else devices
    shape = (len(devices) // towers, towers)
    return jax.make_mesh(shape, (DATA, TOWER), axis_types=(AxisType.Auto,) * 2, devices=devices)


def shardings(mesh: Mesh, specs: Any) -> Any:
    """Convert a tree of PartitionSpecs to shardings over `mesh`."""
    return jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), specs)


def round_up(batch_size: int, devices: int) -> int:
    """Round the batch size up to a multiple of the devices; for evaluation, which masks the padding."""
    return math.ceil(batch_size / devices) * devices


def jit(
    function: Callable,
    mesh: Mesh,
    inputs: Any,
    outputs: Any,
    *,
    deterministic: bool,
    donated: tuple[int, ...] = (),
) -> Any:
    """Jit a function of local shards with shard_map; `inputs` and `outputs` are trees of PartitionSpecs."""
    # With check_vma=True, gradients of replicated parameters would already be summed over the devices.
    mapped = jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
    platform = mesh.devices.flat[0].platform
    return jax.jit(
        mapped,
        in_shardings=shardings(mesh, inputs),
        out_shardings=shardings(mesh, outputs),
        donate_argnums=donated,
        compiler_options=compiler.options(platform, deterministic=deterministic),
    )


def forms_of(forms: Forms | None, mesh: Mesh) -> Forms:
    """Return `forms`, or the default forms for the devices of `mesh`."""
    return forms or choose(mesh.devices.flat[0].platform)
