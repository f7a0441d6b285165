"""Attributions against their definitions."""

import jax
import numpy as np
import pytest

from alexnet_jax.analysis import attributions, saliency
from alexnet_jax.errors import ConfigError
from alexnet_jax.inference.network import Network

CLASSES = np.array([3, 1, 4, 1, 5])


def test_occlusion_is_the_fall_of_the_probability_behind_a_blank_square(net, forward, pixels):
    maps = attributions.occlusion(net, pixels, CLASSES, side=4)
    starts = attributions.occluded_from(14, 4)
    assert starts.tolist() == [0, 2, 4, 6, 8, 10] and maps.shape == (5, 6, 6)
    inputs = np.asarray(net.inputs(pixels)[:, 0])

    def probability(inputs):
        return np.asarray(jax.nn.softmax(forward(inputs)["fc7"]))[np.arange(5), CLASSES]

    for i, j in ((0, 0), (2, 5), (5, 1)):
        covered = inputs.copy()
        covered[:, starts[i] : starts[i] + 4, starts[j] : starts[j] + 4] = 0
        expected = probability(inputs) - probability(covered)
        np.testing.assert_allclose(maps[:, i, j], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("size", "side"), [(14, 3), (24, 5), (227, 45), (14, 14), (5, 1)])
def test_squares_cover_the_crop_and_overlap_by_half(size, side):
    starts = attributions.occluded_from(size, side)
    assert starts[0] == 0 and starts[-1] == size - side
    assert (np.diff(starts) <= max(side // 2, 1)).all() and (np.diff(starts) > 0).all()


def test_a_square_of_the_whole_crop_hides_everything(net, forward, pixels):
    [[shown]] = attributions.occlusion(net, pixels[:1], CLASSES[:1], side=14)
    blank = jax.nn.softmax(forward(np.zeros((1, 14, 14, 3), np.float32))["fc7"])[0, 3]
    assert shown == pytest.approx(float(net.predict(pixels[:1])[0, 3] - blank), abs=1e-5)


def test_integrated_gradients_are_complete(net, forward, pixels):
    """Their sum is the difference of the logit from that of the blank input, the better the more steps."""
    inputs = np.asarray(net.inputs(pixels)[:, 0])
    ends = [
        np.asarray(forward(x)["fc7"])[np.arange(5), CLASSES]
        for x in (inputs, np.zeros_like(inputs))
    ]
    difference, errors = ends[0] - ends[1], []
    for steps in (4, 64):
        maps = attributions.integrated_gradients(net, pixels, CLASSES, steps)
        assert maps.shape == (5, 14, 14)
        errors.append(np.abs(maps.sum(axis=(1, 2)) - difference).max())
    assert errors[1] < 0.01 * np.abs(difference).max() and errors[1] < errors[0]


def test_integrated_gradients_of_a_linear_net_are_input_times_weight(net, pixels):
    """Dead hidden units aside, a net of positive weights and inputs is linear."""
    params = jax.tree.map(lambda leaf: np.zeros_like(leaf), net.trained.params)
    generator = np.random.default_rng(0)
    for name in ("conv1", "conv2", "fc6", "fc7"):
        kernel = net.trained.params[name]["kernel"]
        params[name]["kernel"] = generator.uniform(0, 0.01, kernel.shape).astype(np.float32)
    means = net.trained.statistics._replace(mean_image=np.zeros((16, 16, 3), np.float32))
    linear = Network(net.trained._replace(params=params, statistics=means))
    maps = attributions.integrated_gradients(linear, pixels, CLASSES, steps=8)
    inputs = linear.inputs(pixels)[:, 0]

    def logit(inputs):
        outputs = linear.model.apply(linear.variables, inputs, train=False)[0]
        return attributions.logits_of(outputs, CLASSES).sum()

    # Normalization makes it homogeneous only nearly.
    expected = np.asarray((inputs * jax.jit(jax.grad(logit))(inputs)).sum(axis=-1))
    assert np.corrcoef(maps.ravel(), expected.ravel())[0, 1] > 0.99


def test_smoothgrad_without_noise_is_the_gradient(net, pixels):
    smooth = attributions.smoothgrad(net, pixels, CLASSES, noise=0.0, samples=3)
    expected = saliency.gradient(net, pixels, CLASSES)
    np.testing.assert_allclose(smooth, expected, rtol=1e-4, atol=1e-6)


def test_smoothgrad_averages_gradients_of_noisy_inputs(net, pixels):
    inputs = np.asarray(net.inputs(pixels)[:, 0])
    extent = inputs.max(axis=(1, 2, 3)) - inputs.min(axis=(1, 2, 3))

    @jax.jit
    @jax.grad
    def slope(inputs):
        outputs = net.model.apply(net.variables, inputs, train=False)[0]
        return attributions.logits_of(outputs, CLASSES).sum()

    keys = jax.random.split(jax.random.key(5), 2)
    noise = [
        0.2 * extent[:, None, None, None] * jax.random.normal(key, (14, 14, 3)) for key in keys
    ]
    expected = np.abs(np.mean([slope(inputs + one) for one in noise], axis=0)).max(axis=-1)
    found = attributions.smoothgrad(net, pixels, CLASSES, noise=0.2, samples=2, seed=5)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (attributions.occlusion, {}),
        (attributions.integrated_gradients, {"steps": 4}),
        (attributions.smoothgrad, {"samples": 2}),
    ],
)
def test_the_class_explained_is_the_predicted_one(net, pixels, method, options):
    predicted = net.predict(pixels).argmax(axis=1)
    assert np.array_equal(method(net, pixels, **options), method(net, pixels, predicted, **options))
    with pytest.raises(ConfigError, match="classes go from 0 to 9, not to 10"):
        method(net, pixels, [0, 1, 2, 3, 10])


def test_a_square_larger_than_the_crop_is_refused(net, pixels):
    with pytest.raises(ConfigError, match="from 1 to 14, not 15"):
        attributions.occlusion(net, pixels, side=15)
