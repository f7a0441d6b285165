"""The update rule of §5 out of optax transformations, with rates as arguments: the host decides them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alexnet_jax.kernels.forms import PLAIN, Forms
from alexnet_jax.specs import OptimizerSpec
from alexnet_jax.train.schedule import Rates


def build(spec: OptimizerSpec, forms: Forms = PLAIN) -> optax.GradientTransformationExtraArgs:
    """The optimizer of `spec`; its `update` needs params and `rates=Rates(...)`. forms: for its `update_barrier`.

    momentum (§5): v <- momentum v - rate (gradient + decay w), then w <- w + v. The rate is inside the
    velocity, so after a drop the old, larger steps die out over some ten updates; optax.sgd, which
    multiplies by the rate at the end, is another rule. Momentum 0 keeps no velocity.
    adam: optax.scale_by_adam with `b1`, `b2`, `epsilon`. adamw: the same, and a decay that is not part of what is
    averaged. (config.parse reads adam with a decay, of older run folders, as adamw.)

    Kernels and biases each have a decay and a rate of their own; the scale and offset of batch normalization take
    the rate of biases and do not decay. Where the rate is exactly 0 the whole tensor stands still: no decay, no
    drift (2012 weights.cu).
    """
    return OPTIMIZERS[spec.kind](spec, forms)


def _momentum_sgd(spec: OptimizerSpec, forms: Forms) -> optax.GradientTransformationExtraArgs:
    steps = [*_decays(spec), _scale_by_rates()]
    if spec.momentum:
        steps.append(_velocity(spec.momentum, forms))
    return optax.chain(*steps)


def _adam(spec: OptimizerSpec, forms: Forms) -> optax.GradientTransformationExtraArgs:
    return optax.chain(_held_adam(spec), *_decays(spec), _scale_by_rates())


def _decays(spec: OptimizerSpec) -> list[optax.GradientTransformation]:
    """One transformation for each decay other than 0: add decay * w to the parameters that have it."""
    decays = {spec.weight_decay, *spec.layer_weight_decay.values(), spec.bias_weight_decay} - {0.0}
    return [
        optax.add_decayed_weights(decay, mask=_parameters_with(decay, spec))
        for decay in sorted(decays)
    ]


def _parameters_with(decay: float, spec: OptimizerSpec) -> Callable[[Any], Any]:
    def mask(params):
        return jax.tree_util.tree_map_with_path(lambda path, _: _decay(path, spec) == decay, params)

    return mask


def _decay(path, spec: OptimizerSpec) -> float:
    """Of the parameter at `path`."""
    if is_weight(path):
        return spec.layer_weight_decay.get(path[0].key, spec.weight_decay)
    return spec.bias_weight_decay if path[-1].key == "bias" else 0.0


def is_weight(path) -> bool:
    """Whether the parameter at `path` (of keys into params[row][name]) takes the rate of the weights."""
    return path[-1].key == "kernel"


def _rate(path, rates: Rates):
    return (rates.weights if is_weight(path) else rates.biases) * rates.layers[path[0].key]


def _moves(updates, rates: Rates):
    """For each parameter, whether its rate lets it move."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _rate(path, rates) != 0, updates)


def _scale_by_rates() -> optax.GradientTransformationExtraArgs:
    """u <- -rate u, the rate being that of the parameter's kind times the factor of its row."""

    def update(updates, state, params=None, **arguments):
        def scale(path, u):
            rate = _rate(path, arguments["rates"])
            return jnp.where(rate != 0, -rate * u, 0)  # 0 even if u is not a number

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _velocity(momentum: float, forms: Forms) -> optax.GradientTransformationExtraArgs:
    """optax.trace, but where the rate is 0 the velocity stays and the update is 0."""
    trace: Any = optax.trace(momentum)

    def update(updates, state, params=None, **arguments):
        moves = _moves(updates, arguments["rates"])
        _, moved = trace.update(updates, state)
        velocity = jax.tree.map(jnp.where, moves, moved.trace, state.trace)
        if forms.update_barrier:
            velocity = jax.lax.optimization_barrier(velocity)
        updates = jax.tree.map(lambda move, v: jnp.where(move, v, 0), moves, velocity)
        return updates, state._replace(trace=velocity)

    return optax.GradientTransformationExtraArgs(trace.init, update)


def _held_adam(spec: OptimizerSpec) -> optax.GradientTransformationExtraArgs:
    """optax.scale_by_adam, but where the rate is 0 the averages stay; nothing moves, nothing is counted."""
    adam: Any = optax.scale_by_adam(spec.b1, spec.b2, spec.epsilon)

    def update(updates, state, params=None, **arguments):
        moves = _moves(updates, arguments["rates"])
        updates, moved = adam.update(updates, state)
        any_moves = functools.reduce(jnp.logical_or, jax.tree.leaves(moves))
        held = state._replace(
            count=jnp.where(any_moves, moved.count, state.count),
            mu=jax.tree.map(jnp.where, moves, moved.mu, state.mu),
            nu=jax.tree.map(jnp.where, moves, moved.nu, state.nu),
        )
        return updates, held

    return optax.GradientTransformationExtraArgs(adam.init, update)


OPTIMIZERS = {"momentum": _momentum_sgd, "adam": _adam, "adamw": _adam}
