"""Biases, ReLU and the norm of a gradient, each in several forms (Forms.bias_gradient, relu, norm)."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from alexnet_jax.kernels.forms import Forms
from alexnet_jax.kernels.linear import linear


def add_bias(
    x: Float[Array, "b *place f"], bias: Float[Array, "f"] | Float[Array, "*place f"], forms: Forms
) -> Float[Array, "b *place f"]:
    """Add a bias for each feature, or for each feature and place."""
    return _BIAS[forms.bias_gradient](x, bias)


def _with_gradient(total):
    """x + bias, whose gradient by the bias is `total(flat [n bias.size])`, float32."""

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


def _by_ones(flat):
    # A product with ones, which is threaded; XLA:CPU sums columns on one core (conv1: 5 against 29 ms).
    ones = jnp.ones((1, flat.shape[0]), flat.dtype)
    return jnp.matmul(ones, flat, precision="highest", preferred_element_type=jnp.float32)


def _by_sum(flat):
    # Behind a barrier: XLA:GPU would fuse the sum with its producers and compute the gradients of pool and LRN twice
    # (H200, conv1 at batch 512: 1.85 ms; its bytes take 0.1).
    return jnp.sum(lax.optimization_barrier(flat), axis=0, dtype=jnp.float32)


_BIAS = {
    "ones": _with_gradient(_by_ones),
    "sum": _with_gradient(_by_sum),
    "derived": lambda x, bias: x + bias,
}


def relu(x: Float[Array, "..."], forms: Forms) -> Float[Array, "..."]:
    """max(x, 0), with gradient 0 at 0."""
    return _relu_of_output(x) if forms.relu == "of_output" else jax.nn.relu(x)


@jax.custom_jvp
def _relu_of_output(x):
    return lax.optimization_barrier(jnp.maximum(x, 0))


@_relu_of_output.defjvp
def _relu_derivative(primals, tangents):
    y = _relu_of_output(*primals)
    return y, linear(
        _where_positive, lambda kept, part: (_where_positive(kept, part),), (y,), tangents
    )


def _where_positive(residuals, part):
    [y] = residuals
    return jnp.where(y > 0, part, jnp.zeros_like(part))


def sum_of_squares(x: Float[Array, "..."], forms: Forms) -> Float[Array, ""]:
    """The sum of the squares of all values."""
    # XLA:CPU writes all squares to memory before it adds them, unless a sum of slices comes first:
    # a quarter of the time of optax.tree.norm with the update of the paper's net, and 0.2 GB less.
    slices = 16 if forms.norm == "sliced" and x.size % 16 == 0 else 1
    return jnp.sum(sum(jnp.square(part) for part in jnp.split(x.reshape(-1), slices)))
