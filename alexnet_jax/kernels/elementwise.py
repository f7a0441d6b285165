"""Biases, ReLU and gradient norms; the Forms fields bias_gradient, relu and norm select implementations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from alexnet_jax.kernels.forms import Forms
from alexnet_jax.kernels.linear import linear


def add_bias(
    x: Float[Array, "b *hw f"], bias: Float[Array, "f"] | Float[Array, "*hw f"], forms: Forms
) -> Float[Array, "b *hw f"]:
    """Add a bias for each feature, or for each feature and position."""
    return _BIAS[forms.bias_gradient](x, bias)


def _with_gradient(total: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """Return x + bias as a function whose bias gradient is `total(cotangent as [n bias.size])`, in float32."""

    @jax.custom_jvp
    def add(x, bias):
        return x + bias

    @add.defjvp
    def derivative(primals, tangents):
        x, bias = primals

        def backward(_, gradient):
            flat = gradient.reshape(-1, bias.size)
            return gradient, total(flat).reshape(bias.shape).astype(bias.dtype)

        return x + bias, linear(lambda _, x, bias: x + bias, backward, (), tangents)

    return add


def _by_ones(flat: jax.Array) -> jax.Array:
    # A matrix product uses all cores, while XLA:CPU sums columns on one (conv1: 5 ms instead of 29).
    ones = jnp.ones((1, flat.shape[0]), flat.dtype)
    return jnp.matmul(ones, flat, precision="highest", preferred_element_type=jnp.float32)


def _by_sum(flat: jax.Array) -> jax.Array:
    # Without the barrier, XLA:GPU fuses the sum with its producers and computes the gradients of pool and LRN twice
    # (H200, conv1 at batch 512: 1.85 ms, where the memory traffic needs 0.1 ms).
    return jnp.sum(lax.optimization_barrier(flat), axis=0, dtype=jnp.float32)


_BIAS = {
    "ones": _with_gradient(_by_ones),
    "sum": _with_gradient(_by_sum),
    "derived": lambda x, bias: x + bias,
}


def relu(x: Float[Array, "..."], forms: Forms) -> Float[Array, "..."]:
    """Compute max(x, 0), with gradient 0 at 0."""
    return _relu_of_output(x) if forms.relu == "of_output" else jax.nn.relu(x)


@jax.custom_jvp
def _relu_of_output(x):
    return lax.optimization_barrier(jnp.maximum(x, 0))


@_relu_of_output.defjvp
def _relu_derivative(primals, tangents):
    y = _relu_of_output(*primals)
    return y, linear(
        _where_positive, lambda residuals, g: (_where_positive(residuals, g),), (y,), tangents
    )


def _where_positive(residuals: tuple[jax.Array], gradient: jax.Array) -> jax.Array:
    [y] = residuals
    return jnp.where(y > 0, gradient, jnp.zeros_like(gradient))


def sum_of_squares(x: Float[Array, "..."], forms: Forms) -> Float[Array, ""]:
    """Compute the sum of the squares of all values."""
    # XLA:CPU writes all squares to memory before it adds them, unless slices are added first. For the paper's network,
    # this takes a quarter of the time of optax.tree.norm, and 0.2 GB less memory.
    slices = 16 if forms.norm == "sliced" and x.size % 16 == 0 else 1
    return jnp.sum(sum(jnp.square(part) for part in jnp.split(x.reshape(-1), slices)))
