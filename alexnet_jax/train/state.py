"""The training state and the random streams of a run."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alexnet_jax.kernels import compiler
from alexnet_jax.model import alexnet
from alexnet_jax.model import mesh as parallel
from alexnet_jax.model.hybrid import sharding_of
from alexnet_jax.model.towers import TowerSharding
from alexnet_jax.specs import Config
from alexnet_jax.train import optimizer, schedule

# Random streams. Draws depend only on the seed, the stream and the step (or example), so the state has no key.
INIT, AUGMENT, DROPOUT = range(3)
#: Set explicitly, because its draws do not depend on the number of devices.
RANDOM = "threefry2x32"


class State(NamedTuple):
    """Everything that a run needs to continue; `schedule` stays on the host."""

    step: jax.Array
    params: Any
    opt_state: Any
    batch_stats: Any
    schedule: schedule.ScheduleState


def create(
    spec: Config, model: alexnet.AlexNet, seed: int, *, mesh: jax.sharding.Mesh | None = None
) -> State:
    """Create the state before the first step, sharded as `partition` gives if a mesh is given."""
    init = functools.partial(_initial, spec, model)
    shardings, platform = None, jax.default_backend()
    if mesh is not None:
        shardings = parallel.shardings(mesh, partition(spec, model, mesh)[:-1])
        platform = mesh.devices.flat[0].platform
    options = compiler.quick(platform)
    fields = jax.jit(init, out_shardings=shardings, compiler_options=options)(stream(seed, INIT))
    return State(*fields, schedule=schedule.create())


def shapes(spec: Config, model: alexnet.AlexNet) -> State:
    """Return the state of `create` as ShapeDtypeStructs."""
    variables = alexnet.shapes(model.spec, spec.augment.crop_size)
    fields = jax.eval_shape(functools.partial(_fields, spec), variables)
    return State(*fields, schedule=None)  # pyright: ignore[reportArgumentType]


def partition(spec: Config, model: alexnet.AlexNet, mesh: jax.sharding.Mesh) -> Any:
    """Return a State of PartitionSpecs: replicated, or sharded as the net is over the devices of `mesh`."""
    fields, sharding = shapes(spec, model)[:-1], sharding_of(spec, mesh)
    specs = [sharding.partition(spec.model, tree) for tree in fields]
    return State(*specs, schedule=None)  # pyright: ignore[reportArgumentType]


def _initial(spec: Config, model: alexnet.AlexNet, key: jax.Array) -> tuple[Any, ...]:
    # Without collectives: the result is sharded afterwards.
    variables = alexnet.init(
        model.clone(axis_name=None, sharding=TowerSharding()), key, spec.augment.crop_size
    )
    return _fields(spec, variables)


def _fields(spec: Config, variables: dict[str, Any]) -> tuple[Any, ...]:
    """Return the initial fields of State but `schedule`, from the result of `alexnet.init`."""
    params = variables["params"]
    opt_state = optimizer.build(spec.optimizer).init(params)
    return jnp.int32(0), params, opt_state, variables["batch_stats"]


def stream(seed: int, name: int) -> jax.Array:
    """Return the key of the stream INIT, AUGMENT or DROPOUT."""
    return jax.random.fold_in(jax.random.key(seed, impl=RANDOM), name)
