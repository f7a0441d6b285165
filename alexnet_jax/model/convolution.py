"""The linear operations: convolutions with groups (§3.2, §3.5), unshared kernels, dense layers."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


def convolution(x, kernel, *, stride, pad, groups=1):
    """[b h w c] * [kh kw c/groups features] -> [b oh ow features]; rounds sizes down (§3.5).

    `pad` is (before, after), the same in both directions. With groups, kernel g of the last axis'
    g-th part sees only the g-th part of the input maps: the towers of §3.2.
    """

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(stride, stride),
            padding=(pad, pad),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    if groups == 1:
        return convolve(x, kernel)
    # Not feature_group_count: on CPU its weight gradient is 25 times slower than two of the parts'
    # (performance: conv2 at batch 16, 814 against 34 ms), on GPU its input gradient misses cuDNN.
    maps, kernels = _split(x, groups), _split(kernel, groups)
    return jnp.concatenate([convolve(m, k) for m, k in zip(maps, kernels, strict=True)], axis=-1)


def locally_connected(x, kernel, *, stride, pad):
    """A convolution whose kernels differ from place to place: kernel [oh ow kh kw c features]."""
    height, width, kernel_height, kernel_width = kernel.shape[:4]
    x = jnp.pad(x, ((0, 0), pad, pad, (0, 0)))
    # [b oh ow kh*kw c]: at each place the patch that its kernels see.
    patches = jnp.stack(
        [
            x[
                :,
                i : i + (height - 1) * stride + 1 : stride,
                j : j + (width - 1) * stride + 1 : stride,
            ]
            for i in range(kernel_height)
            for j in range(kernel_width)
        ],
        axis=3,
    )
    kernel = kernel.reshape(height, width, kernel_height * kernel_width, *kernel.shape[4:])
    return jnp.einsum("bhwpc,hwpcf->bhwf", patches, kernel)


def dense(x, kernel, result=None):
    """[b inputs] -> [b features]; kernel [inputs features], or with groups
    [groups inputs/groups features/groups]: each part of the outputs sees its part of the inputs.

    `result`: type of the outputs, where it is not that of `x` (sums are always float32).
    """
    multiply = functools.partial(jnp.matmul, preferred_element_type=result)
    if kernel.ndim == 2:
        return multiply(x, kernel)
    parts = zip(_split(x, len(kernel)), kernel, strict=True)
    return jnp.concatenate([multiply(part, weights) for part, weights in parts], axis=-1)


@jax.custom_vjp
def add_bias(x, bias):
    """x + bias, over the last axis; a `bias` of more axes has its own values at every place."""
    return x + bias


def _add_bias_forward(x, bias):
    return x + bias, bias


def _add_bias_backward(bias, gradient):
    flat = gradient.reshape(-1, bias.size)
    # A product with ones, which is threaded; XLA:CPU sums columns on one core (conv1: 5 against 29 ms).
    ones = jnp.ones((1, flat.shape[0]), flat.dtype)
    total = jnp.matmul(ones, flat, precision="highest", preferred_element_type=jnp.float32)
    return gradient, total.reshape(bias.shape).astype(bias.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def flatten(x, groups=1):
    """Maps [b h w c] -> [b h*w*c], group after group: with groups a part holds one tower's maps."""
    return jnp.concatenate([m.reshape(m.shape[0], -1) for m in _split(x, groups)], axis=-1)


def _split(x, groups):
    """The equal parts of the last axis."""
    return lax.split(x, [x.shape[-1] // groups] * groups, axis=x.ndim - 1)
