"""Optimizers as optax transformations: the update rule of §5, LARS, Adam and AdamW.

Learning rates are arguments of `update`; the schedule computes them on the host.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alexnet_jax.kernels.forms import PLAIN, Forms
from alexnet_jax.specs import OptimizerSpec
from alexnet_jax.train.schedule import Rates

#: Keys of a parameter in params[layer][name].
Path = tuple[Any, ...]


def build(spec: OptimizerSpec, forms: Forms = PLAIN) -> optax.GradientTransformationExtraArgs:
    """Build the optimizer of `spec`: an entry of OPTIMIZERS, wrapped in `freeze_at_zero_rate`.

    Its `update` needs the parameters and `rates=Rates(...)`; LARS also needs `norms`, a function from a tree of arrays
    to the norms of the whole arrays, such as `Norms.each`. Kernels and biases have separate rates and decays. The scale
    and offset of batch normalization use the rate of the biases, without decay.
    """
    return freeze_at_zero_rate(OPTIMIZERS[spec.kind](spec), forms)


def momentum(spec: OptimizerSpec) -> optax.GradientTransformation:
    """Return SGD with momentum as in §5: v <- momentum v - rate (gradient + decay w), then w <- w + v.

    The rate is part of the velocity, so after the rate drops, the earlier, larger steps fade over about ten updates.
    optax.sgd applies the rate after the momentum, which is a different rule.
    """
    return optax.chain(*add_decays(spec), *_steps_with_momentum(spec))


def lars(spec: OptimizerSpec) -> optax.GradientTransformation:
    """Return LARS (You, Gitman and Ginsburg, 2017, Algorithm 1): the rule of §5 with a trust ratio in each step.

    optax.lars divides by the norm of the sum, |g + decay w|, instead of |g| + decay |w|; without decay both are equal.
    """
    return optax.chain(scale_by_trust_ratio(spec), *_steps_with_momentum(spec))


def adam(spec: OptimizerSpec) -> optax.GradientTransformation:
    """Return Adam with decoupled weight decay, as in AdamW; with all decays 0 it is plain Adam."""
    scale = optax.scale_by_adam(spec.b1, spec.b2, spec.epsilon)
    return optax.chain(scale, *add_decays(spec), scale_by_rates())


#: To add an optimizer, add an entry here and a value of `OptimizerSpec.kind`.
OPTIMIZERS: dict[str, Callable[[OptimizerSpec], optax.GradientTransformation]] = {
    "momentum": momentum,
    "adam": adam,
    "adamw": adam,
    "lars": lars,
}


def _steps_with_momentum(spec: OptimizerSpec) -> list[optax.GradientTransformation]:
    return [scale_by_rates(), *([optax.trace(spec.momentum)] if spec.momentum else [])]


def scale_by_trust_ratio(spec: OptimizerSpec) -> optax.GradientTransformationExtraArgs:
    """Add the decay and multiply by the trust ratio eta |w| / (|g| + decay |w|), for each array of parameters.

    The ratio is 1 if a norm is 0, as in optax and in the authors' Caffe, and for parameters that
    `optimizer.trust_ratio` leaves out.
    """

    def update(updates: Any, state: Any, params: Any = None, **arguments: Any) -> tuple[Any, Any]:
        norms: Callable = arguments["norms"]

        def scale(path: Path, g: jax.Array, w: jax.Array, g_norm: jax.Array, w_norm: jax.Array):
            decay = _decay(path, spec)
            ratio = spec.trust_coefficient * w_norm / (g_norm + decay * w_norm)
            trusted = spec.trust_ratio == "all" or is_weight(path)
            ratio = jnp.where(trusted & (g_norm > 0) & (w_norm > 0), ratio, 1.0)
            return ratio * (g + decay * w)

        trees = updates, params, norms(updates), norms(params)
        return jax.tree_util.tree_map_with_path(scale, *trees), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def add_decays(spec: OptimizerSpec) -> list[optax.GradientTransformation]:
    """Return a transformation for each nonzero decay, which adds decay * w to the updates of its parameters."""
    decays = {spec.weight_decay, *spec.layer_weight_decay.values(), spec.bias_weight_decay} - {0.0}
    return [
        optax.add_decayed_weights(decay, mask=_parameters_with(decay, spec))
        for decay in sorted(decays)
    ]


def _parameters_with(decay: float, spec: OptimizerSpec) -> Callable[[Any], Any]:
    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: _decay(path, spec) == decay, params)

    return mask


def _decay(path: Path, spec: OptimizerSpec) -> float:
    if is_weight(path):
        return spec.layer_weight_decay.get(path[0].key, spec.weight_decay)
    return spec.bias_weight_decay if path[-1].key == "bias" else 0.0


def is_weight(path: Path) -> bool:
    """Whether the parameter at `path` is a kernel, with the rate and decay of weights."""
    return path[-1].key == "kernel"


def scale_by_rates(*, flip_sign: bool = True) -> optax.GradientTransformationExtraArgs:
    """Multiply each update by the rate of its parameter: optax.scale_by_learning_rate with a rate per parameter."""

    def update(updates: Any, state: Any, params: Any = None, **arguments: Any) -> tuple[Any, Any]:
        def scale(path: Path, u: jax.Array) -> jax.Array:
            rate = _rate(path, arguments["rates"])
            # At rate 0 the update is 0, even if the gradient is not finite.
            return jnp.where(rate != 0, (-rate if flip_sign else rate) * u, 0)

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _rate(path: Path, rates: Rates) -> Any:
    """Return the rate of a parameter: the rate of weights or biases times the factor of its layer."""
    return (rates.weights if is_weight(path) else rates.biases) * rates.layers[path[0].key]


def freeze_at_zero_rate(
    optimizer: optax.GradientTransformation, forms: Forms = PLAIN
) -> optax.GradientTransformationExtraArgs:
    """Wrap any optax optimizer so that a parameter with rate 0, and its state, stay exactly unchanged.

    Neither decay nor momentum moves such a parameter, as in the 2012 weights.cu. State that belongs to no parameter,
    such as a step count, stays unchanged if all rates are 0. The structure of the state is that of `optimizer`.
    """
    inner = optax.with_extra_args_support(optimizer)

    def update(updates: Any, state: Any, params: Any = None, **arguments: Any) -> tuple[Any, Any]:
        rates: Rates = arguments["rates"]
        updates, new_state = inner.update(updates, state, params, **arguments)
        trains = jax.tree_util.tree_map_with_path(lambda path, _: _rate(path, rates) != 0, updates)
        state_trains = optax.tree.map_params(
            optimizer,
            lambda _, train: train,
            state,
            trains,
            transform_non_params=lambda _: functools.reduce(
                jnp.logical_or, jax.tree.leaves(trains)
            ),
        )
        new_leaves, structure = jax.tree.flatten(new_state)
        selected: Any = jax.tree.map(jnp.where, state_trains, new_state, state)
        leaves = jax.tree.leaves(selected)
        # optax.trace returns its new state as the update, too: reuse the selected state for it, which saves a second
        # pass over all parameters.
        state_index = {id(leaf): i for i, leaf in enumerate(new_leaves)}
        if forms.update_barrier and any(id(u) in state_index for u in jax.tree.leaves(updates)):
            leaves = jax.lax.optimization_barrier(leaves)

        def select(train: jax.Array, u: jax.Array) -> jax.Array:
            return jnp.where(train, leaves[state_index[id(u)]] if id(u) in state_index else u, 0)

        return jax.tree.map(select, trains, updates), jax.tree.unflatten(structure, leaves)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
