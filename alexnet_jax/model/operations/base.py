"""The interface of a layer operation: one object that knows its computation, sizes, cost, description and export.

Checking a config uses these objects and must not wait for JAX. So the modules of this package import JAX and the
kernels inside the methods that compute, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from alexnet_jax.errors import ConfigError
from alexnet_jax.specs import ConvSpec, ModelSpec

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Array, Float, Key

    from alexnet_jax.kernels.forms import Forms


class Maps(NamedTuple):
    """Outputs for one image: `channels` maps of size x size, or `channels` units of size 1."""

    size: int
    channels: int


class Window(NamedTuple):
    """The window of inputs of one output, the same in height and width."""

    size: int
    stride: int
    pad: int


@dataclass(frozen=True)
class Node:
    """An operation at its place in a net.

    Attributes:
        layer: The name of the layer, such as "fc6".
        spec: Its section of the config, a ConvSpec or FCSpec.
        key: "linear", the name of the operation, or "before/dropout" for one that precedes the linear one.
    """

    layer: str
    spec: Any
    key: str
    operation: Operation

    @property
    def feature(self) -> str:
        """The name of its output among the features of the net."""
        return f"{self.layer}/{self.key}"

    @property
    def prefix(self) -> str:
        """The prefix of the names of its parameters."""
        return "before_" if self.key.startswith("before/") else ""

    @property
    def tensors(self) -> dict[str, str]:
        """PyTorch's name of each of its tensors, by ours, such as 'weight' by 'params/conv1/kernel'."""
        return {
            f"{tree}/{self.layer}/{self.prefix}{leaf}": theirs
            for tree, leaf, theirs in self.operation.tensors
        }

    @property
    def module(self) -> str:
        """The name of its module in a PyTorch export, inside that of its layer (or of `before`)."""
        return self.key.removeprefix("before/")

    @property
    def path(self) -> str:
        """The key of its layer in the config."""
        section = "convs" if isinstance(self.spec, ConvSpec) else "fcs"
        return f"config.model.{section}.{self.layer}"


class Layer(Protocol):
    """The part of the Flax module of a layer, model.alexnet.Layer, that operations use.

    Attributes:
        model: The model section of the config.
        spec: The section of the layer.
        axis_name: Mesh axis over which the statistics of batch normalization are averaged, if any.
        sharding: The part of the layer that is computed on this device, a model.towers.LayerSharding.
        forms: How operations are written for the device.
        is_last: Whether the outputs of the layer are the logits.
        groups: Groups on this device.
        features: Outputs on this device.
        param: Makes or gets a parameter, as flax.linen.Module.param.
        variable: Makes or gets a running average, as flax.linen.Module.variable.
    """

    model: ModelSpec
    spec: Any
    axis_name: str | None
    sharding: Any
    forms: Forms
    is_last: bool
    param: Callable
    variable: Callable
    is_initializing: Callable[[], bool]

    @property
    def groups(self) -> int: ...

    @property
    def features(self) -> int: ...

    def weights(
        self, kernel: tuple[int, ...], bias: tuple[int, ...], *, copies: int = 0
    ) -> tuple[Array, Array]:
        """Kernel and bias of these shapes in the compute type."""
        ...


class Call(NamedTuple):
    """How an operation is applied.

    Attributes:
        next_key: Makes the random keys of one dropout mask.
        dtype: The type of a normalized or pooled result.
        towers: How many towers the maps of the input belong to.
    """

    node: Node
    train: bool
    next_key: Callable[[], Key[Array, "*b"]]
    dtype: Any
    towers: int


class Inversion(NamedTuple):
    """The data with which a deconvnet inverts an operation.

    Attributes:
        params: Parameters of its layer.
        batch_stats: Running averages of its layer.
        inputs: The inputs of the operation in the forward pass.
        rectify: Replaces the activation where that rectifies.
    """

    node: Node
    model: ModelSpec
    params: Any
    batch_stats: Any
    inputs: Array
    rectify: Callable


