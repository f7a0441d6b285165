"""What training carries from step to step, and the seeds of its random draws."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alexnet_jax.kernels import compiler
from alexnet_jax.model import alexnet, towers
from alexnet_jax.model import mesh as parallel
from alexnet_jax.specs import Config
from alexnet_jax.train import optimizer, schedule

# One stream of random draws each; a draw is a function of (seed, stream, place in the run), so no key is kept.
INIT, AUGMENT, DROPOUT = range(3)
RANDOM = "threefry2x32"
"""By name: its draws are the same on 1, 2 and 4 devices."""


class State(NamedTuple):
    """All that a run needs to go on; `schedule` stays on the host."""

    step: jax.Array
    params: Any
    opt_state: Any
    batch_stats: Any
    schedule: schedule.ScheduleState


def create(spec: Config, model: alexnet.AlexNet, seed: int, *, mesh=None) -> State:
    """The state before the first step, made in one jit; placed as `partition` says if there is a mesh."""
    init = functools.partial(_initial, spec, model)
    places, platform = None, jax.default_backend()
    if mesh is not None:
        places = parallel.shardings(mesh, partition(spec, model, mesh)[:-1])
        platform = mesh.devices.flat[0].platform
    options = compiler.quick(platform)
    made = jax.jit(init, out_shardings=places, compiler_options=options)(stream(seed, INIT))
    return State(*made, schedule=schedule.create())


def shapes(spec: Config, model: alexnet.AlexNet) -> State:
    """What `create` makes, as shapes."""
    made = jax.eval_shape(functools.partial(_initial, spec, model), stream(0, INIT))
    return State(*made, schedule=None)  # pyright: ignore[reportArgumentType]


def partition(spec: Config, model: alexnet.AlexNet, mesh) -> Any:
    """A State with a PartitionSpec for every array: whole on all devices of `mesh`, or split over its towers."""
    made = shapes(spec, model)[:-1]
    if mesh.shape[parallel.TOWER] == 1:
        places: Any = jax.tree.map(lambda _: jax.P(), made)
    else:
        places = [towers.partition(spec.model, part) for part in made]
    return State(*places, schedule=None)  # pyright: ignore[reportArgumentType]


def _initial(spec: Config, model: alexnet.AlexNet, key):
    # All of it in one place, with no examples to average over yet.
    variables = alexnet.init(model.clone(axis_name=None, split=False), key, spec.augment.crop_size)
    params = variables["params"]
    opt_state = optimizer.build(spec.optimizer).init(params)
    return jnp.int32(0), params, opt_state, variables["batch_stats"]


def stream(seed: int, name: int) -> jax.Array:
    """The key of one of the streams."""
    return jax.random.fold_in(jax.random.key(seed, impl=RANDOM), name)
