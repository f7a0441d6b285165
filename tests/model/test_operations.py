"""Each operation against a NumPy loop of its equation, gradients against its differences."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels import normalization, pooling, windows
from alexnet_jax.kernels.forms import CPU, GPU
from alexnet_jax.model import operations
from alexnet_jax.model.operations import ACTIVATIONS
from alexnet_jax.specs import FCSpec, Registered

# float32 against float64 loops; sums of at most 25 terms.
CLOSE: dict[str, Any] = dict(rtol=1e-5, atol=1e-5)
# bfloat16 keeps 8 bits: input, output and (in gradients) partial sums are each off by up to 2^-9.
BFLOAT16 = 4 * 2.0**-9


def normal(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def numerical_gradient(function, x, cotangent, step=1e-4):
    """Central differences of sum(function(x) * cotangent), in float64."""
    x, gradient = x.astype(np.float64), np.zeros(x.shape)
    for place in np.ndindex(*x.shape):
        moved = np.zeros(x.shape)
        moved[place] = step
        gradient[place] = np.sum((function(x + moved) - function(x - moved)) * cotangent)
    return gradient / (2 * step)


def forward_and_back(operation, x, cotangent):
    """The output of `operation` and the gradient of sum(output * cotangent), in one compilation."""

    def run(x, cotangent):
        result, pullback = jax.vjp(operation, x)
        return result, pullback(cotangent)[0]

    return jax.jit(run)(x, cotangent)


def assert_matches(operation, loop, x):
    """Output and gradient of `operation` equal those of the NumPy `loop`."""
    expected = loop(x.astype(np.float64))
    cotangent = normal(*expected.shape, seed=1)
    result, gradient = forward_and_back(operation, x, cotangent)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, **CLOSE)
    np.testing.assert_allclose(gradient, numerical_gradient(loop, x, cotangent), **CLOSE)


def lrn_loop(x, *, k, n, alpha, beta, towers):
    """§3.3, map by map; windows of an even n lean to the maps before."""
    y, maps = np.zeros_like(x), x.shape[-1] // towers
    for f in range(x.shape[-1]):
        tower = f // maps
        first = max(f - n // 2, tower * maps)
        last = min(f - n // 2 + n - 1, tower * maps + maps - 1)
        squares = sum(x[..., g] ** 2 for g in range(first, last + 1))
        y[..., f] = x[..., f] / (k + alpha * squares) ** beta
    return y


@pytest.mark.parametrize("n", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("towers", [1, 2])
def test_lrn_and_its_gradient_match_the_loop(n, towers):
    constants: dict[str, Any] = dict(k=1.5, n=n, alpha=0.2, beta=0.75, towers=towers)
    assert_matches(
        lambda x: normalization.local_response_normalization(x, **constants),
        lambda x: lrn_loop(x, **constants),
        normal(2, 1, 2, 12, scale=2.0),
    )


def test_lrn_with_another_beta_and_a_window_wider_than_the_maps():
    constants: dict[str, Any] = dict(k=2.0, n=7, alpha=0.3, beta=0.6, towers=2)
    assert_matches(
        lambda x: normalization.local_response_normalization(x, **constants),
        lambda x: lrn_loop(x, **constants),
        normal(1, 2, 2, 6),
    )


def test_lrn_gradient_matches_the_formula_of_the_2012_program():
    k, n, alpha, beta, maps = 2.0, 4, 0.1, 0.75, 8
    x, gradient = normal(3, maps, scale=2.0), normal(3, maps, seed=1)
    window = [range(max(f - n // 2, 0), min(f - n // 2 + n, maps)) for f in range(maps)]
    bracket = np.stack([k + alpha * sum(x[:, g] ** 2 for g in window[f]) for f in range(maps)], 1)
    y = x * bracket**-beta
    expected = gradient * bracket**-beta
    for f in range(maps):
        seen_by = [g for g in range(maps) if f in window[g]]
        received = sum(gradient[:, g] * y[:, g] / bracket[:, g] for g in seen_by)
        expected[:, f] -= 2 * beta * alpha * x[:, f] * received
    _, result = forward_and_back(
        lambda x: normalization.local_response_normalization(x, k=k, n=n, alpha=alpha, beta=beta),
        x,
        gradient,
    )
    np.testing.assert_allclose(result, expected, **CLOSE)


def test_lrn_keeps_only_its_input_for_the_gradient():
    x = normal(2, 3, 3, 8)
    _, pullback = jax.vjp(
        lambda x: normalization.local_response_normalization(x, k=2.0, n=5, alpha=1e-4, beta=0.75),
        x,
    )
    kept = [leaf for leaf in jax.tree.leaves(pullback) if getattr(leaf, "size", 0) > 1]
    assert len(kept) == 1 and kept[0].size == x.size


def test_lrn_in_bfloat16_stays_within_its_rounding():
    x = jnp.asarray(normal(4, 3, 3, 16, scale=3.0), jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    constants: dict[str, Any] = dict(k=1.0, n=5, alpha=0.1, beta=0.75, towers=2)

    def operation(x):
        return normalization.local_response_normalization(x, **constants)

    y, gradient = forward_and_back(operation, x, jnp.ones_like(x))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(y, np.float64), lrn_loop(wide, **constants), rtol=BFLOAT16, atol=1e-6
    )
    _, exact = forward_and_back(operation, wide.astype(np.float32), np.ones(x.shape, np.float32))
    np.testing.assert_allclose(
        np.asarray(gradient, np.float64), exact, rtol=BFLOAT16, atol=BFLOAT16 * np.abs(exact).max()
    )


@pytest.mark.parametrize("size", [2, 3, 5])
def test_spatial_normalization_and_its_gradient_match_the_loop(size):
    def loop(x):
        y, (height, width) = np.zeros_like(x), x.shape[1:3]
        for i in range(height):
            for j in range(width):
                top, left = i - size // 2, j - size // 2
                patch = x[:, max(top, 0) : top + size, max(left, 0) : left + size]
                y[:, i, j] = x[:, i, j] / (1 + 0.2 * (patch**2).sum((1, 2))) ** 0.75
        return y

    def operation(x):
        return normalization.spatial_response_normalization(x, size=size, alpha=0.2, beta=0.75)

    assert_matches(operation, loop, normal(2, 5, 4, 3))


def test_lrn_constants_agree_with_torch_in_pytorch_s_own_formula():
    # nn.LocalResponseNorm(size, alpha, beta, k): alpha / size per term.
    assert normalization.lrn_constants("torch", size=5, alpha=1e-4, beta=0.75, k=2.0) == dict(
        k=2.0, n=5, alpha=1e-4 / 5, beta=0.75
    )


@pytest.mark.parametrize(
    ("framework", "size", "n", "alpha"),
    [
        ("paper", 5, 5, 1e-4),
        ("cuda-convnet", 5, 5, 2e-5),
        ("caffe", 5, 5, 2e-5),
        ("torch", 4, 4, 2.5e-5),
        ("tensorflow", 2, 5, 1e-4),
        ("matconvnet", 5, 5, 1e-4),
    ],
)
def test_lrn_constants_of_each_framework(framework, size, n, alpha):
    constants = normalization.lrn_constants(framework, size=size, alpha=1e-4, beta=0.75, k=2.0)
    assert constants == dict(k=2.0, n=n, alpha=pytest.approx(alpha), beta=0.75)


@pytest.mark.parametrize(("framework", "size"), [("keras", 5), ("caffe", 4), ("matconvnet", 4)])
def test_lrn_constants_refuse_what_has_no_equal(framework, size):
    with pytest.raises(ConfigError, match=framework):
        normalization.lrn_constants(framework, size=size, alpha=1e-4, beta=0.75, k=2.0)


def pool_loop(x, window, stride, rounding, reduce):
    height, width = (windows.pool_size(s, window, stride, rounding) for s in x.shape[1:3])
    y = np.zeros((x.shape[0], height, width, x.shape[3]))
    for i in range(height):
        for j in range(width):
            top, left = i * stride, j * stride
            y[:, i, j] = reduce(x[:, top : top + window, left : left + window], axis=(1, 2))
    return y


POOLS = [
    (window, stride, rounding)
    for window, stride in [(3, 2), (2, 2), (3, 1), (2, 3), (5, 3)]
    for rounding in ("ceil", "floor")
]
SIZE = (8, 5)


@pytest.mark.parametrize(("window", "stride", "rounding"), POOLS)
@pytest.mark.parametrize("kind", ["max", "average"])
def test_pools_and_their_gradients_match_the_loop(window, stride, rounding, kind):
    operation = pooling.max_pool if kind == "max" else pooling.average_pool
    reduce = np.max if kind == "max" else np.mean
    # Distinct values far apart, so that no difference crosses a tie.
    x = np.random.default_rng(0).permutation(4 * SIZE[0] * SIZE[1]).astype(np.float32) / 16
    assert_matches(
        lambda x: operation(x, window=window, stride=stride, rounding=rounding),
        lambda x: pool_loop(x, window, stride, rounding, reduce),
        x.reshape(2, *SIZE, 2),
    )


@pytest.mark.parametrize("form", ["average", "compared", "separable", "parity", "repeat"])
@pytest.mark.parametrize(("size", "window", "stride"), [(1, 3, 1), (1, 3, 2), (2, 5, 3)])
def test_a_window_may_be_larger_than_the_map(size, window, stride, form):
    operation, reduce = pooling.average_pool, np.mean
    if form != "average":
        forms = dataclasses.replace(CPU, pool=form)
        operation, reduce = functools.partial(pooling.max_pool, forms=forms), np.max
    assert_matches(
        lambda x: operation(x, window=window, stride=stride, rounding="ceil"),
        lambda x: pool_loop(x, window, stride, "ceil", reduce),
        np.arange(size * size * 3, dtype=np.float32).reshape(1, size, size, 3),
    )


@pytest.mark.parametrize("form", ["compared", "separable", "parity", "repeat"])
@pytest.mark.parametrize(("window", "stride", "rounding"), POOLS)
def test_each_tied_maximum_gets_the_full_gradient(window, stride, rounding, form):
    forms = dataclasses.replace(CPU, pool=form)
    x = np.random.default_rng(0).integers(0, 3, (2, *SIZE, 3)).astype(np.float32)
    y = pool_loop(x, window, stride, rounding, np.max)
    cotangent = normal(*y.shape)
    expected = np.zeros(x.shape)
    for i, j in np.ndindex(y.shape[1], y.shape[2]):
        rows = slice(i * stride, i * stride + window)
        columns = slice(j * stride, j * stride + window)
        tied = x[:, rows, columns] == y[:, i : i + 1, j : j + 1]
        expected[:, rows, columns] += tied * cotangent[:, i : i + 1, j : j + 1]
    _, gradient = forward_and_back(
        lambda x: pooling.max_pool(x, window=window, stride=stride, rounding=rounding, forms=forms),
        x,
        cotangent,
    )
    np.testing.assert_allclose(gradient, expected, **CLOSE)


def test_max_pool_in_bfloat16_is_exact_and_its_gradient_rounds_only_sums():
    def operation(x):
        return pooling.max_pool(x, window=3, stride=2, rounding="ceil")

    # Distinct values of 8 bits; all gradients of one sign, so that no sum cancels.
    values = np.random.default_rng(0).permuted(np.tile(np.arange(49), (16, 1)), axis=1)
    x = jnp.asarray(values.reshape(2, 8, 7, 7).transpose(0, 2, 3, 1), jnp.bfloat16)
    cotangent = jnp.asarray(np.abs(normal(2, 3, 3, 8)), jnp.bfloat16)
    y, gradient = forward_and_back(operation, x, cotangent)
    exact, exact_gradient = forward_and_back(
        operation, np.asarray(x, np.float32), np.asarray(cotangent, np.float32)
    )
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(y, np.float32), exact)
    np.testing.assert_allclose(np.asarray(gradient, np.float32), exact_gradient, rtol=BFLOAT16)


@pytest.mark.parametrize("form", ["compared", "separable", "parity", "repeat"])
def test_of_tied_bfloat16_maxima_the_first_alone_gets_the_gradient(form):
    forms = dataclasses.replace(CPU, pool=form)
    x = jnp.zeros((1, 4, 4, 1), jnp.bfloat16)
    _, gradient = forward_and_back(
        lambda x: pooling.max_pool(x, window=2, stride=2, rounding="ceil", forms=forms),
        x,
        jnp.ones((1, 2, 2, 1), jnp.bfloat16),
    )
    np.testing.assert_array_equal(
        np.asarray(gradient)[0, :, :, 0], np.kron(np.ones((2, 2)), [[1, 0], [0, 0]])
    )


@pytest.mark.parametrize("config", ["quickstart-seed0-step450", "cifar10-80sec-seed0-step3907"])
def test_gradients_of_lrn_and_pool_in_bfloat16_weigh_what_they_do_in_float32(config):
    """Of what conv1 of a trained net makes of images: ties by rounding added 8 % before."""
    import alexnet_jax as ax
    from alexnet_jax.kernels import convolution

    net = ax.load(f"docs/weights/{config}.safetensors")
    row = net.trained.config.model.convs[0][1]
    images = np.random.default_rng(0).integers(0, 256, (16, 4, 4, 3)).repeat(16, 1).repeat(16, 2)
    size = net.trained.config.data.image_size
    inputs = net.inputs(images[:, :size, :size].astype(np.uint8))[:, 0]
    params = net.trained.params["conv1"]
    maps = convolution.convolution(
        inputs, params["kernel"], stride=row.stride, pad=row.pad, forms=CPU
    )
    maps = jax.nn.relu(maps + params["bias"])
    rounded = maps.astype(jnp.bfloat16)
    pool = dict(window=3, stride=2, rounding="ceil")
    lrn = dict(k=2.0, n=5, alpha=1e-4, beta=0.75)

    def norms(x, forms):
        def operation(x):
            y = normalization.local_response_normalization(x, **lrn, forms=forms, dtype=jnp.float32)
            return pooling.max_pool(y, **pool, forms=forms, dtype=x.dtype)

        y = jax.eval_shape(operation, x)
        cotangent = jnp.asarray(normal(*y.shape), x.dtype)
        gradient = jax.jit(lambda x: jax.vjp(operation, x)[1](cotangent)[0])(x)
        gradient = jnp.where(x > 0, gradient.astype(jnp.float32), 0)  # ReLU's
        return jnp.sqrt(jnp.sum(gradient**2)), jnp.sum(jnp.abs(gradient))

    exact = norms(rounded.astype(jnp.float32), CPU)
    for forms in (CPU, GPU, dataclasses.replace(GPU, pool="repeat", lrn_gradient="recomputed")):
        np.testing.assert_allclose(norms(rounded, forms), exact, rtol=0.01)


def test_max_pool_gradient_has_no_select_and_scatter():
    def loss(x):
        return jnp.sum(pooling.max_pool(x, window=3, stride=2, rounding="ceil"))

    text = jax.jit(jax.grad(loss)).lower(jnp.zeros((1, 13, 13, 8))).as_text()
    assert "scatter" not in text and "reduce_window" not in text


def test_a_pool_whose_last_window_is_empty_is_refused():
    with pytest.raises(ConfigError, match="empty last window"):
        pooling.max_pool(np.zeros((1, 5, 5, 1), np.float32), window=1, stride=3, rounding="ceil")


@pytest.mark.parametrize(
    ("name", "equation"),
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("tanh", np.tanh),
        ("scaled_tanh", lambda x: 1.7159 * np.tanh(2 / 3 * x)),
        ("abs_tanh", lambda x: np.abs(np.tanh(x))),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("softplus", lambda x: np.log(1 + np.exp(x))),
    ],
)
def test_activations_match_their_equations(name, equation):
    x = np.concatenate([np.linspace(-5, 5, 21)[:10], np.linspace(-5, 5, 21)[11:]])
    assert_matches(lambda x: ACTIVATIONS[name].apply(x, CPU), equation, x.astype(np.float32))


def test_relu_passes_no_gradient_at_zero():
    assert jax.grad(lambda x: ACTIVATIONS["relu"].apply(x, CPU))(0.0) == 0.0


def test_an_operation_needs_no_more_than_a_name_and_its_function():
    class Halve(operations.Operation):
        name = "halve"

        def apply(self, layer, x, call):
            return x / 2

    spec = FCSpec(4, groups=1, init_std=0.1, bias=0.0, pre_ops=("halve",), ops=("halve",))
    before = operations.Node("fc6", spec, "before/halve", Halve())
    model: Any = None
    assert (before.feature, before.prefix, before.path) == (
        "fc6/before/halve", "before_", "config.model.fcs.fc6",
    )  # fmt: skip
    assert before.operation.output(before, model, operations.Maps(6, 8)) == (6, 8)
    assert before.operation.describe(before, model) == "halve"
    with pytest.raises(ConfigError, match="layer fc6: halve cannot be exported to ONNX"):
        before.operation.to_onnx(operations.Graph(), before, "x")
    with pytest.raises(ConfigError, match="layer fc6: halve cannot be exported to PyTorch"):
        before.operation.to_torch(before, model, operations.Maps(6, 8))


def test_names_in_configs_are_those_of_the_registry():
    assert "spatial_norm" in operations.names(Registered("operation"))
    assert operations.names(Registered("dense operation")) == ("act", "batch_norm", "dropout")
    assert operations.names(Registered("activation")) == tuple(ACTIVATIONS)