class Graph:
    """The methods of an ONNX graph under construction (interop.onnx) that operations use.

    Values are known by their names; `add` returns the name of its result.
    """

    model: ModelSpec

    def add(self, name: str, operator: str, *inputs: str, **attributes) -> str:
        raise NotImplementedError

    def add_node(self, names: list[str], operator: str, inputs: list[str], **attributes) -> None:
        """Add an operator that has several results."""
        raise NotImplementedError

    def constant(self, name: str, value: np.ndarray | float) -> str:
        raise NotImplementedError

    def tensor(self, name: str) -> str:
        """A parameter or running average of the net, such as 'params/conv1/kernel'."""
        raise NotImplementedError

    def size(self, node: Node) -> int:
        """The side of the maps that go into `node`."""
        raise NotImplementedError


class Operation:
    """Base class of operations; its defaults are those of an elementwise operation without parameters.

    Attributes:
        name: Its name in configs and features.
        on_dense: Whether fully-connected layers may have it.
        is_linear: Whether it is the convolution or matrix product of a layer.
        has_own_line: Whether tables of a net have a line for it.
        takes_groups: Whether `apply` takes the maps of each group as an array of their own (model/grouping.py).
        keeps_float32: Whether its result stays float32 if an operation that compares values follows.
        compares: Whether it compares its inputs, so that rounding them first could make them equal.
        tensors: (tree, our name, PyTorch's name) of each parameter and running average.
    """

    name: ClassVar[str]
    on_dense: ClassVar[bool] = False
    is_linear: ClassVar[bool] = False
    has_own_line: ClassVar[bool] = False
    takes_groups: ClassVar[bool] = False
    keeps_float32: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    tensors: ClassVar[tuple[tuple[str, str, str], ...]] = ()

    def apply(self, layer: Layer, x: Float[Array, "b *place c"], call: Call) -> Any:
        """The operation on `x`; `layer` is the Flax module that holds parameters and settings."""
        raise NotImplementedError

    def mixes_groups(self, model: ModelSpec) -> bool:
        """Whether its results need the maps of all groups in one array."""
        return False

    def output(self, node: Node, model: ModelSpec, inputs: Maps) -> Maps:
        """The outputs for `inputs`. Raises ConfigError where it cannot be applied to them."""
        return inputs

    def parameters(self, node: Node, model: ModelSpec, inputs: Maps) -> int:
        return 0

    def multiply_adds(self, node: Node, model: ModelSpec, inputs: Maps) -> int:
        """Multiply-adds for one image, forward."""
        return 0

    def window(self, node: Node) -> Window | None:
        """The window of one output; None if an output depends on one position only."""
        return None

    def border(self, model: ModelSpec) -> tuple[int, int]:
        """Number of maps that a tower needs from the previous tower and from the next one."""
        return 0, 0

    def describe(self, node: Node, model: ModelSpec) -> str:
        return self.name

    def faults(self, node: Node, model: ModelSpec) -> Iterator[str]:
        """What is wrong with the config of this operation."""
        return iter(())

    def sharding_faults(self, node: Node, model: ModelSpec) -> Iterator[str]:
        """Why the towers of a net with this operation cannot lie on devices of their own."""
        return iter(())

    def to_onnx(self, graph: Graph, node: Node, x: str) -> str:
        """Add the operation to `graph`; the name of its result. Raises ConfigError for what ONNX lacks."""
        raise ConfigError(f"layer {node.layer}: {self.name} cannot be exported to ONNX")

    def to_torch(self, node: Node, model: ModelSpec, inputs: Maps) -> dict[str, str]:
        """Return {name: Python expression} of its modules of PyTorch, which are applied in this order.

        Expressions may use `nn` and the classes of interop/pytorch_parts.py. `model` has its number of classes.
        """
        raise ConfigError(f"layer {node.layer}: {self.name} cannot be exported to PyTorch")

    def invert(self, x: Float[Array, "b *place c"], inversion: Inversion) -> Array:
        """Project `x` from the outputs of the operation to its inputs (analysis.deconvnet); by default unchanged."""
        return x
