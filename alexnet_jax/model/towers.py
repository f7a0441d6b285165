"""§3.2: each tower on a device of its own, and what crosses between them.

The net calls the methods of `TowerSharding` and `LayerSharding`, which do nothing by default. With towers on devices
of their own, it runs inside `jax.shard_map`, where maps or units are split over the mesh axis of the towers.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from alexnet_jax.kernels.linear import linear
from alexnet_jax.model.geometry import is_replicated
from alexnet_jax.model.mesh import TOWER
from alexnet_jax.specs import ConvSpec, FCSpec, ModelSpec


@dataclass(frozen=True)
class LayerSharding:
    """The part of one layer that is computed on a device: all of it by default.

    Attributes:
        devices: Over how many devices its outputs are split.
        input_devices: Over how many its inputs are split, when they come from the layer before.
        gathers: Whether it needs the inputs of all devices.
    """

    devices: int = 1
    input_devices: int = 1
    gathers: bool = False

    def inputs(self, x: Float[Array, "b *place c"]) -> Float[Array, "b *place c2"]:
        """The outputs of the layer before, as this layer needs them."""
        if not self.gathers:
            return x
        return all_gather_replicated(x) if self.devices == 1 else all_gather(x)

    def groups(self, layer: ConvSpec | FCSpec) -> int:
        """The groups of the layer that are computed here."""
        return max(layer.groups // self.devices, 1)

    def local(
        self, make: Callable[[tuple[int, ...]], Array], shape: tuple[int, ...], *, of_inputs: bool
    ) -> Array:
        """This device's part, of `shape`, of an array that `make` computes for all maps or units.

        of_inputs: for the inputs of the layer, not for its outputs.
        """
        is_split = self.devices > 1 and not (
            of_inputs and (self.gathers or self.input_devices == 1)
        )
        if not is_split:
            return make(shape)
        return local_shard(make((*shape[:-1], shape[-1] * lax.axis_size(TOWER))))

    def with_neighbors(
        self,
        function: Callable[[Array], Array],
        x: Float[Array, "*place c"],
        before: int,
        after: int,
    ) -> Float[Array, "*place c"]:
        """`function`, whose windows reach `before` and `after` maps, over the maps of all devices."""
        if self.devices == 1:
            return function(x)
        y = function(exchange_borders(x, before, after))
        return lax.slice_in_dim(y, before, before + x.shape[-1], axis=y.ndim - 1)


@dataclass(frozen=True)
class TowerSharding:
    """Over how many devices the towers of a net are split."""

    devices: int = 1

    def of_layer(self, model: ModelSpec, name: str) -> LayerSharding:
        if self.devices == 1:
            return LayerSharding()
        names = [layer for layer, _ in model.layers]
        place = names.index(name)
        replicated = is_replicated(model, name)
        inputs_split = place > 0 and not is_replicated(model, names[place - 1])
        gathers = inputs_split and model.layers[place][1].groups == 1
        return LayerSharding(
            devices=1 if replicated else self.devices,
            input_devices=self.devices if inputs_split else 1,
            gathers=gathers,
        )

    def logits(self, model: ModelSpec, x: Float[Array, "b c"]) -> Float[Array, "b classes"]:
        """The outputs of the last layer, of all devices: those of towers that never met are still apart."""
        last, _ = model.layers[-1]
        is_split = self.of_layer(model, last).devices > 1
        return all_gather_replicated(x) if is_split else x


def all_gather(x: Float[Array, "*place c"]) -> Float[Array, "*place all"]:
    """Local maps -> those of all towers, for a layer of which each tower computes a part.

    Backward, each tower receives the sum of the gradients by its maps.
    """
    return lax.all_gather(x, TOWER, axis=x.ndim - 1, tiled=True)


@jax.custom_jvp
def all_gather_replicated(x: Float[Array, "*place c"]) -> Float[Array, "*place all"]:
    """`all_gather` for what every tower computes whole: all have the same gradient, and nothing crosses back."""
    return all_gather(x)


@all_gather_replicated.defjvp
def _all_gather_derivative(primals, tangents):
    y = all_gather(*primals)
    return y, linear(lambda _, part: all_gather(part), lambda _, g: (local_shard(g),), (), tangents)


def local_shard(x: Float[Array, "*place all"]) -> Float[Array, "*place c"]:
    """This tower's part of the last axis."""
    part = x.shape[-1] // lax.axis_size(TOWER)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(TOWER) * part, part, axis=x.ndim - 1)


def exchange_borders(
    x: Float[Array, "*place c"], before: int, after: int
) -> Float[Array, "*place c2"]:
    """Local maps [... c] -> [... before + c + after]: with those of the neighboring towers, zeros at the ends.

    Backward, each tower receives the gradient by the maps that it sent. Both counts are at most c.
    """
    last = lax.axis_size(TOWER) - 1
    up = [(tower, tower + 1) for tower in range(last)]
    down = [(tower + 1, tower) for tower in range(last)]
    width, parts = x.shape[-1], [x]
    if before:
        parts.insert(0, lax.ppermute(x[..., width - before :], TOWER, up))
    if after:
        parts.append(lax.ppermute(x[..., :after], TOWER, down))
    return jnp.concatenate(parts, axis=-1)


def partition(model: ModelSpec, tree):
    """A PartitionSpec for every array of `tree`: parameters, or a tree with the same layers and names.

    Maps and units, the last axis, are split over the towers. The last layer is replicated, as both towers see all
    inputs of fc8, unless its towers do not meet.
    """
    return jax.tree_util.tree_map_with_path(functools.partial(_partition, model), tree)


def _partition(model: ModelSpec, path, array) -> jax.P:
    names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
    if not names or array.ndim == 0:  # a count of the optimizer
        return jax.P()
    if is_replicated(model, names[0]):
        return jax.P()
    layer = dict(model.layers)[names[0]]
    if isinstance(layer, FCSpec) and layer.groups > 1 and names[1] == "kernel":
        return jax.P(TOWER)  # [groups inputs/groups features/groups]
    return jax.P(*[None] * (array.ndim - 1), TOWER)
