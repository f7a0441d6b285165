"""AlexNet (§3.5, Figure 2): the layers of a config, one after the other."""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from alexnet_jax.errors import ConfigError, listed
from alexnet_jax.kernels import convolution
from alexnet_jax.kernels.convolution import Blocks
from alexnet_jax.kernels.forms import Forms, or_default
from alexnet_jax.model import grouping, operations
from alexnet_jax.model.hybrid import HybridSharding
from alexnet_jax.model.operations.dense import features_of
from alexnet_jax.model.towers import LayerSharding, TowerSharding
from alexnet_jax.specs import Config, ConvSpec, ModelSpec

#: Feature, such as "conv5" or "conv1/linear" -> function that replaces it: array -> array of the same shape and type.
Edit = Mapping[str, Callable[[Array], Array]]


class AlexNet(nn.Module):
    """The network of `spec`, with its switches applied and num_classes filled in.

    Attributes:
        axis_name: Mesh axis over which the statistics of batch normalization are averaged, if any.
        sharding: Over how many devices the towers of §3.2, or the fully-connected layers, are split.
        forms: How operations are written for the device; None: as for the default backend.
        precision: Of float32 products: 'default' (TF32 where the device has it) or 'highest'.
    """

    spec: ModelSpec
    axis_name: str | None = None
    sharding: TowerSharding | HybridSharding = TowerSharding()
    forms: Forms | None = None
    precision: str = "default"

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w 3"] | Blocks,
        *,
        train: bool,
        example_keys: Key[Array, "*b"] | None = None,
        edit: Edit | None = None,
    ) -> tuple[Float[Array, "b classes"], dict[str, Array]]:
        """Compute the logits, float32, and all features.

        Args:
            images: Mean subtracted; may be the Blocks that the first layer takes.
            train: Whether dropout and batch normalization act as in training.
            example_keys: Needed in training with dropout. With a key for each example, its mask depends on the key
                and the place in the network alone, not on the batch around it or the number of devices. One key
                makes one draw for all.
            edit: Functions that replace features, by the names below. What follows, and the features returned, are
                computed from the results.

        Returns:
            Logits, and features by name: "conv1/linear", "conv1/act", ..., with "conv1" for the last one of a layer
            and "fc6/before/dropout" for an operation before the product. With towers on devices of their own, the
            features are those of this tower.

        Raises:
            ConfigError: There is no feature to edit by this name, or its edit returns another shape or type.
        """
        with jax.default_matmul_precision(self.precision):
            return self._apply_layers(images, train, DropoutKeys(example_keys), edit or {})

    def _apply_layers(self, images, train: bool, dropout_keys: "DropoutKeys", edit: Edit):
        forms, last = or_default(self.forms), self.spec.layers[-1][0]
        edit = _by_operation(self.spec, edit)
        x = images.astype(self.spec.compute_dtype)
        features: dict[str, Array] = {}
        for name, spec in self.spec.layers:
            sharding = self.sharding.for_layer(self.spec, name)
            arrays = grouping.arrays_after(name, self.spec, forms, sharding) if train else 1
            layer = Layer(
                self.spec, spec, sharding.statistics_axis(self.axis_name), sharding, forms, arrays,
                name == last, name=name,
            )  # fmt: skip
            outputs = layer(sharding.inputs(x), train=train, dropout_keys=dropout_keys, edit=edit)
            features |= {f"{name}/{key}": grouping.joined(output) for key, output in outputs}
            x = outputs[-1][1]
            features[name] = grouping.joined(x)
        logits = features[last] = self.sharding.logits(self.spec, x).astype(jnp.float32)
        return logits, features


def _by_operation(spec: ModelSpec, edit: Edit) -> Edit:
    """Return `edit` with the name of the last operation, "conv5/pool", in place of that of a layer, "conv5"."""
    nodes = list(operations.all_nodes(spec))
    names = {node.feature: node.feature for node in nodes}
    names |= {node.layer: node.feature for node in nodes}
    if unknown := [str(name) for name in edit if name not in names]:
        raise ConfigError(
            f"edit: the network has no features {listed(unknown)}; it has {', '.join(names)}"
        )
    found = {names[name]: function for name, function in edit.items()}
    if len(found) < len(edit):
        raise ConfigError(f"edit: two of {', '.join(edit)} are the same feature")
    return found


