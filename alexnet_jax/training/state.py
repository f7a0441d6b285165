"""What training carries from step to step, and the seeds of its random draws."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alexnet_jax.model import alexnet
from alexnet_jax.specs import Config
from alexnet_jax.training import optimizer, schedule

# One stream of random draws each; a draw is a function of (seed, stream, place in the run), so no key is kept.
INIT, AUGMENT, DROPOUT = range(3)


class State(NamedTuple):
    """All that a run needs to go on; `schedule` stays on the host."""

    step: jax.Array
    params: Any
    velocity: Any
    """State of the optimizer; without momentum it holds no arrays."""
    batch_stats: Any
    schedule: schedule.ScheduleState


def create(spec: Config, model: alexnet.AlexNet, seed: int, *, mesh=None) -> State:
    """The state before the first step, made in one jit; replicated over `mesh` if there is one."""
    model = model.clone(axis_name=None)  # there are no examples to average over yet
    replicated = None if mesh is None else jax.NamedSharding(mesh, jax.P())

    @functools.partial(jax.jit, out_shardings=replicated)
    def init(key):
        variables = alexnet.init(model, key, spec.augment.crop_size)
        params = variables["params"]
        velocity = optimizer.build(spec.optimizer).init(params)
        return jnp.int32(0), params, velocity, variables.get("batch_stats", {})

    return State(*init(stream(seed, INIT)), schedule=schedule.create())


def stream(seed: int, name: int) -> jax.Array:
    """The key of one of the streams. Threefry by name: its draws are the same on 1, 2 and 4 devices."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), name)
