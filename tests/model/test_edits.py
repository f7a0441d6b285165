"""Edits of features inside the net: what follows is computed from them, and nothing else changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import config
from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels.forms import PLAIN
from alexnet_jax.model import alexnet, operations
from alexnet_jax.model.alexnet import AlexNet


@pytest.fixture(scope="module")
def spec():
    return config.with_classes(config.parse(config.load("tests/tiny.py", [])), 10).model


@pytest.fixture(scope="module")
def variables(spec):
    made = jax.jit(lambda key: alexnet.init(AlexNet(spec), key, 14))(jax.random.key(0))
    return jax.tree.map(lambda leaf: 4 * leaf, made)  # so that logits differ


def images(seed=0):
    return np.random.default_rng(seed).normal(size=(3, 14, 14, 3)).astype(np.float32)


def features_of(model, variables, x, edit=None, **options):
    """All features, compiled: {name: array}."""
    options = {"train": False} | options
    compute = jax.jit(lambda v, x: model.apply(v, x, edit=edit, **options)[1])
    return jax.device_get(compute(variables, x))


def test_every_feature_can_be_replaced_and_all_that_follows_is_computed_from_it(spec, variables):
    model = AlexNet(spec)
    target, source = (features_of(model, variables, images(seed)) for seed in (0, 1))
    names = [node.feature for node in operations.all_nodes(spec)]
    assert set(target) == {*names, "conv1", "conv2", "fc6", "fc7"}

    @jax.jit
    def patched(variables, x, source):
        return {
            name: model.apply(variables, x, train=False, edit={name: lambda _, n=name: source[n]})[
                1
            ]
            for name in source
        }

    for name, found in jax.device_get(patched(variables, images(0), source)).items():
        last = [one for one in names if one.startswith(f"{name}/")]
        place = names.index(name if "/" in name else last[-1])
        for i, one in enumerate(names):
            expected = target if i < place else source
            np.testing.assert_allclose(found[one], expected[one], rtol=1e-4, atol=1e-4)
        assert not np.allclose(target[name], source[name], rtol=1e-2, atol=1e-2)


def test_the_arrays_of_towers_are_edited_as_one(spec, variables):
    """In training, conv1 returns an array for each of the two groups of conv2."""
    seen = []

    def without_a_map(x):
        seen.append(x.shape)
        return x.at[..., 5].set(0)

    keys = jax.random.key(0)
    joined, apart, whole = (
        features_of(
            AlexNet(spec, forms=dataclasses.replace(PLAIN, towers=towers)),
            variables, images(), edit, train=True, example_keys=keys,
        )
        for towers, edit in (
            ("joined", {"conv1": without_a_map}), ("apart", {"conv1": without_a_map}), ("apart", None),
        )
    )  # fmt: skip
    assert seen == [(3, 3, 3, 8)] * 2
    assert not apart["conv1"][..., 5].any() and whole["conv1"][..., 5].any()
    for name in joined:
        np.testing.assert_allclose(apart[name], joined[name], rtol=1e-4, atol=1e-4)
    assert np.array_equal(whole["conv2"][..., :4], apart["conv2"][..., :4])  # the other tower
    assert not np.allclose(whole["conv2"][..., 4:], apart["conv2"][..., 4:])


def test_gradients_go_through_an_edit(spec, variables):
    """The slope of the logits in the scale of a map, against a difference."""
    model = AlexNet(spec)

    @jax.jit
    def logits(scale):
        edit = {"conv1/act": lambda x: x.at[..., 2].multiply(scale)}
        return model.apply(variables, images(), train=False, edit=edit)[0]

    _, slope = jax.jit(lambda scale: jax.jvp(logits, (scale,), (jnp.float32(1),)))(jnp.float32(1))
    reverse = jax.jit(jax.grad(lambda scale: logits(scale).sum()))(jnp.float32(1))
    step = 1e-2
    difference = (logits(jnp.float32(1 + step)) - logits(jnp.float32(1 - step))) / (2 * step)
    assert np.abs(slope).max() > 0.01
    np.testing.assert_allclose(slope, difference, rtol=2e-2, atol=1e-3 * np.abs(slope).max())
    np.testing.assert_allclose(reverse, slope.sum(), rtol=1e-3)


def test_no_edit_and_an_empty_one_are_the_same_program(spec, variables):
    model = AlexNet(spec)

    def text(edit):
        jitted = jax.jit(lambda v, x: model.apply(v, x, train=False, edit=edit))
        return jitted.lower(variables, images()).as_text()

    assert text(None) == text({}) != text({"conv1": lambda x: x * 2})


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"conv9": abs, "x": abs}, r"no features conv9, x; it has conv1/linear, conv1/act, .*, fc7"),
        ({"conv1": abs, "conv1/pool": abs}, "two of conv1, conv1/pool are the same feature"),
        ({"conv1": lambda x: x[..., 1:]}, r"the edit of conv1/pool returns float32 \[3, 3, 3, 7\], not float32"),
        ({"fc6": lambda x: x.astype("int32")}, r"edit of fc6/dropout returns int32 \[3, 16\], not float32"),
        ({"fc7": lambda x: None}, r"edit of fc7/linear returns NoneType, not float32 \[3, 10\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_is_refused(spec, variables, edit, said):
    with pytest.raises(ConfigError, match=said):
        jax.eval_shape(
            lambda v: AlexNet(spec).apply(v, images(), train=False, edit=edit), variables
        )
