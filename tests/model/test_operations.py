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


def forward_and_back(*calls):
    """Of each (operation, x, cotangent), the output and the gradient of sum(output * cotangent), in one program."""
    operations, xs, cotangents = zip(*calls, strict=True)

    @jax.jit
    def run(xs, cotangents):
        found = []
        for operation, x, cotangent in zip(operations, xs, cotangents, strict=True):
            result, pullback = jax.vjp(operation, x)
            found.append((result, pullback(cotangent)[0]))
        return found

    return run(xs, cotangents)


def assert_matches(operation, loop, x, settings=({},)):
    """Output and gradient of `operation` equal those of the NumPy `loop`, with each of the settings."""
    calls, loops = [], [functools.partial(loop, **setting) for setting in settings]
    for setting, equation in zip(settings, loops, strict=True):
        cotangent = normal(*equation(x.astype(np.float64)).shape, seed=1)
        calls.append((functools.partial(operation, **setting), x, cotangent))
    for setting, equation, (_, _, cotangent), (result, gradient) in zip(
        settings, loops, calls, forward_and_back(*calls), strict=True
    ):
        expected = equation(x.astype(np.float64))
        assert result.shape == expected.shape, setting
        np.testing.assert_allclose(result, expected, **CLOSE, err_msg=str(setting))
        expected = numerical_gradient(equation, x, cotangent)
        np.testing.assert_allclose(gradient, expected, **CLOSE, err_msg=str(setting))


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


def test_lrn_and_its_gradient_match_the_loop():
    constants: dict[str, Any] = dict(k=1.5, alpha=0.2, beta=0.75)
    settings = [constants | dict(n=n, towers=towers) for n in (1, 3, 4, 5, 9) for towers in (1, 2)]
    wider_than_the_maps = dict(k=2.0, n=7, alpha=0.3, beta=0.6, towers=4)
    assert_matches(
        normalization.local_response_normalization,
        lrn_loop,
        normal(2, 1, 2, 12, scale=2.0),
        [*settings, wider_than_the_maps],
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
    operation = functools.partial(
        normalization.local_response_normalization, k=k, n=n, alpha=alpha, beta=beta
    )
    ((_, result),) = forward_and_back((operation, x, gradient))
    np.testing.assert_allclose(result, expected, **CLOSE)


def test_lrn_keeps_only_its_input_for_the_gradient():
    x = normal(2, 3, 3, 8)
    operation = functools.partial(
        normalization.local_response_normalization, k=2.0, n=5, alpha=1e-4, beta=0.75
    )
    pullback = jax.eval_shape(lambda x: jax.vjp(operation, x)[1], x)
    kept = [leaf for leaf in jax.tree.leaves(pullback) if getattr(leaf, "size", 0) > 1]
    assert len(kept) == 1 and kept[0].size == x.size


def test_lrn_in_bfloat16_stays_within_its_rounding():
    x = normal(4, 3, 3, 16, scale=3.0).astype(jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    constants: dict[str, Any] = dict(k=1.0, n=5, alpha=0.1, beta=0.75, towers=2)

    def operation(x):
        return normalization.local_response_normalization(x, **constants)

    (y, gradient), (_, exact) = forward_and_back(
        (operation, x, np.ones_like(x)),
        (operation, x.astype(np.float32), np.ones(x.shape, np.float32)),
    )
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(y, np.float64), lrn_loop(wide, **constants), rtol=BFLOAT16, atol=1e-6
    )
    np.testing.assert_allclose(
        np.asarray(gradient, np.float64), exact, rtol=BFLOAT16, atol=BFLOAT16 * np.abs(exact).max()
    )


def test_spatial_normalization_and_its_gradient_match_the_loop():
    def loop(x, size):
        y, (height, width) = np.zeros_like(x), x.shape[1:3]
        for i in range(height):
            for j in range(width):
                top, left = i - size // 2, j - size // 2
                patch = x[:, max(top, 0) : top + size, max(left, 0) : left + size]
                y[:, i, j] = x[:, i, j] / (1 + 0.2 * (patch**2).sum((1, 2))) ** 0.75
        return y

    def operation(x, size):
        return normalization.spatial_response_normalization(x, size=size, alpha=0.2, beta=0.75)

    sizes = [dict(size=size) for size in (2, 3, 5)]
    assert_matches(operation, loop, normal(2, 5, 4, 3), sizes)


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
    dict(window=window, stride=stride, rounding=rounding)
    for window, stride in [(3, 2), (2, 2), (3, 1), (2, 3), (5, 3)]
    for rounding in ("ceil", "floor")
]
SIZE = (8, 5)


