"""Check devices, data, memory and disk before a run begins, without writing to the run folder."""

import math
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from alexnet_jax import config as configs
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import identity, placement, splits, statistics
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import CheckpointError, ConfigError, OutOfMemoryError
from alexnet_jax.inference import checkpoints
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.model import alexnet, geometry
from alexnet_jax.model import mesh as parallel
from alexnet_jax.model.hybrid import sharding_of
from alexnet_jax.run import processes
from alexnet_jax.run.workdir import Workdir
from alexnet_jax.specs import Config
from alexnet_jax.train import checkpoint, schedule
from alexnet_jax.train import state as states
from alexnet_jax.train.plan import Plan
from alexnet_jax.train.state import State


class Prepared(NamedTuple):
    """A config and its data, checked against each other."""

    #: The config, with the number of classes found in the data.
    spec: Config
    dataset: sources.Dataset
    #: Statistics of the training images.
    statistics: Statistics

    @property
    def plan(self) -> Plan:
        return Plan(self.spec, len(self.dataset.splits["train"].labels))


def prepare(spec: Config) -> Prepared:
    """Open the data, and check the data and the devices against the config.

    If all images fit into the cache they are decoded now, so that an unreadable image is found before the first step.
    Raises ConfigError and DataError.
    """
    check_devices(spec)
    dataset = sources.open_dataset(spec.data, spec.seed)
    spec = configs.with_classes(spec, len(dataset.class_names))
    if spec.schedule.weights.kind == "plateau" and "val" not in dataset.splits:
        raise ConfigError(
            "config.schedule.weights.kind='plateau' needs validation images: hold some out with "
            "--config.data.validation=0.1, or use kind 'epochs'"
        )
    sources.check(dataset, spec.data)
    on_devices = placement.on_device(
        dataset.splits["train"], device_mesh(spec), spec.data.placement
    )
    if spec.train.steps_per_dispatch > 1 and not on_devices:
        raise ConfigError(
            "config.train.steps_per_dispatch needs all images on the devices: --config.data.placement=device"
        )
    processes.check_same("images", dataset.fingerprint)
    like = statistics.zeros(spec.data.image_size)
    loaded = processes.arrays_from_primary(lambda: statistics.load(dataset), like)
    return Prepared(spec, dataset, loaded)


def check_devices(spec: Config) -> None:
    """Raise ConfigError if the towers, the units or the batch do not divide over the devices."""
    devices, towers = len(jax.devices()), _sharded_towers(spec)
    if devices % towers:
        raise ConfigError(
            f"config.train.split_towers: {towers} towers need a multiple of {towers} devices, but there are {devices}"
        )
    for name in geometry.indivisible(spec.model, devices) if spec.train.split_dense else ():
        raise ConfigError(
            f"config.train.split_dense: layer {name} has {dict(spec.model.fcs)[name].features} units, which is not a "
            f"multiple of {devices} devices"
        )
    batch_size, parts, shares = spec.train.batch_size, spec.train.accumulate, devices // towers
    if batch_size % (parts * shares):
        raise ConfigError(
            f"config.train.batch_size={batch_size} in {parts} part(s) is not divisible over {shares} devices"
            f"{' for each tower' if towers > 1 else ''}; use {_nearest(batch_size, parts * shares)}"
        )


def device_mesh(spec: Config) -> Mesh:
    """Return the mesh of all devices for training with `spec`."""
    return parallel.device_mesh(towers=_sharded_towers(spec))


def check_resume(workdir: Workdir, prepared: Prepared, *, changed: bool) -> None:
    """Check that a run can resume from the newest intact checkpoint of `workdir`.

    Args:
        changed: Whether the config has changed, so that the shapes of the checkpoint must be checked.

    Raises:
        ConfigError: The checkpoint was trained on other images.
        CheckpointError: The checkpoint does not fit the model of the config.
    """
    spec, dataset, _ = prepared
    folder = workdir.checkpoints
    for step in reversed(checkpoints.committed_steps(folder)):
        fingerprint = checkpoints.read_meta(folder, step).get("dataset")
        if not isinstance(fingerprint, str):
            continue
        try:
            identity.compare(workdir.path, fingerprint, dataset)
            if changed:
                checkpoint.check_fits(folder, step, state_shapes(spec))
            return
        except Exception:
            try:
                checkpoints.verify(folder, step)
            except CheckpointError:
                continue  # damaged: the run will use an older checkpoint
            raise


def check_init(spec: Config, init: TrainedModel, *, partial: bool) -> None:
    """Raise CheckpointError if the parameters of --init-from do not fit the model of `spec`."""
    checkpoint.initialize(state_shapes(spec), init.variables, partial=partial)


def state_shapes(spec: Config) -> State:
    """Return the shapes of the training state of `spec`."""
    return states.shapes(spec, alexnet.from_config(spec))._replace(schedule=schedule.create())


def check_memory(spec: Config, state: State) -> None:
    """Raise OutOfMemoryError if the state alone exceeds the memory of a device. CPUs are not checked."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit is None:  # on CPUs
        return
    if (needed := _bytes_per_device(spec, state)) > limit:
        raise OutOfMemoryError(
            f"the training state takes {needed:,} bytes, but a device has {limit:,}; choose a smaller net, or "
            "--config.train.split_towers=True or --config.train.split_dense=True"
        )


def summary(prepared: Prepared, workdir: Workdir) -> str:
    """Summarize a run before it starts, for `--dry-run`. Raises OutOfMemoryError and StorageError."""
    spec, dataset, _ = prepared
    state, plan, folder = state_shapes(spec), prepared.plan, workdir.checkpoints
    check_memory(spec, state)
    steps = [] if workdir.overwrites else checkpoints.committed_steps(folder)
    checkpoint.check_room(folder, state, is_new=not steps)
    needed = checkpoint.needed_room(state, is_new=not steps)
    rows = {
        "config": spec.name,
        "images": f"{splits.sizes(dataset)}; {len(dataset.class_names):,} classes",
        "parameters": f"{alexnet.count_parameters(state.params):,}",
        "steps": f"{plan.last_step:,} of {plan.batch_size} images, {plan.epoch(plan.last_step):.1f} epochs, "
        f"from step {steps[-1] if steps else 0:,}",
        "devices": f"{len(jax.devices())} {jax.default_backend()}",
        "state": f"{checkpoint.size(state):,} bytes",
        "checkpoints": f"{needed:,} bytes, of {checkpoint.free_room(folder):,} free",
    }  # fmt: skip
    return "\n".join(f"{name:12}{value}" for name, value in rows.items())


def _sharded_towers(spec: Config) -> int:
    """Return the number of devices over which each copy of the net is split."""
    return spec.model.towers if spec.train.split_towers else 1


def _bytes_per_device(spec: Config, state: State) -> int:
    mesh = device_mesh(spec)
    placement = sharding_of(spec, mesh).partition(spec.model, state[:-1])
    shardings = jax.tree.leaves(parallel.shardings(mesh, placement))
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(state[:-1]), shardings, strict=True)
    )


def _nearest(batch_size: int, divisor: int) -> str:
    """Format the multiples of `divisor` next to `batch_size`."""
    above = parallel.round_up(batch_size, divisor)
    return f"{above - divisor} or {above}" if above > divisor else str(above)