class Layer(nn.Module):
    """One layer: its weights, and the operations before and after the convolution or product.

    The attributes are those of `operations.base.Layer`, which operations use, and `arrays`: the number of arrays in
    which the outputs are returned, one for each group of the next layer.
    """

    model: ModelSpec
    spec: Any
    axis_name: str | None
    sharding: LayerSharding
    forms: Forms
    arrays: int
    is_last: bool

    @nn.compact
    def __call__(
        self, x: Any, *, train: bool, dropout_keys: "DropoutKeys", edit: Edit
    ) -> list[tuple[str, Any]]:
        """(key, output) of each operation in order."""

        def next_key() -> Key[Array, "*b"]:
            return self.sharding.example_keys(dropout_keys.next())

        x, outputs = self._inputs(x), []
        nodes = operations.nodes(self.name or "", self.spec)
        for node, following in itertools.zip_longest(nodes, nodes[1:]):
            # The inputs that a pool compares are not rounded; the pool itself rounds its results.
            compared = following is not None and following.operation.compares
            wide = (
                node.operation.keeps_float32 and compared and self.model.compute_dtype != "float32"
            )
            dtype = jnp.dtype("float32" if wide else self.model.compute_dtype)
            towers = self.model.towers // self.sharding.devices
            call = operations.Call(node, train, next_key, dtype, towers)
            arrays = self.arrays if following is None and node.key != "linear" else 1
            x = grouping.apply(node.operation, self, x, call, arrays)
            is_fused = self.forms.fused_activations and following and following.key == "act"
            x = x if wide or is_fused else self.forms.barrier(x)
            if node.feature in edit:
                x = grouping.edited(node.feature, edit[node.feature], x)
            outputs.append((node.key, x))
        return outputs

    def _inputs(self, x):
        """Return the outputs of the previous layer in the shape that the first operation takes."""
        if isinstance(self.spec, ConvSpec):
            return grouping.joined(x, unless=self.groups)
        x = grouping.joined(x)
        if x.ndim == 2:
            return x
        if x.shape[-1] % self.groups:
            raise ConfigError(
                f"model.fcs.{self.name}: groups={self.spec.groups} must divide the {x.shape[-1]} "
                f"maps of its inputs"
            )
        return convolution.flatten(x, self.groups)

    @property
    def groups(self) -> int:
        """Groups on this device."""
        return self.sharding.groups(self.spec)

    @property
    def features(self) -> int:
        """Outputs on this device."""
        return features_of(self.spec, self.model) // self.sharding.devices

    def weights(
        self, kernel: tuple[int, ...], bias: tuple[int, ...], *, copies: int = 0
    ) -> tuple[Array, Array]:
        """Kernel and bias, float32 parameters of these shapes, in the compute type.

        copies: number of leading axes of the kernel that hold one kernel each.
        """
        initial = initializer(self.model.init, self.spec.init_std, copies)
        kernels = self.param("kernel", initial, kernel, jnp.float32)
        constant = nn.initializers.constant(self.spec.bias)
        biases = self.param("bias", constant, bias, jnp.float32)
        return kernels.astype(self.model.compute_dtype), biases.astype(self.model.compute_dtype)


def initializer(kind: str, std: float, copies: int) -> nn.initializers.Initializer:
    """Return the initializer of weights: a Gaussian of deviation `std` (§5), or 'he' or 'glorot' as in Keras.

    copies: number of leading axes of a kernel that hold one kernel each.
    """
    axes = tuple(range(copies))
    scaling = nn.initializers.variance_scaling
    match kind:
        case "gaussian":
            return nn.initializers.normal(std)
        case "he":
            return scaling(2.0, "fan_in", "normal", batch_axis=axes)
        case "glorot":
            return scaling(1.0, "fan_avg", "uniform", batch_axis=axes)
    raise ConfigError(f"model.init {kind!r} is not gaussian, he or glorot")


class DropoutKeys:
    """Gives each dropout of the network keys of its own, one for each example, or one key."""

    def __init__(self, example_keys: Key[Array, "*b"] | None) -> None:
        self.example_keys, self.used = example_keys, 0

    def next(self) -> Key[Array, "*b"]:
        if self.example_keys is None:
            raise ValueError("AlexNet(train=True) with dropout needs example_keys")
        self.used += 1
        if self.example_keys.ndim == 0:
            return jax.random.fold_in(self.example_keys, self.used)
        return jax.vmap(jax.random.fold_in, (0, None))(self.example_keys, self.used)


def from_config(config: Config, forms: Forms | None = None) -> AlexNet:
    """Return the network of `config`, with `train.matmul_precision` as the precision of its products."""
    return AlexNet(config.model, forms=forms, precision=config.train.matmul_precision)


def count_parameters(params: Any) -> int:
    """The number of values in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def init(model: AlexNet, key: Key[Array, ""], input_size: int) -> dict[str, Any]:
    """{"params": ..., "batch_stats": ...} of `model` for square images; jit it or eval_shape it."""
    images = jnp.zeros((1, input_size, input_size, 3), jnp.float32)
    variables = model.init(key, images, train=False)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


@functools.cache
def shapes(spec: ModelSpec, input_size: int) -> dict[str, Any]:
    """Return the result of `init` for a network as ShapeDtypeStructs, in a dict that all callers share."""
    return jax.eval_shape(lambda key: init(AlexNet(spec), key, input_size), jax.random.key(0))
