"""Towers on separate devices (§3.2), and the communication between them.

The net calls the methods of `TowerSharding` and `LayerSharding`, which do nothing by default. With towers on separate
devices, the net runs inside `jax.shard_map`, and maps or units are split over the mesh axis of the towers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from alexnet_jax.kernels.linear import linear
from alexnet_jax.model.geometry import is_replicated
from alexnet_jax.model.mesh import TOWER
from alexnet_jax.specs import ConvSpec, FCSpec, ModelSpec


@dataclass(frozen=True)
class LayerSharding:
    """The part of a layer that is computed on one device; by default the whole layer.

    Attributes:
        devices: Number of devices over which the outputs of the layer are split.
        input_devices: Number of devices over which the outputs of the previous layer are split.
        gathers: Whether the layer needs the inputs from all devices.
        axis: Mesh axis over which they are split.
    """

    devices: int = 1
    input_devices: int = 1
    gathers: bool = False
    axis: str = TOWER

    def inputs(self, x: Float[Array, "b *place c"]) -> Float[Array, "b *place c2"]:
        """Return the inputs of this layer, given the outputs of the previous layer on this device."""
        if not self.gathers:
            return x
        return all_gather_replicated(x) if self.devices == 1 else all_gather(x)

    def example_keys(self, keys: Key[Array, "*b"]) -> Key[Array, "*b2"]:
        """Return the random keys of the examples that this layer sees, given those of this device's examples."""
        return keys

    def statistics_axis(self, axis_name: str | None) -> str | None:
        """Return the mesh axis over which batch statistics are averaged, given that of the batch."""
        return axis_name

    def groups(self, layer: ConvSpec | FCSpec) -> int:
        """Return the number of groups of the layer on this device."""
        return max(layer.groups // self.devices, 1)

    def local(
        self, make: Callable[[tuple[int, ...]], Array], shape: tuple[int, ...], *, over_inputs: bool
    ) -> Array:
        """Return this device's part, of shape `shape`, of an array over the maps or units of all devices.

        Args:
            make: Computes the whole array, given its shape.
            over_inputs: Whether the array is over the inputs of the layer, not its outputs.
        """
        is_split = self.devices > 1 and not (
            over_inputs and (self.gathers or self.input_devices == 1)
        )
        if not is_split:
            return make(shape)
        return local_shard(make((*shape[:-1], shape[-1] * self.devices)), self.axis)

    def with_neighbors(
        self,
        function: Callable[[Array], Array],
        x: Float[Array, "*place c"],
        before: int,
        after: int,
    ) -> Float[Array, "*place c"]:
        """Apply `function`, whose windows extend over `before` and `after` maps, across the borders of the towers."""
        if self.devices == 1:
            return function(x)
        y = function(exchange_borders(x, before, after))
        return lax.slice_in_dim(y, before, before + x.shape[-1], axis=y.ndim - 1)


@dataclass(frozen=True)
class TowerSharding:
    """How the towers of a net are split over devices.

    Attributes:
        devices: Number of devices over which the towers are split.
    """

    devices: int = 1

    def for_layer(self, model: ModelSpec, name: str) -> LayerSharding:
        """Return the sharding of a layer."""
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
        """Return the logits of all devices; if the last layer does not join the towers, they are gathered here."""
        last, _ = model.layers[-1]
        is_split = self.for_layer(model, last).devices > 1
        return all_gather_replicated(x) if is_split else x

    def partition(self, model: ModelSpec, tree: Any) -> Any:
        """Return a PartitionSpec for every array in `tree`: parameters, or a tree with the same layers and names.

        Maps and units, the last axis, are split over the towers, except for a last layer that joins the towers.
        """
        if self.devices == 1:
            return jax.tree.map(lambda _: jax.P(), tree)

        def one(name: str, parameter: str, array: Any) -> jax.P:
            if is_replicated(model, name):
                return jax.P()
            layer = dict(model.layers)[name]
            if isinstance(layer, FCSpec) and layer.groups > 1 and parameter == "kernel":
                return jax.P(TOWER)  # [groups inputs/groups features/groups]
            return last_axis(array, TOWER)

        return partition_by_layer(tree, one)


def partition_by_layer(tree: Any, one: Callable[[str, str, Any], jax.P]) -> Any:
    """Return a PartitionSpec for every array in `tree`, which has layers and, in them, names of parameters.

    Args:
        one: Returns that of an array of a layer and a name. What has none, such as a step count of the optimizer, and
            scalars are not split.
    """

    def place(path: Any, array: Any) -> jax.P:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        return one(names[0], names[1], array) if names and array.ndim else jax.P()

    return jax.tree_util.tree_map_with_path(place, tree)


def last_axis(array: Any, axis: str) -> jax.P:
    """Return the PartitionSpec that splits the last axis of `array` over the mesh axis `axis`."""
    return jax.P(*[None] * (array.ndim - 1), axis)


def all_gather(x: Float[Array, "*place c"]) -> Float[Array, "*place all"]:
    """Gather the maps of all towers, for a layer of which each tower computes a part.

    In the backward pass, each tower receives the sum of the gradients of its maps.
    """
    return lax.all_gather(x, TOWER, axis=x.ndim - 1, tiled=True)


@jax.custom_jvp
def all_gather_replicated(x: Float[Array, "*place c"]) -> Float[Array, "*place all"]:
    """Gather the maps of all towers, for a replicated layer.

    All towers compute the same gradient, so the backward pass takes the local part and does not communicate.
    """
    return all_gather(x)


@all_gather_replicated.defjvp
def _all_gather_derivative(primals, tangents):
    y = all_gather(*primals)
    return y, linear(lambda _, part: all_gather(part), lambda _, g: (local_shard(g),), (), tangents)


def local_shard(x: Float[Array, "*place all"], axis: str = TOWER) -> Float[Array, "*place c"]:
    """Return this device's part of the last axis."""
    part = x.shape[-1] // lax.axis_size(axis)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(axis) * part, part, axis=x.ndim - 1)


def exchange_borders(
    x: Float[Array, "*place c"], before: int, after: int
) -> Float[Array, "*place c2"]:
    """Add maps of the neighboring towers before and after the local maps, and zeros at both ends.

    `before` and `after` are at most c. In the backward pass, each tower receives the gradient of the maps that it sent.
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
