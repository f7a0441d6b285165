"""The update rule of §5 and others, as optax transformations. Learning rates are arguments: the host decides them."""

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
    """The optimizer of `spec`: one of OPTIMIZERS in `hold_still`.

    Its `update` needs the parameters and `rates=Rates(...)`. Kernels and biases each have a decay and a rate of their
    own; scale and offset of batch normalization take the rate of the biases and do not decay.
    """
    return hold_still(OPTIMIZERS[spec.kind](spec), forms)


def momentum(spec: OptimizerSpec) -> optax.GradientTransformation:
    """§5: v <- momentum v - rate (gradient + decay w), then w <- w + v.

    The rate is inside the velocity, so that after a drop the older, larger steps fade over some ten updates. optax.sgd
    multiplies by the rate last, which is another rule.
    """
    steps = [*add_decays(spec), scale_by_rates()]
    if spec.momentum:
        steps.append(optax.trace(spec.momentum))
    return optax.chain(*steps)


def adam(spec: OptimizerSpec) -> optax.GradientTransformation:
    """Adam, or AdamW where there is a decay: it is not part of what is averaged."""
    scale = optax.scale_by_adam(spec.b1, spec.b2, spec.epsilon)
    return optax.chain(scale, *add_decays(spec), scale_by_rates())


#: A new optimizer is an entry here, and a value of `OptimizerSpec.kind`.
OPTIMIZERS: dict[str, Callable[[OptimizerSpec], optax.GradientTransformation]] = {
    "momentum": momentum,
    "adam": adam,
    "adamw": adam,
}


def add_decays(spec: OptimizerSpec) -> list[optax.GradientTransformation]:
    """For each decay other than 0, a transformation that adds decay * w to the parameters that have it."""
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
    if is_weight(path):
        return spec.layer_weight_decay.get(path[0].key, spec.weight_decay)
    return spec.bias_weight_decay if path[-1].key == "bias" else 0.0


def is_weight(path) -> bool:
    """Whether the parameter at `path`, the keys of params[layer][name], takes the rate of the weights."""
    return path[-1].key == "kernel"


def scale_by_rates(*, flip_sign: bool = True) -> optax.GradientTransformationExtraArgs:
    """Multiply each update by the rate of its parameter, as optax.scale_by_learning_rate does by one rate."""
    def update(updates, state, params=None, *, rates: Rates, **_):
        def scale(path, u):
            rate = _rate(path, rates)
            signed = -rate if flip_sign else rate
            return jnp.where(rate != 0, signed * u, 0)  # 0 even if the update is not finite

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _rate(path, rates: Rates):
    """The rate of a parameter: that of its kind times the factor of its layer."""
    return (rates.weights if is_weight(path) else rates.biases) * rates.layers[path[0].key]


def hold_still(
    optimizer: optax.GradientTransformation, forms: Forms = PLAIN
) -> optax.GradientTransformationExtraArgs:
    """`optimizer`, but where the rate of a parameter is 0, it and its state stay exactly as they are.

    No decay, no drift (2012 weights.cu). Counts of steps stay where all rates are 0. Works for every optimizer of
    optax; the state is that of `optimizer`.
    """
    inner = optax.with_extra_args_support(optimizer)

    def update(updates, state, params=None, *, rates: Rates, **arguments):
        updates, after = inner.update(updates, state, params, rates=rates, **arguments)
        moves = jax.tree_util.tree_map_with_path(lambda path, _: _rate(path, rates) != 0, updates)
        moves_of_state = optax.tree.map_params(
            optimizer,
            lambda _, move: move,
            state,
            moves,
            transform_non_params=lambda _: functools.reduce(jnp.logical_or, jax.tree.leaves(moves)),
        )
        new, structure = jax.tree.flatten(after)
        held: Any = jax.tree.map(jnp.where, moves_of_state, after, state)
        held = jax.tree.leaves(held)
        # optax.trace returns its new state as the update, too: take the held state for it, which spares a second
        # selection over all parameters.
        as_update = {id(leaf): i for i, leaf in enumerate(new)}
        if forms.update_barrier and any(id(u) in as_update for u in jax.tree.leaves(updates)):
            held = jax.lax.optimization_barrier(held)

        def select(move, u):
            return jnp.where(move, held[as_update[id(u)]] if id(u) in as_update else u, 0)

        return jax.tree.map(select, moves, updates), jax.tree.unflatten(structure, held)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
