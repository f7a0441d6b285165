"""Convolutions and dense layers against NumPy loops; groups against block-diagonal kernels."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.kernels import convolution, elementwise
from alexnet_jax.kernels.forms import CPU, GPU, PLAIN, values
from alexnet_jax.kernels.windows import conv_size

CLOSE: dict[str, Any] = dict(rtol=1e-5, atol=2e-5)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def convolution_loop(x, kernel, stride, pad, groups=1):
    """[b h w c]; `kernel` is [kh kw c/groups features], or a kernel for each place."""
    local = kernel.ndim == 6
    side, features = kernel.shape[-4], kernel.shape[-1]
    x = np.pad(x, ((0, 0), pad, pad, (0, 0)))
    height, width = ((s - side) // stride + 1 for s in x.shape[1:3])
    y = np.zeros((x.shape[0], height, width, features))
    inputs, outputs = x.shape[3] // groups, features // groups
    for i, j, g in np.ndindex(height, width, groups):
        seen, made = slice(g * inputs, (g + 1) * inputs), slice(g * outputs, (g + 1) * outputs)
        patch = x[:, i * stride : i * stride + side, j * stride : j * stride + side, seen]
        here = kernel[i, j] if local else kernel[..., made]
        y[:, i, j, made] = np.einsum("bhwc,hwcf->bf", patch, here)
    return y


def assert_match(operations, loop, x, kernel):
    """Compare operations, compiled as one program, with the loop of them all.

    All are linear in x and in the kernel, so gradients are checked by the identity <loop(u), g> = <u, gradient> for
    random directions u.
    """
    expected = loop(x.astype(np.float64), kernel.astype(np.float64))
    cotangent = normal(*expected.shape, seed=1)

    @jax.jit
    def run(x, kernel, cotangent):
        pulled = [jax.vjp(operation, x, kernel) for operation in operations]
        return [(result, pullback(cotangent)) for result, pullback in pulled]

    found = jax.device_get(run(x, kernel, cotangent))
    for result, _ in found:
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, **CLOSE)
    for seed in range(3):
        u, v = normal(*x.shape, seed=seed + 2), normal(*kernel.shape, seed=seed + 5)
        for moved, argument, direction in ((loop(u, kernel), 0, u), (loop(x, v), 1, v)):
            terms = moved * cotangent
            bound = 1e-5 * np.abs(terms).sum()
            for _, gradients in found:
                total = np.sum(gradients[argument] * direction, dtype=np.float64)
                assert abs(total - terms.sum()) < bound


FORMS = (PLAIN, GPU, dataclasses.replace(PLAIN, groups="feature_groups"))


@pytest.mark.parametrize(
    ("size", "side", "stride", "pad", "groups"),
    [
        (9, 5, 2, (0, 2), 1),
        (12, 5, 4, (0, 3), 2),
        (6, 3, 1, (1, 1), 2),
        (5, 2, 1, (1, 0), 3),
        (7, 1, 3, (0, 0), 1),
    ],
)
def test_convolution_and_its_gradients_match_the_loop(size, side, stride, pad, groups):
    x, kernel = normal(2, size, size, 6), normal(side, side, 6 // groups, 12, seed=1)
    settings: dict[str, Any] = dict(stride=stride, pad=pad, groups=groups)
    operations = [
        functools.partial(convolution.convolution, **settings, forms=forms) for forms in FORMS
    ]
    assert_match(operations, lambda x, k: convolution_loop(x, k, stride, pad, groups), x, kernel)
    outputs = conv_size(size, side, stride, pad)
    for operation in operations:
        assert jax.eval_shape(operation, x, kernel).shape == (2, outputs, outputs, 12)


def test_groups_equal_a_block_diagonal_kernel_and_the_compiler_s_own_groups():
    x, kernel = normal(2, 7, 7, 8), normal(3, 3, 4, 6, seed=1)
    dense = np.zeros((3, 3, 8, 6), np.float32)
    dense[:, :, :4, :3], dense[:, :, 4:, 3:] = kernel[..., :3], kernel[..., 3:]
    convolve = functools.partial(convolution.convolution, stride=1, pad=(1, 1), forms=CPU)

    @jax.jit
    def run(x, kernel, dense):
        compiled = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2,
        )  # fmt: skip
        return convolve(x, kernel, groups=2), convolve(x, dense, groups=1), compiled

    grouped, whole, compiled = run(x, kernel, dense)
    np.testing.assert_allclose(grouped, whole, **CLOSE)
    np.testing.assert_allclose(grouped, compiled, **CLOSE)


@pytest.mark.parametrize(("stride", "pad"), [(1, (1, 1)), (2, (0, 1))])
def test_locally_connected_and_its_gradients_match_the_loop(stride, pad):
    places = conv_size(5, 3, stride, pad)
    x, kernel = normal(2, 5, 5, 3), normal(places, places, 3, 3, 3, 4, seed=1)

    def operation(x, kernel):
        return convolution.locally_connected(x, kernel, stride=stride, pad=pad)

    assert_match([operation], lambda x, k: convolution_loop(x, k, stride, pad), x, kernel)


def test_locally_connected_with_equal_kernels_is_a_convolution():
    x, kernel = normal(2, 5, 5, 3), normal(3, 3, 3, 4, seed=1)
    places = np.broadcast_to(kernel, (5, 5, *kernel.shape))

    @jax.jit
    def run(x, kernel, places):
        return (
            convolution.locally_connected(x, places, stride=1, pad=(1, 1)),
            convolution.convolution(x, kernel, stride=1, pad=(1, 1), groups=1, forms=CPU),
        )

    local, shared = run(x, kernel, places)
    np.testing.assert_allclose(local, shared, **CLOSE)


def test_grouped_dense_equals_a_block_diagonal_matrix():
    x, kernel = normal(3, 8), normal(2, 4, 5, seed=1)
    dense = np.zeros((8, 10), np.float32)
    dense[:4, :5], dense[4:, 5:] = kernel
    run = jax.jit(lambda x, *kernels: [convolution.dense(x, kernel) for kernel in kernels])
    for result in run(x, kernel, dense):
        np.testing.assert_allclose(result, x @ dense, **CLOSE)


def test_flatten_keeps_the_maps_of_a_tower_together():
    x = normal(2, 3, 3, 4)
    of_towers, whole = jax.jit(lambda x: (convolution.flatten(x, 2), convolution.flatten(x)))(x)
    parts = np.split(np.asarray(of_towers), 2, axis=1)
    np.testing.assert_array_equal(parts[0], x[..., :2].reshape(2, -1))
    np.testing.assert_array_equal(parts[1], x[..., 2:].reshape(2, -1))
    np.testing.assert_array_equal(whole, x.reshape(2, -1))


def test_bfloat16_convolution_stays_within_the_rounding_of_its_output():
    x = normal(2, 7, 7, 8).astype(jnp.bfloat16)
    kernel = normal(3, 3, 8, 6).astype(jnp.bfloat16)
    convolve = functools.partial(convolution.convolution, stride=1, pad=(1, 1), groups=1, forms=CPU)
    y = jax.jit(convolve)(x, kernel)
    exact = convolution_loop(np.asarray(x, np.float64), np.asarray(kernel, np.float64), 1, (1, 1))
    assert y.dtype == jnp.bfloat16
    # Products are summed in float32 or better; only the result is rounded to 8 bits.
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=2.0**-8, atol=1e-2)


@pytest.mark.parametrize("shape", [(4,), (3, 3, 4)])
def test_add_bias_adds_and_sums_its_gradient_over_all_other_places(shape):
    x, bias, cotangent = normal(2, 3, 3, 4), normal(*shape, seed=1), normal(2, 3, 3, 4, seed=2)

    @jax.jit
    def run(x, bias, cotangent):
        found = {}
        for form in values("bias_gradient"):
            forms = dataclasses.replace(PLAIN, bias_gradient=form)
            y, pullback = jax.vjp(functools.partial(elementwise.add_bias, forms=forms), x, bias)
            found[form] = y, *pullback(cotangent)
        return found

    axes = (0, 1, 2) if len(shape) == 1 else (0,)
    for form, (y, by_x, by_bias) in run(x, bias, cotangent).items():
        np.testing.assert_allclose(y, x + bias, **CLOSE, err_msg=form)
        np.testing.assert_array_equal(by_x, cotangent, err_msg=form)
        np.testing.assert_allclose(by_bias, cotangent.sum(axes), **CLOSE, err_msg=form)
