"""The mesh of devices that training runs on: the batch along one axis, the towers of §3.2 along another."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from alexnet_jax.kernels import compiler
from alexnet_jax.kernels.forms import Forms, choose
from alexnet_jax.specs import Config

#: Names of the mesh axes over which a batch, and a net, are split.
DATA, TOWER = "data", "tower"


def device_mesh(devices: list | None = None, towers: int = 1) -> Mesh:
    """A mesh (devices / towers, towers) of all devices, including those of other processes.

    The towers of a net lie on neighboring devices. The axis type is Auto because flax and optax do not work with the
    default, Explicit.
    """
    devices = jax.devices() if devices is None else devices
    shape = (len(devices) // towers, towers)
    return jax.make_mesh(shape, (DATA, TOWER), axis_types=(AxisType.Auto,) * 2, devices=devices)


def shardings(mesh: Mesh, specs: Any) -> Any:
    """A tree of PartitionSpecs as shardings over `mesh`."""
    return jax.tree.map(lambda spec: jax.NamedSharding(mesh, spec), specs)


def round_up(batch_size: int, devices: int) -> int:
    """The next batch size that divides over the devices; for evaluation, where padding is masked."""
    return -(-batch_size // devices) * devices


def jit(
    function: Callable,
    spec: Config,
    mesh: Mesh,
    inputs: Any,
    outputs: Any,
    donated: tuple[int, ...] = (),
) -> Any:
    """Jit `function` of the local shards; `inputs` and `outputs` are trees of PartitionSpecs."""
    # check_vma=False: with the default, the gradient by replicated parameters is already summed over devices.
    mapped = jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
    platform = mesh.devices.flat[0].platform
    return jax.jit(
        mapped,
        in_shardings=shardings(mesh, inputs),
        out_shardings=shardings(mesh, outputs),
        donate_argnums=donated,
        compiler_options=compiler.options(platform, deterministic=spec.train.deterministic),
    )


def forms_of(forms: Forms | None, mesh: Mesh) -> Forms:
    """`forms`, or by default those for the devices of `mesh`."""
    return forms or choose(mesh.devices.flat[0].platform)
