"""The convolutions on the examples of each device, the fully-connected layers on the units of each device.

Krizhevsky (2014), "One weird trick for parallelizing convolutional neural networks", scheme (a): convolutions have most
of the arithmetic and few parameters, so the batch is split over the devices; fully-connected layers have most of the
parameters, so their units are split, and every device computes its units for the whole batch. Activations cross between
the devices instead of the gradients of the large kernels. Both use the mesh axis of the data.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from alexnet_jax.model.geometry import is_divided
from alexnet_jax.model.mesh import DATA, TOWER
from alexnet_jax.model.towers import LayerSharding, TowerSharding, last_axis, partition_by_layer
from alexnet_jax.specs import Config, ModelSpec


@dataclass(frozen=True)
class UnitSharding(LayerSharding):
    """The units of a fully-connected layer on one device; with devices=1 all units, for its own examples."""

    axis: str = DATA

    def inputs(self, x: Float[Array, "b *place c"]) -> Float[Array, "b2 *place c2"]:
        """Return the whole batch with all units, or the examples of this device, as the layer takes them.

        In the backward pass, each device receives the sum of the gradients of what it sent.
        """
        if self.devices == 1:
            return own_examples(x) if self.input_devices > 1 else x
        return lax.all_gather(x, DATA, axis=x.ndim - 1 if self.input_devices > 1 else 0, tiled=True)

    def example_keys(self, keys: Key[Array, "*b"]) -> Key[Array, "*b2"]:
        """Return the keys of the whole batch; of one key per device, that of the first."""
        if self.devices == 1:
            return keys
        data = lax.all_gather(jax.random.key_data(keys), DATA)
        data = data[0] if keys.ndim == 0 else jnp.concatenate(data)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(keys))

    def statistics_axis(self, axis_name: str | None) -> str | None:
        return axis_name if self.devices == 1 else None


@dataclass(frozen=True)
class HybridSharding:
    """How the fully-connected layers of a net are split over the devices that share a batch.

    Attributes:
        devices: Number of devices.
    """

    devices: int

    def for_layer(self, model: ModelSpec, name: str) -> LayerSharding:
        """Return the sharding of a layer."""
        names = [layer for layer, _ in model.layers]
        place = names.index(name)
        is_split = is_divided(model, name, self.devices)
        inputs_split = place > 0 and is_divided(model, names[place - 1], self.devices)
        return UnitSharding(
            devices=self.devices if is_split else 1,
            input_devices=self.devices if inputs_split else 1,
            gathers=is_split,
        )

    def logits(self, model: ModelSpec, x: Float[Array, "b c"]) -> Float[Array, "b2 classes"]:
        """Return the logits of the examples of this device."""
        last, _ = model.layers[-1]
        return own_examples(x) if is_divided(model, last, self.devices) else x

    def partition(self, model: ModelSpec, tree: Any) -> Any:
        """Return a PartitionSpec for every array in `tree`: parameters, or a tree with the same layers and names.

        The units of divided layers, the last axis, are split. What normalizes the inputs of a layer is not.
        """

        def one(name: str, parameter: str, array: Any) -> jax.P:
            is_split = is_divided(model, name, self.devices) and not parameter.startswith("before_")
            return last_axis(array, DATA) if is_split else jax.P()

        return partition_by_layer(tree, one)


def own_examples(x: Float[Array, "b units"]) -> Float[Array, "b2 all"]:
    """Exchange this device's units of the whole batch for all units of this device's examples."""
    return lax.all_to_all(x, DATA, split_axis=0, concat_axis=x.ndim - 1, tiled=True)


def sharding_of(spec: Config, mesh: jax.sharding.Mesh) -> TowerSharding | HybridSharding:
    """Return how the net of `spec` is split over the devices of `mesh`."""
    if spec.train.split_dense:
        return HybridSharding(mesh.shape[DATA])
    return TowerSharding(mesh.shape[TOWER])