@pytest.mark.parametrize("kind", ["max", "average"])
def test_pools_and_their_gradients_match_the_loop(kind):
    # Distinct values far apart, so that no difference crosses a tie.
    x = np.random.default_rng(0).permutation(4 * SIZE[0] * SIZE[1]).astype(np.float32) / 16
    assert_matches(
        pooling.max_pool if kind == "max" else pooling.average_pool,
        functools.partial(pool_loop, reduce=np.max if kind == "max" else np.mean),
        x.reshape(2, *SIZE, 2),
        POOLS,
    )


FORMS = ("compared", "separable", "parity", "repeat")


@pytest.mark.parametrize(("size", "window", "stride"), [(1, 3, 1), (1, 3, 2), (2, 5, 3)])
def test_a_window_may_be_larger_than_the_map(size, window, stride):
    pool: dict[str, Any] = dict(window=window, stride=stride, rounding="ceil")

    def operation(x, form):
        if form == "average":
            return pooling.average_pool(x, **pool)
        return pooling.max_pool(x, **pool, forms=dataclasses.replace(CPU, pool=form))

    assert_matches(
        operation,
        lambda x, form: pool_loop(x, **pool, reduce=np.mean if form == "average" else np.max),
        np.arange(size * size * 3, dtype=np.float32).reshape(1, size, size, 3),
        [dict(form=form) for form in ("average", *FORMS)],
    )


@pytest.mark.parametrize("form", FORMS)
def test_each_tied_maximum_gets_the_full_gradient(form):
    x = np.random.default_rng(0).integers(0, 3, (2, *SIZE, 3)).astype(np.float32)
    forms, calls, gradients = dataclasses.replace(CPU, pool=form), [], []
    for pool in POOLS:
        y = pool_loop(x, **pool, reduce=np.max)
        cotangent = normal(*y.shape)
        expected = np.zeros(x.shape)
        for i, j in np.ndindex(y.shape[1], y.shape[2]):
            rows, columns = (
                slice(at * pool["stride"], at * pool["stride"] + pool["window"]) for at in (i, j)
            )
            tied = x[:, rows, columns] == y[:, i : i + 1, j : j + 1]
            expected[:, rows, columns] += tied * cotangent[:, i : i + 1, j : j + 1]
        calls.append((functools.partial(pooling.max_pool, **pool, forms=forms), x, cotangent))
        gradients.append(expected)
    for pool, expected, (_, gradient) in zip(
        POOLS, gradients, forward_and_back(*calls), strict=True
    ):
        np.testing.assert_allclose(gradient, expected, **CLOSE, err_msg=str(pool))


def test_max_pool_in_bfloat16_is_exact_and_its_gradient_rounds_only_sums():
    def operation(x):
        return pooling.max_pool(x, window=3, stride=2, rounding="ceil")

    # Distinct values of 8 bits; all gradients of one sign, so that no sum cancels.
    values = np.random.default_rng(0).permuted(np.tile(np.arange(49), (16, 1)), axis=1)
    x = values.reshape(2, 8, 7, 7).transpose(0, 2, 3, 1).astype(jnp.bfloat16)
    cotangent = np.abs(normal(2, 3, 3, 8)).astype(jnp.bfloat16)
    (y, gradient), (exact, exact_gradient) = forward_and_back(
        (operation, x, cotangent),
        (operation, x.astype(np.float32), cotangent.astype(np.float32)),
    )
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(y, np.float32), exact)
    np.testing.assert_allclose(np.asarray(gradient, np.float32), exact_gradient, rtol=BFLOAT16)


