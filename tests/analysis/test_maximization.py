"""Optimized pictures against images and noise, a linear filter, and the chain rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.analysis import deconvnet, maximization, pictures
from alexnet_jax.analysis.maximization import Recipe
from alexnet_jax.errors import ConfigError
from alexnet_jax.inference.network import Network

STILL = Recipe(jitter=0.0, scale=0.0, rotation=0.0)


def smooth_net(net):
    """The tiny net with a Gabor filter, a colored bar and a blob in conv1."""
    y, x = np.meshgrid(*2 * [np.arange(5) - 2], indexing="ij")
    bell = np.exp(-(x**2 + y**2) / 4)
    kernel = np.zeros((5, 5, 3, 8), np.float32)
    kernel[..., 0] = (bell * np.cos(2 * np.pi * x / 4))[..., None]
    kernel[..., 1] = (bell * np.sin(2 * np.pi * y / 5))[..., None] * (1, -1, 0)
    kernel[..., 2] = bell[..., None] * (-1, -1, 2)
    params = dict(net.trained.params)
    params["conv1"] = params["conv1"] | {"kernel": kernel}
    return Network(net.trained._replace(params=params)), kernel


def test_a_picture_excites_far_more_than_any_image_or_noise(net, splits):
    classes = np.arange(10)
    pictured = maximization.maximize(net, "fc7", classes, STILL._replace(steps=100))
    assert pictured.shape == (10, 14, 14, 3) and pictured.dtype == np.uint8
    made = maximization.excitation(net, "fc7", classes, pictured)
    logits = net.features(splits["test"].images[:], "fc7")
    spread = logits.std(axis=0)
    assert (made > logits.max(axis=0) + 3 * spread).all()
    noise = np.random.default_rng(0).integers(0, 256, (64, 14, 14, 3), dtype=np.uint8)
    for number in (0, 9):
        of_noise = maximization.excitation(net, "fc7", np.full(64, number), noise)
        assert made[number] > of_noise.max() + 3 * of_noise.std()


def test_the_excitation_of_a_crop_is_the_feature_of_its_image(net, pixels, answers):
    """The crop goes through the preprocessing of the net, and the place is the middle of the map."""
    crops = pictures.crops(net, pixels)
    units = np.array([0, 3, 5, 7, 7])
    for feature in ("conv2/linear", "fc6"):
        found = maximization.excitation(net, feature, units, crops)
        expected = answers[feature][:5]
        if expected.ndim == 4:
            expected = expected[:, expected.shape[1] // 2, expected.shape[2] // 2]
        np.testing.assert_allclose(found, expected[np.arange(5), units], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("recipe", [STILL._replace(decorrelated=False), STILL._replace(steps=200)])
def test_the_picture_of_a_linear_filter_resembles_the_filter(net, recipe):
    smooth, kernel = smooth_net(net)
    made = maximization.maximize(smooth, "conv1/linear", np.arange(3), recipe)
    place = tuple(side // 2 for side in smooth.shapes["conv1/linear"][:2])
    y, x = deconvnet.window(smooth, "conv1/linear", place)
    for number in range(3):
        seen = made[number, y, x].astype(float) - 127.5
        filtered = kernel[..., number]
        alike = (seen * filtered).sum() / np.linalg.norm(seen) / np.linalg.norm(filtered)
        assert alike > 0.8, number


def test_without_transformations_the_gradient_is_that_of_the_pixels(net):
    """d/d waves = (d activation / d pixels) through the sum of waves, which is linear but for the sigmoid."""
    recipe, units, colors = STILL, np.array([2, 6]), np.eye(3, dtype=np.float32)
    keys = jax.random.split(jax.random.key(1), 2)
    waves = 30 * maximization.initial_waves(keys, 14)

    @jax.jit
    @jax.grad
    def by_waves(waves):
        shown = maximization.transform(maximization.to_pixels(waves, colors), keys, recipe)
        return maximization._central(net, net.variables, "conv2/linear", shown, units).sum()

    @jax.jit
    @jax.grad
    def by_pixels(shown):
        inputs = pictures.inputs(net, shown)
        x = net.model.apply(net.variables, inputs, train=False)[1]["conv2/linear"]
        return x[0, x.shape[1] // 2, x.shape[2] // 2, 2] + x[1, x.shape[1] // 2, x.shape[2] // 2, 6]

    shown, pull = jax.vjp(lambda waves: maximization.to_pixels(waves, colors), waves)
    [expected] = pull(by_pixels(shown))
    assert jnp.abs(expected).max() > 0
    np.testing.assert_allclose(by_waves(waves), expected, rtol=1e-4, atol=1e-6)


def test_moved_images_are_shifted_scaled_and_turned_within_their_bounds(monkeypatch):
    spot = np.full((1, 31, 31, 3), 127.5, np.float32)
    spot[0, 15, 25] = 255  # 10 right of the center
    keys = jax.random.split(jax.random.key(0), 1)

    def found(draws, **changes):
        monkeypatch.setattr(jax.random, "uniform", lambda *_, **__: jnp.asarray(draws))
        image = maximization.transform(jnp.asarray(spot), keys, STILL._replace(**changes))[0]
        weights = np.asarray(image[..., 0]) - 127.5
        return [float((axis * weights).sum() / weights.sum()) for axis in np.indices((31, 31))]

    assert found([0.5, -1.0, 0.0, 0.0], jitter=4.0) == pytest.approx([13, 29])
    assert found([0.0, 0.0, 1.0, 0.0], scale=0.25) == pytest.approx([15, 23], abs=0.3)
    turned = found([0.0, 0.0, 0.0, 1.0], rotation=90.0)
    assert turned == pytest.approx([5, 15], abs=0.1) or turned == pytest.approx([25, 15], abs=0.1)


def test_pixels_stay_within_their_range_and_waves_have_the_colors_of_the_images(net):
    waves = 1e4 * maximization.initial_waves(jax.random.split(jax.random.key(0), 3), 15)
    shown = np.asarray(maximization.to_pixels(waves, np.eye(3, dtype=np.float32)))
    assert shown.shape == (3, 15, 15, 3)  # an odd size, too
    assert shown.min() >= 0 and shown.max() <= 255
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0].astype(np.float32)
    stds = np.array([1, 2, 50], np.float32)
    means = net.trained.statistics._replace(eigenvectors=vectors, stds=stds)
    basis = maximization.color_basis(Network(net.trained._replace(statistics=means)), True)
    np.testing.assert_allclose(basis @ basis.T, vectors @ np.diag((stds / 50) ** 2) @ vectors.T, atol=1e-6)  # fmt: skip
    assert np.array_equal(maximization.color_basis(net, True), np.eye(3))  # its statistics are 0


def test_a_picture_depends_on_its_unit_and_the_seed_alone(net):
    recipe = Recipe(steps=5)
    together = maximization.maximize(net, "conv1/linear", np.array([1, 4]), recipe)
    alone = maximization.maximize(
        net, "conv1/linear", np.array([4, 4]), recipe
    )  # as many: no compilation
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1
    again = maximization.maximize(Network(net.trained), "conv1/linear", np.array([1, 4]), recipe)
    assert np.array_equal(again, together)
    other = maximization.maximize(net, "conv1/linear", np.array([4, 4]), recipe._replace(seed=1))
    assert np.abs(other[0].astype(int) - alone[0]).max() > 1


def test_the_feature_before_the_activation_and_its_jitter(net):
    assert maximization.before_activation(net, "conv1") == "conv1/linear"
    assert maximization.before_activation(net, "fc7") == "fc7"
    assert maximization.default_jitter(net, "conv1/linear") == 1.0
    assert maximization.default_jitter(net, "conv2/linear") == 2.0
    assert maximization.default_jitter(net, "fc6") == 14 / 16


@pytest.mark.parametrize(
    ("feature", "units", "said"),
    [
        ("conv1", [8], "the units of conv1 go from 0 to 7"),
        ("conv1", [], "the units of conv1"),
        ("conv9", [0], "no features 'conv9'"),
    ],
)
def test_a_wrong_feature_or_unit_says_so(net, feature, units, said):
    with pytest.raises(ConfigError, match=said):
        maximization.maximize(net, feature, np.array(units, int))
