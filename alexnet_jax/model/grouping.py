"""Keep the maps of each group in a separate array between grouped layers (Forms.towers = 'apart').

This avoids splitting and joining arrays between consecutive grouped convolutions. The outputs of a layer are then a
tuple of arrays; only this module, `Conv.apply` and `convolution.channels` handle tuples.
"""

from collections.abc import Callable
from typing import Any, cast

import jax.numpy as jnp
from jaxtyping import Array

from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels import convolution
from alexnet_jax.kernels.forms import Forms
from alexnet_jax.model.operations import Call, Operation
from alexnet_jax.model.towers import LayerSharding
from alexnet_jax.specs import ConvSpec, ModelSpec

Grouped = Array | tuple[Array, ...]


def arrays_after(name: str, model: ModelSpec, forms: Forms, sharding: LayerSharding) -> int:
    """Return the number of arrays in which layer `name` passes its outputs to the next layer."""
    names = [layer for layer, _ in model.layers]
    following = dict(zip(names, [layer for _, layer in model.layers[1:]], strict=False)).get(name)
    if forms.towers == "joined" or sharding.devices > 1 or not isinstance(following, ConvSpec):
        return 1
    return following.groups if following.groups == model.towers else 1


def apply(operation: Operation, layer: Any, x: Grouped, call: Call, arrays: int = 1) -> Grouped:
    """Apply an operation of `layer` to `x`, and split the result into `arrays` arrays if that is above 1."""
    if operation.takes_groups:
        return operation.apply(layer, cast(Any, x), call)
    if arrays > 1 and not isinstance(x, tuple):
        x = tuple(convolution.split(x, arrays))
    if not isinstance(x, tuple):
        return operation.apply(layer, x, call)
    if operation.mixes_groups(layer.model):
        return tuple(convolution.split(operation.apply(layer, joined(x), call), len(x)))
    call = call._replace(towers=call.towers // len(x))
    return tuple(operation.apply(layer, part, call) for part in x)


def joined(x: Grouped, *, unless: int = 1) -> Any:
    """Concatenate the arrays of several groups, unless there are exactly `unless` of them."""
    return jnp.concatenate(x, axis=-1) if isinstance(x, tuple) and len(x) != unless else x


def edited(name: str, edit: Callable[[Array], Array], x: Grouped) -> Grouped:
    """Replace the feature `name`, `x`, by `edit(joined(x))`. Raises ConfigError for another shape or type."""
    before = joined(x)
    after = edit(before)
    if _described(after) != _described(before):
        raise ConfigError(
            f"the edit of {name} returns {_described(after)}, not {_described(before)}"
        )
    return tuple(convolution.split(after, len(x))) if isinstance(x, tuple) else jnp.asarray(after)


def _described(x: Any) -> str:
    is_array = hasattr(x, "dtype") and hasattr(x, "shape")
    return f"{x.dtype} {list(x.shape)}" if is_array else type(x).__name__