def test_of_tied_bfloat16_maxima_the_first_alone_gets_the_gradient():
    def pool(form):
        forms = dataclasses.replace(CPU, pool=form)
        return functools.partial(pooling.max_pool, window=2, stride=2, rounding="ceil", forms=forms)

    x, cotangent = np.zeros((1, 4, 4, 1), jnp.bfloat16), np.ones((1, 2, 2, 1), jnp.bfloat16)
    found = forward_and_back(*((pool(form), x, cotangent) for form in FORMS))
    for form, (_, gradient) in zip(FORMS, found, strict=True):
        np.testing.assert_array_equal(
            np.asarray(gradient)[0, :, :, 0],
            np.kron(np.ones((2, 2)), [[1, 0], [0, 0]]),
            err_msg=form,
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
    pool = dict(window=3, stride=2, rounding="ceil")
    lrn = dict(k=2.0, n=5, alpha=1e-4, beta=0.75)

    @jax.jit
    def maps(inputs, kernel, bias):
        found = convolution.convolution(inputs, kernel, stride=row.stride, pad=row.pad, forms=CPU)
        return jax.nn.relu(found + bias).astype(jnp.bfloat16)

    def norms(x, forms):
        def operation(x):
            y = normalization.local_response_normalization(x, **lrn, forms=forms, dtype=jnp.float32)
            return pooling.max_pool(y, **pool, forms=forms, dtype=x.dtype)

        y, pullback = jax.vjp(operation, x)
        (gradient,) = pullback(normal(*y.shape).astype(x.dtype))
        gradient = jnp.where(x > 0, gradient.astype(jnp.float32), 0)  # ReLU's
        return jnp.sqrt(jnp.sum(gradient**2)), jnp.sum(jnp.abs(gradient))

    chosen = CPU, GPU, dataclasses.replace(GPU, pool="repeat", lrn_gradient="recomputed")

    @jax.jit
    def all_norms(wide, x):
        return norms(wide, CPU), [norms(x, forms) for forms in chosen]

    # From a program of its own: XLA may leave out a rounding that the same program undoes.
    rounded = np.asarray(maps(inputs, params["kernel"], params["bias"]))
    exact, found = all_norms(rounded.astype(np.float32), rounded)
    for result in found:
        np.testing.assert_allclose(result, exact, rtol=0.01)


def test_max_pool_gradient_has_no_select_and_scatter():
    def loss(x):
        return jnp.sum(pooling.max_pool(x, window=3, stride=2, rounding="ceil"))

    text = jax.jit(jax.grad(loss)).lower(np.zeros((1, 13, 13, 8), np.float32)).as_text()
    assert "scatter" not in text and "reduce_window" not in text


def test_a_pool_whose_last_window_is_empty_is_refused():
    with pytest.raises(ConfigError, match="empty last window"):
        pooling.max_pool(np.zeros((1, 5, 5, 1), np.float32), window=1, stride=3, rounding="ceil")


def test_activations_match_their_equations():
    equations = {
        "relu": lambda x: np.maximum(x, 0),
        "tanh": np.tanh,
        "scaled_tanh": lambda x: 1.7159 * np.tanh(2 / 3 * x),
        "abs_tanh": lambda x: np.abs(np.tanh(x)),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "softplus": lambda x: np.log(1 + np.exp(x)),
    }
    x = np.concatenate([np.linspace(-5, 5, 21)[:10], np.linspace(-5, 5, 21)[11:]])
    assert_matches(
        lambda x, name: ACTIVATIONS[name].apply(x, CPU),
        lambda x, name: equations[name](x),
        x.astype(np.float32),
        [dict(name=name) for name in equations],
    )


def test_relu_passes_no_gradient_at_zero():
    assert jax.jit(jax.grad(lambda x: ACTIVATIONS["relu"].apply(x, CPU)))(0.0) == 0.0


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
