"""The net in forward mode: with the forms of every device, and as the transpose of its gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import config
from alexnet_jax.kernels import elementwise, forms, normalization, pooling
from alexnet_jax.kernels.forms import CPU, GPU, PLAIN
from alexnet_jax.kernels.linear import linear
from alexnet_jax.model import alexnet

CHOSEN = {"cpu": CPU, "candidate": forms.parse(forms.CANDIDATES[-1], GPU)}
SETTINGS = (
    "--config.model.lrn_constants.alpha=0.01",
    "--config.model.convs.conv2.then=('act','spatial_norm')",
)


def net(chosen):
    """(model, parameters, images) of a tiny net with both normalizations, a max-pool, groups and dropout."""
    spec = config.parse(config.load("tests/tiny.py", list(SETTINGS)))
    model = alexnet.from_config(spec, chosen)
    size = spec.augment.crop_size
    params = jax.jit(lambda key: alexnet.init(model, key, size))(jax.random.key(0))["params"]
    return model, params, 50 * normal(2, size, size, 3, seed=1)


def normal(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def like(tree):
    return jax.tree.map(lambda x: normal(*x.shape, seed=x.size), tree)


@pytest.mark.full
@pytest.mark.parametrize("name", CHOSEN)
def test_forward_and_reverse_mode_agree_in_training_and_at_test_time(name):
    model, params, images = net(CHOSEN[name])
    keys = jax.random.split(jax.random.key(3), 2)
    weights = normal(2, 10, seed=4)

    def loss(params, images, train):
        logits = model.apply({"params": params}, images, train=train, example_keys=keys)[0]
        return jnp.vdot(weights, logits)

    tangents = like((params, images))
    for train in (True, False):
        of = functools.partial(loss, train=train)
        value, slope = jax.jit(lambda *p, of=of: jax.jvp(of, p, tangents))(params, images)
        expected_value, gradient = jax.jit(jax.value_and_grad(of, argnums=(0, 1)))(params, images)
        expected = sum(map(jnp.vdot, jax.tree.leaves(gradient), jax.tree.leaves(tangents)))
        np.testing.assert_allclose(slope, expected, rtol=1e-5)
        np.testing.assert_allclose(value, expected_value, rtol=1e-5)


def logits_by_bias():
    """f(biases of conv1) -> logits, and those biases."""
    model, params, images = net(CPU)

    def logits(bias):
        changed = params | {"conv1": params["conv1"] | {"bias": bias}}
        return model.apply({"params": changed}, images, train=False)[0]

    return logits, params["conv1"]["bias"]


def test_jacobians_of_both_modes_agree():
    logits, bias = logits_by_bias()
    forward, backward = jax.jit(jax.jacfwd(logits))(bias), jax.jit(jax.jacrev(logits))(bias)
    np.testing.assert_allclose(forward, backward, atol=1e-5 * np.abs(backward).max())
    push = jax.jit(lambda bias, tangent: jax.linearize(logits, bias)[1](tangent))
    moved = push(bias, np.ones_like(bias))
    np.testing.assert_allclose(moved, forward.sum(-1), rtol=1e-3, atol=1e-6)


@pytest.mark.full
def test_hessian():
    logits, bias = logits_by_bias()

    def spread(bias):
        return logits(bias).std()

    hessian = jax.jit(jax.hessian(spread))(bias)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-4 * np.abs(hessian).max())
    twice_reverse = jax.jit(jax.jacrev(jax.grad(spread)))(bias)
    np.testing.assert_allclose(hessian, twice_reverse, atol=1e-4 * np.abs(hessian).max())


def operations():
    """(name, function, arguments) of each operation that has a gradient of its own, in every form of it."""
    x = normal(2, 9, 9, 6, seed=5)
    windows = ((3, 2, 2),)
    for form in ("nested", "two_pass", "recomputed", "ratio"):
        chosen = forms.parse(f"lrn_gradient={form}", PLAIN)
        lrn = functools.partial(
            normalization.response_normalization, k=2.0, alpha=0.1, beta=0.75, windows=windows, forms=chosen
        )  # fmt: skip
        yield f"lrn {form}", lrn, (x,)
    for form in ("compared", "separable", "parity", "repeat"):
        pool = functools.partial(
            pooling.max_pool, window=3, stride=2, rounding="floor", forms=forms.parse(f"pool={form}", PLAIN)
        )  # fmt: skip
        yield f"pool {form}", pool, (x,)
        yield f"pool {form}, ties", pool, (np.round(x),)
    for form in ("ones", "sum"):
        add = functools.partial(
            elementwise.add_bias, forms=forms.parse(f"bias_gradient={form}", PLAIN)
        )
        yield f"bias {form}", add, (x, normal(6, seed=5))
        yield f"bias of places {form}", add, (x, normal(9, 9, 6, seed=5))
    yield "relu", functools.partial(elementwise.relu, forms=forms.parse("relu=of_output", PLAIN)), (x,)  # fmt: skip
    yield "barrier", forms.parse("barriers=forward", PLAIN).barrier, (x,)


OPERATIONS = {name: (operation, arguments) for name, operation, arguments in operations()}
#: Forms that no device has chosen are tried with --full.
CASES = [
    pytest.param(name, marks=[pytest.mark.full] if any(form in name for form in (
        "two_pass", "recomputed", "ratio", "parity", "repeat", "sum"
    )) else [])
    for name in OPERATIONS
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operation_has_one_derivative_in_both_modes_alone_and_in_batches(name):
    operation, arguments = OPERATIONS[name]
    tangents = like(arguments)
    y = jax.eval_shape(operation, *arguments)
    cotangent = normal(*y.shape, seed=6)

    @jax.jit
    def derivatives(arguments, tangents, cotangent):
        push = functools.partial(jax.jvp, operation, arguments)
        _, slope = push(tangents)
        _, slopes = jax.vmap(push)(jax.tree.map(lambda t: jnp.stack([t, -t]), tangents))
        _, pull = jax.vjp(operation, *arguments)
        # Reverse of forward mode: the derived transpose of what forward mode computes.
        _, pull_of_push = jax.vjp(lambda *t: push(t)[1], *tangents)
        pulled_twice = jax.vmap(pull)(jnp.stack([cotangent, 2 * cotangent]))
        return slope, slopes, pull(cotangent), pull_of_push(cotangent), pulled_twice

    slope, slopes, pulled, derived, pulled_twice = derivatives(arguments, tangents, cotangent)
    received = sum(map(np.vdot, pulled, tangents))
    np.testing.assert_allclose(np.vdot(slope, cotangent), received, rtol=1e-4)
    slope = np.asarray(slope)
    np.testing.assert_allclose(slopes, np.stack([slope, -slope]), rtol=1e-5, atol=1e-6)
    for one, other, many in zip(pulled, derived, pulled_twice, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(many, np.stack([one, 2 * np.asarray(one)]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_examples_are_those_of_each_alone(name):
    """vmap over the residuals, too."""
    operation, (x, *others) = OPERATIONS[name]
    gradient = jax.grad(lambda x: (operation(x[None], *others) ** 2).sum())
    together, alone = jax.jit(lambda x: (jax.vmap(gradient)(x), [*map(gradient, x)]))(x)
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-4, atol=1e-5)


def test_a_residual_may_move_and_the_own_transpose_is_taken():
    """y = a^2 b, linear in b; its transpose says twice that, so that it is seen which is used."""

    def operation(a, b):
        def transpose(kept, y):
            return (2 * kept[0] ** 2 * y,)

        return linear(lambda kept, b: kept[0] ** 2 * b, transpose, (a,), (b,))

    @jax.jit
    def found(a, b):
        zero, one = jnp.zeros_like(a), jnp.ones_like(a)
        by_a, by_b = jax.grad(operation, argnums=(0, 1))(a, b)
        along_a, along_b = (
            jax.jvp(operation, (a, b), along)[1] for along in ((one, zero), (zero, one))
        )
        return by_a, by_b, along_a, along_b, jax.vmap(operation, (0, None))(jnp.arange(3.0), b)

    a, b = np.float32(3), np.float32(5)
    *derivatives, of_several = found(a, b)
    assert derivatives == [2 * a * b, 2 * a**2, 2 * a * b, a**2]
    assert of_several.tolist() == [0, 5, 20]
