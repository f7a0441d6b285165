"""Nonlinearities (§3.1). A new one is an entry of ACTIVATIONS."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from alexnet_jax.model.operations.base import Graph, Operation

if TYPE_CHECKING:
    from jaxtyping import Array

    from alexnet_jax.kernels.forms import Forms


class Activation(NamedTuple):
    """A nonlinearity.

    Attributes:
        apply: f(x, forms), elementwise.
        to_onnx: f(graph, name, x) that adds it to an ONNX graph.
        to_torch: Expression of its module of PyTorch.
        limits: Its lower and upper asymptote, at which it saturates; None where there is none.
        rectifies: Whether a deconvnet applies a ReLU in its place.
    """

    apply: Callable[[Array, Forms], Array]
    to_onnx: Callable[[Graph, str, str], str]
    to_torch: str
    limits: tuple[float | None, float] | None = None
    rectifies: bool = False


def _relu(x, forms):
    from alexnet_jax.kernels import elementwise

    return elementwise.relu(x, forms)


def _tanh(x, forms):
    import jax.numpy as jnp

    return jnp.tanh(x)


def _scaled_tanh(x, forms):
    """LeCun's tanh, which is 1 at 1 and -1 at -1."""
    import jax.numpy as jnp

    return 1.7159 * jnp.tanh(x * (2 / 3))


def _scaled_tanh_onnx(graph: Graph, name: str, x: str) -> str:
    x = graph.add(f"{name}/in", "Mul", x, graph.constant(f"{name}/in_scale", 2 / 3))
    x = graph.add(f"{name}/tanh", "Tanh", x)
    return graph.add(name, "Mul", x, graph.constant(f"{name}/out_scale", 1.7159))


def _abs_tanh(x, forms):
    """|tanh x|, the nonlinearity of Jarrett et al. that §3.1 mentions."""
    import jax.numpy as jnp

    return jnp.abs(jnp.tanh(x))


def _abs_tanh_onnx(graph: Graph, name: str, x: str) -> str:
    return graph.add(name, "Abs", graph.add(f"{name}/tanh", "Tanh", x))


def _sigmoid(x, forms):
    import jax

    return jax.nn.sigmoid(x)


def _softplus(x, forms):
    import jax

    return jax.nn.softplus(x)


def _operator(operator: str) -> Callable[[Graph, str, str], str]:
    """Return the `to_onnx` of an activation that is a single operator of ONNX."""
    return lambda graph, name, x: graph.add(name, operator, x)


ACTIVATIONS = {
    "relu": Activation(_relu, _operator("Relu"), "nn.ReLU()", rectifies=True),
    "tanh": Activation(_tanh, _operator("Tanh"), "nn.Tanh()", limits=(-1.0, 1.0)),
    "scaled_tanh": Activation(
        _scaled_tanh, _scaled_tanh_onnx, "ScaledTanh()", limits=(-1.7159, 1.7159)
    ),
    "abs_tanh": Activation(_abs_tanh, _abs_tanh_onnx, "AbsTanh()", limits=(None, 1.0)),
    "sigmoid": Activation(_sigmoid, _operator("Sigmoid"), "nn.Sigmoid()", limits=(0.0, 1.0)),
    "softplus": Activation(_softplus, _operator("Softplus"), "nn.Softplus()"),
}


class Act(Operation):
    """The activation of config.model.activation."""

    name = "act"
    on_dense = True

    def apply(self, layer, x, call):
        return ACTIVATIONS[layer.model.activation].apply(x, layer.forms)

    def to_onnx(self, graph, node, x):
        return ACTIVATIONS[graph.model.activation].to_onnx(graph, node.feature, x)

    def to_torch(self, node, model, inputs):
        return {node.module: ACTIVATIONS[model.activation].to_torch}

    def invert(self, x, inversion):
        rectifies = ACTIVATIONS[inversion.model.activation].rectifies
        return inversion.rectify(x) if rectifies else x
