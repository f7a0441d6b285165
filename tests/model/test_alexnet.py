"""The network of the paper in numbers, and the behavior of tiny networks."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import config
from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels import compiler, normalization, pooling
from alexnet_jax.kernels.forms import PLAIN
from alexnet_jax.model import alexnet, geometry
from alexnet_jax.model.operations import ACTIVATIONS
from alexnet_jax.specs import ConvSpec, DropoutSpec, FCSpec, PoolSpec
from configs import paper


def paper_model():
    options = paper.get_config()
    options.data.path = "unused"
    return config.parse(options).model


def tiny_model(**changes):
    """Two convolution rows and two dense rows on 12x12 images, two towers."""
    pool = PoolSpec(kind="max", window=3, stride=2, rounding="ceil")
    conv = ConvSpec(
        kind="conv", features=4, kernel=3, stride=1, pad=(0, 1), groups=1, init_std=0.1, bias=0.5,
        ops=("act", "lrn", "pool"), pool=pool,
    )  # fmt: skip
    fc = FCSpec(features=6, groups=1, init_std=0.1, bias=1.0, pre_ops=(), ops=("act", "dropout"))
    return dataclasses.replace(
        paper_model(),
        num_classes=3,
        convs=(
            ("conv1", conv),
            ("conv2", dataclasses.replace(conv, groups=2, ops=("act",), pool=None)),
        ),
        fcs=(("fc3", fc), ("fc4", dataclasses.replace(fc, features=None, ops=()))),
        **changes,
    )


def with_row(model, name, **changes):
    """`model` with some fields of one row changed."""

    def change(rows):
        return tuple((n, dataclasses.replace(r, **changes) if n == name else r) for n, r in rows)

    return dataclasses.replace(model, convs=change(model.convs), fcs=change(model.fcs))


@functools.cache
def build(model):
    """The network and its initial variables as numpy arrays."""
    network = alexnet.AlexNet(model)
    init = jax.jit(lambda key: alexnet.init(network, key, 12))
    return network, jax.device_get(init(jax.random.key(0)))


def apply(network, variables, x, **options):
    """`network.apply`, compiled, in numpy arrays; `options` are train and the like, and example_keys."""
    example_keys = options.pop("example_keys", None)
    function = jax.jit(lambda v, x, k: network.apply(v, x, example_keys=k, **options))
    return jax.device_get(function(variables, x, example_keys))


def images(count=2, size=12, scale=1.0):
    return np.random.default_rng(0).normal(size=(count, size, size, 3)).astype(np.float32) * scale


def keys(count=2, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.full
def test_quick_compilation_changes_no_bit_of_the_initial_weights(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    tiny = tiny_model()
    network = alexnet.AlexNet(dataclasses.replace(tiny, convs=tiny.convs[:1], fcs=tiny.fcs[1:]))
    usual = {"xla_backend_optimization_level": "3"}
    quick, slow = (
        jax.jit(lambda key: alexnet.init(network, key, 12), compiler_options=options)(
            jax.random.key(0)
        )
        for options in (compiler.quick(), usual)
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, quick, slow))


def test_the_paper_s_network_has_60_965_224_parameters():
    network = alexnet.AlexNet(paper_model())
    shapes = jax.eval_shape(lambda key: alexnet.init(network, key, 224), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 60_965_224
    assert shapes["batch_stats"] == {}
    assert shapes["params"]["conv2"]["kernel"].shape == (5, 5, 48, 256)
    assert shapes["params"]["fc6"]["kernel"].shape == (9216, 4096)


def test_every_row_counts_the_parameters_that_geometry_says():
    model = paper_model()
    network = alexnet.AlexNet(model)
    shapes = jax.eval_shape(lambda key: alexnet.init(network, key, 224), jax.random.key(0))
    for layer in geometry.layers(model, 224, 1000):
        if not layer.name.endswith("/pool"):
            count = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"][layer.name]))
            assert count == layer.parameters, layer.name


def test_features_shrink_from_224_to_55_27_13_and_6():
    network = alexnet.AlexNet(paper_model())
    variables = jax.eval_shape(lambda key: alexnet.init(network, key, 224), jax.random.key(0))
    logits, features = jax.eval_shape(
        lambda v, x: network.apply(v, x, train=False),
        variables,
        jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32),
    )
    shapes = {name: feature.shape for name, feature in features.items()}
    assert logits.shape == (2, 1000) and logits.dtype == jnp.float32
    assert shapes["conv1/linear"] == (2, 55, 55, 96)
    assert shapes["conv1"] == shapes["conv1/pool"] == (2, 27, 27, 96)
    assert shapes["conv2/lrn"] == (2, 27, 27, 256)
    assert shapes["conv2"] == (2, 13, 13, 256)
    assert shapes["conv3"] == shapes["conv4"] == (2, 13, 13, 384)
    assert shapes["conv5"] == (2, 6, 6, 256)
    assert shapes["fc6"] == shapes["fc7"] == (2, 4096)
    assert shapes["fc8"] == (2, 1000)


def test_initial_weights_have_the_row_s_deviation_and_bias():
    model = with_row(with_row(tiny_model(), "fc3", init_std=0.03, features=400), "conv2", bias=1.0)
    _, variables = build(model)
    kernel = np.asarray(variables["params"]["fc3"]["kernel"])
    assert abs(kernel.std() / 0.03 - 1) < 0.03 and abs(kernel.mean()) < 0.001
    assert np.all(np.asarray(variables["params"]["conv2"]["bias"]) == 1.0)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    ("kind", "deviation"), [("he", (2 / 64) ** 0.5), ("glorot", (2 / 464) ** 0.5)]
)
def test_he_and_glorot_follow_the_shape_and_not_the_row(kind, deviation):
    model = with_row(tiny_model(init=kind), "fc3", features=400)
    _, variables = build(model)
    kernel = np.asarray(variables["params"]["fc3"]["kernel"])
    assert kernel.shape == (64, 400)
    assert abs(kernel.std() / deviation - 1) < 0.03
    if kind == "glorot":
        assert np.abs(kernel).max() <= (6 / 464) ** 0.5


def test_operations_are_carried_out_in_the_order_of_the_row():
    model = with_row(tiny_model(), "conv1", ops=("lrn", "pool", "act"))
    network, variables = build(model)
    _, features = apply(network, variables, images(), train=False)
    linear = features["conv1/linear"]

    @jax.jit
    def normalized_and_pooled(x):
        x = normalization.local_response_normalization(
            x, k=2.0, n=5, alpha=1e-4, beta=0.75, towers=2
        )
        return pooling.max_pool(x, window=3, stride=2, rounding="ceil")

    expected = np.maximum(np.asarray(normalized_and_pooled(linear)), 0)
    np.testing.assert_allclose(features["conv1"], expected, rtol=1e-5, atol=1e-6)


def test_logits_are_the_last_feature():
    network, variables = build(tiny_model())
    logits, features = apply(network, variables, images(), train=False)
    np.testing.assert_array_equal(logits, features["fc4"])


@pytest.mark.parametrize("scale_at", ["test", "train"])
def test_dropout_keeps_half_and_makes_up_for_it(scale_at):
    dropout = DropoutSpec(rate=0.5, scale_at=scale_at)
    network, variables = build(with_row(tiny_model(dropout=dropout), "fc3", features=500))
    _, trained = apply(network, variables, images(), train=True, example_keys=keys())
    _, tested = apply(network, variables, images(), train=False)
    act, dropped = np.asarray(trained["fc3/act"]), np.asarray(trained["fc3/dropout"])
    mask = dropped != 0
    assert 0.4 < mask[act != 0].mean() < 0.6
    np.testing.assert_allclose(dropped[mask], act[mask] * (1 if scale_at == "test" else 2))
    half = 0.5 if scale_at == "test" else 1.0
    np.testing.assert_allclose(tested["fc3/dropout"], tested["fc3/act"] * half)


def test_dropout_of_an_example_does_not_depend_on_its_batch():
    network, variables = build(with_row(tiny_model(), "fc3", features=50))
    several, _ = apply(network, variables, images(4), train=True, example_keys=keys(4))
    single, _ = apply(network, variables, images(4)[2:3], train=True, example_keys=keys(4)[2:3])
    np.testing.assert_allclose(several[2:3], single, rtol=1e-5, atol=1e-6)


def test_each_dropout_draws_its_own_mask():
    model = with_row(tiny_model(), "fc3", features=50, pre_ops=("dropout",), ops=("dropout",))
    model = with_row(model, "fc4", pre_ops=("dropout",))
    network, variables = build(model)
    _, features = apply(network, variables, images(), train=True, example_keys=keys())
    first = np.asarray(features["fc3/dropout"] == 0)
    second = np.asarray(features["fc4/before/dropout"] == 0)
    assert np.any(second & ~first)


def test_training_with_dropout_asks_for_keys():
    network, variables = build(tiny_model())
    with pytest.raises(ValueError, match="example_keys"):
        jax.eval_shape(lambda v: network.apply(v, images(), train=True), variables)


def test_grouped_rows_equal_block_diagonal_dense_rows():
    grouped = with_row(with_row(tiny_model(), "fc3", groups=2), "fc4", groups=1)
    network, variables = build(grouped)
    params = jax.tree.map(np.asarray, variables["params"])
    kernel = np.zeros((3, 3, 4, 4), np.float32)
    kernel[:, :, :2, :2] = params["conv2"]["kernel"][..., :2]
    kernel[:, :, 2:, 2:] = params["conv2"]["kernel"][..., 2:]
    # Row [h w c] of the dense matrix: the features of tower c // 2 only.
    blocks = params["fc3"]["kernel"].reshape(2, 4, 4, 2, 3)
    dense = np.zeros((4, 4, 4, 6), np.float32)
    dense[:, :, :2, :3], dense[:, :, 2:, 3:] = blocks
    params["conv2"] = params["conv2"] | {"kernel": kernel}
    params["fc3"] = params["fc3"] | {"kernel": dense.reshape(64, 6)}
    whole = alexnet.AlexNet(with_row(with_row(grouped, "fc3", groups=1), "conv2", groups=1))
    expected, _ = apply(network, variables, images(), train=False)
    result, _ = apply(whole, {"params": params}, images(), train=False)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_towers_do_not_see_each_other_before_they_meet():
    model = with_row(with_row(tiny_model(), "conv1", groups=1), "fc3", groups=2)
    network, variables = build(model)
    kernel = variables["params"]["conv1"]["kernel"].copy()
    kernel[..., 2:] += 1.0
    changed = dict(variables["params"])
    changed["conv1"] = changed["conv1"] | {"kernel": kernel}
    _, before = apply(network, variables, images(), train=False)
    _, after = apply(network, {"params": changed}, images(), train=False)
    np.testing.assert_array_equal(before["fc3/linear"][:, :3], after["fc3/linear"][:, :3])
    assert np.all((before["fc3/linear"] != after["fc3/linear"])[:, 3:])


def test_a_dense_layer_with_groups_joins_the_arrays_of_the_towers():
    model = with_row(tiny_model(), "fc3", groups=2)
    _, variables = build(model)
    network = alexnet.AlexNet(model, forms=dataclasses.replace(PLAIN, towers="apart"))
    logits, _ = jax.eval_shape(
        lambda v: network.apply(v, images(), train=True, example_keys=keys()), variables
    )
    assert logits.shape == (2, 3)


def test_groups_that_do_not_divide_the_maps_are_refused():
    model = with_row(tiny_model(), "fc3", groups=5, features=10)
    with pytest.raises(ConfigError, match="fc3: groups=5"):
        build(model)


def test_a_local_row_has_kernels_and_biases_of_its_own_at_every_place():
    network, variables = build(with_row(tiny_model(), "conv2", kind="local", groups=1))
    params = variables["params"]["conv2"]
    assert params["kernel"].shape == (4, 4, 3, 3, 4, 4)
    assert params["bias"].shape == (4, 4, 4)
    assert apply(network, variables, images(), train=False)[0].shape == (2, 3)


def test_batch_normalization_uses_the_batch_in_training_and_the_averages_at_test_time():
    model = with_row(tiny_model(), "conv2", ops=("batch_norm", "act"))
    network, variables = build(model)
    assert set(variables["params"]["conv2"]) == {"kernel", "bias", "scale", "offset"}
    x = images(4, scale=3.0)
    (_, features), updates = apply(
        network, variables, x, train=True, example_keys=keys(4), mutable=["batch_stats"]
    )
    linear = np.asarray(features["conv2/linear"], np.float64)
    mean, var = linear.mean((0, 1, 2)), linear.var((0, 1, 2))
    np.testing.assert_allclose(
        features["conv2/batch_norm"], (linear - mean) / np.sqrt(var + 1e-3), rtol=1e-4, atol=1e-4
    )
    stats: Any = updates["batch_stats"]["conv2"]
    np.testing.assert_allclose(stats["mean"], 0.01 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.99 + 0.01 * var, rtol=1e-5)
    _, tested = apply(network, variables, x, train=False)
    np.testing.assert_allclose(
        tested["conv2/batch_norm"], tested["conv2/linear"] / np.sqrt(1 + 1e-3), rtol=1e-5, atol=1e-6
    )


def test_batch_statistics_are_those_of_all_devices_together():
    model = with_row(tiny_model(), "conv2", ops=("batch_norm", "act"))
    network, variables = build(model)
    x, example_keys = images(4), keys(4)
    expected, _ = apply(
        network, variables, x, train=True, example_keys=example_keys, mutable=["batch_stats"]
    )
    shared = alexnet.AlexNet(model, axis_name="device")

    def on_a_device(x, k):
        return shared.apply(variables, x, train=True, example_keys=k, mutable=["batch_stats"])

    (logits, _), updates = jax.jit(jax.vmap(on_a_device, axis_name="device"))(
        x.reshape(2, 2, 12, 12, 3), example_keys.reshape(2, 2)
    )
    np.testing.assert_allclose(logits.reshape(4, 3), expected[0], rtol=1e-4, atol=1e-5)
    mean = updates["batch_stats"]["conv2"]["mean"]
    np.testing.assert_array_equal(mean[0], mean[1])


def test_bfloat16_computes_in_bfloat16_and_gives_float32_logits():
    wide, variables = build(tiny_model())
    narrow = alexnet.AlexNet(tiny_model(compute_dtype="bfloat16"))
    logits, features = apply(narrow, variables, images(), train=False)
    expected, _ = apply(wide, variables, images(), train=False)
    assert features["conv1"].dtype == features["fc3"].dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    # Four rows, each rounding inputs, weights and outputs to 8 bits.
    np.testing.assert_allclose(logits, expected, atol=0.02 * np.abs(expected).max() + 0.01)
    gradients = jax.eval_shape(
        jax.grad(lambda v: narrow.apply(v, images(), train=False)[0].sum()), variables
    )
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    "activation",
    [
        pytest.param(name, marks=() if name in ("relu", "tanh") else pytest.mark.full)
        for name in sorted(ACTIVATIONS)
    ],
)
def test_every_activation_and_pool_trains(activation):
    model = with_row(
        tiny_model(activation=activation),
        "conv1",
        pool=PoolSpec(kind="average", window=3, stride=2, rounding="ceil"),
    )
    network, variables = build(model)

    def loss(variables):
        return (network.apply(variables, images(), train=True, example_keys=keys())[0] ** 2).sum()

    gradients = jax.jit(jax.grad(loss))(variables)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    assert np.any(np.asarray(gradients["params"]["conv1"]["kernel"]) != 0)
