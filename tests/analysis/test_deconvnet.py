"""Each stage of the way back against its definition, and all of them against the derivative of the linearised net."""

import itertools
import json

import jax
import numpy as np
import pytest
from jax import lax

from alexnet_jax.analysis import deconvnet
from alexnet_jax.errors import ConfigError
from alexnet_jax.model.operations.pool import unpool
from alexnet_jax.specs import PoolSpec


def switches(before, window, stride, count):
    """[n count count c 2]: where the first maximum of each window is, by a loop."""
    images, size, _, maps = before.shape
    found = np.zeros((images, count, count, maps, 2), int)
    for n, i, j, c in itertools.product(range(images), range(count), range(count), range(maps)):
        inside = [
            (y, x)
            for y in range(i * stride, min(i * stride + window, size))
            for x in range(j * stride, min(j * stride + window, size))
        ]
        found[n, i, j, c] = max(inside, key=lambda place: before[n, *place, c])
    return found


def scattered(x, where, shape):
    """Each value of `x` at its switch, by a loop."""
    made = np.zeros(shape, np.float32)
    for n, i, j, c in np.ndindex(x.shape):
        made[n, *where[n, i, j, c], c] += x[n, i, j, c]
    return made


@pytest.mark.parametrize(("size", "rounding", "count"), [(7, "ceil", 3), (8, "ceil", 4), (8, "floor", 3)])  # fmt: skip
def test_a_pool_gives_each_value_back_to_one_maximum(size, rounding, count):
    generator = np.random.default_rng(0)
    # Few different values, so that windows have several maxima.
    before = generator.integers(0, 3, (2, size, size, 3)).astype(np.float32)
    x = generator.normal(size=(2, count, count, 3)).astype(np.float32)
    pool = PoolSpec(kind="max", window=3, stride=2, rounding=rounding)
    expected = scattered(x, switches(before, 3, 2, count), before.shape)
    found = jax.jit(lambda before, x: unpool(before, x, pool))(before, x)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_average_pool_spreads_each_value():
    pool = PoolSpec(kind="average", window=2, stride=2, rounding="floor")
    x = np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1)
    spread = jax.jit(lambda before, x: unpool(before, x, pool))(np.zeros((1, 4, 4, 1)), x)
    np.testing.assert_allclose(spread[0, :, :, 0], np.kron(x[0, :, :, 0], np.full((2, 2), 0.25)))


def convolution(params, stride, pad, groups):
    """Without its bias."""

    def convolve(x):
        return lax.conv_general_dilated(
            x, params["kernel"], (stride, stride), (pad, pad), feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    return convolve


@pytest.fixture(scope="module")
def way(net, forward, pixels):
    """inputs, features, some x at conv2, and the two convolutions without biases."""
    inputs = net.inputs(pixels)[:, 0]
    features = forward(inputs)
    first = convolution(net.trained.params["conv1"], 2, (2, 2), 1)
    second = convolution(net.trained.params["conv2"], 1, (1, 1), 2)
    x = np.random.default_rng(4).normal(size=features["conv2"].shape).astype(np.float32)
    return inputs, features, x, first, second


def back(net, inputs, features, x, rectify=None):
    def deconvolve(variables, inputs, features, x):
        return deconvnet.deconvolve(net, variables, inputs, features, "conv2", x, rectify)

    return jax.jit(deconvolve)(net.variables, inputs, features, x)


def test_without_rectification_it_is_the_derivative_of_the_linearised_net(net, way):
    inputs, features, x, first, second = way
    where = switches(np.asarray(features["conv1/lrn"]), 3, 2, 3)
    places = (np.arange(5)[:, None, None, None], where[..., 0], where[..., 1], np.arange(8))

    @jax.jit
    def derivative(inputs, x):
        return jax.vjp(lambda inputs: second(first(inputs)[places]), inputs)[1](x)[0]

    made = back(net, inputs, features, x, rectify=lambda x: x)
    np.testing.assert_allclose(made, derivative(inputs, x), rtol=1e-4, atol=1e-4)


def test_it_rectifies_where_the_net_does(net, way):
    inputs, features, x, first, second = way

    def transposed(convolve, at, x):
        return np.asarray(jax.jit(lambda at, x: jax.vjp(convolve, at)[1](x)[0])(at, x))

    unpooled = scattered(
        transposed(second, features["conv1/pool"], np.maximum(x, 0)),
        switches(np.asarray(features["conv1/lrn"]), 3, 2, 3),
        features["conv1/lrn"].shape,
    )
    expected = transposed(first, inputs, np.maximum(unpooled, 0))
    made = back(net, inputs, features, x)
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)


def test_it_starts_from_the_largest_activation_of_a_map(net, way, answers, pixels):
    maps = np.array([3, 1, 4, 1, 5])
    activations = answers["conv2"][:5]
    start = np.zeros_like(activations)
    for image, number in enumerate(maps):
        own = activations[image, :, :, number]
        place = np.unravel_index(own.argmax(), own.shape)
        start[image, *place, number] = own.max()
    inputs, features, *_ = way
    expected = back(net, inputs, features, start)
    made = deconvnet.project(net, pixels, "conv2", maps)
    assert np.abs(made).max() > 0
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)
    strongest = deconvnet.strengths(net, pixels, "conv2", [1, 5])
    np.testing.assert_allclose(
        strongest[..., 0], activations.max(axis=(1, 2))[:, [1, 5]], rtol=1e-5
    )


def test_a_window_is_all_that_an_activation_sees(net, way, forward):
    inputs = way[0]
    for layer, place in (("conv1/linear", (0, 3)), ("conv1/pool", (1, 1)), ("conv2/act", (2, 0))):

        def activation(inputs, layer=layer, place=place):
            return forward(inputs)[layer][:, *place].sum()

        seen = np.abs(jax.jit(jax.grad(activation))(inputs)).max(axis=(0, 3)) > 0
        seen[deconvnet.window(net, layer, place)] = False
        assert not seen.any()
    assert deconvnet.window(net, "conv1/linear", (1, 0)) == (slice(0, 5), slice(0, 5))
    assert deconvnet.window(net, "conv1/linear", (3, 6)) == (slice(4, 9), slice(9, 14))


def test_the_figure_has_the_strongest_images_of_each_map(answers, weights_file, tmp_path):
    command = ["--workdir", str(weights_file), "--out", str(tmp_path), "--layer", "conv1/act"]
    deconvnet.main([*command, "--map", "6", "0"])
    assert (tmp_path / "deconvnet.png").stat().st_size > 0
    rows = json.loads((tmp_path / "deconvnet.json").read_text())["maps"]
    assert [(row["map"], row["tower"]) for row in rows] == [(6, 2), (0, 1)]
    largest = answers["conv1/act"].max(axis=(1, 2))[:, 6]
    expected = [f"test {number}" for number in np.argsort(-largest, kind="stable")[:9]]
    assert [image["image"] for image in rows[0]["images"]] == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--layer", "fc6"], "'fc6' is not a feature of a convolution; the layers are conv1, conv2"),
     (["--map", "8"], "the maps of conv2/act go from 0 to 7")],
)  # fmt: skip
def test_bad_input_is_said(weights_file, tmp_path, arguments, said):
    with pytest.raises(ConfigError, match=said):
        deconvnet.main(["--workdir", str(weights_file), "--out", str(tmp_path), *arguments])
