"""Gradients against finite differences, and Grad-CAM against its equations."""

import json

import numpy as np
import pytest

from alexnet_jax.analysis import pictures, saliency
from alexnet_jax.errors import AlexNetError, ConfigError


def test_the_gradient_is_the_largest_slope_over_the_colors(net, forward, pixels):
    classes = np.array([3, 1, 4, 1, 5])
    maps = saliency.gradient(net, pixels, classes)
    assert maps.shape == (5, 14, 14) and maps.dtype == np.float32
    inputs = np.asarray(net.inputs(pixels)[:, 0])
    for place in ((0, 0), (6, 7), (13, 2)):
        slopes = []
        for color in range(3):
            step = np.zeros_like(inputs)
            step[:, *place, color] = 0.05
            change = np.asarray(forward(inputs + step)["fc7"] - forward(inputs - step)["fc7"])
            slopes.append(np.abs(change[np.arange(5), classes]) / 0.1)
        np.testing.assert_allclose(maps[:, *place], np.max(slopes, axis=0), rtol=0.02, atol=1e-4)


def test_grad_cam_is_equations_1_and_2(net, answers, pixels):
    """fc7(0.5 relu(fc6(A))), with the maps A of conv2, differentiated by hand."""
    params, classes = net.trained.params, np.array([3, 1, 4, 1, 5])
    maps = answers["conv2"][:5]
    hidden = maps.reshape(5, -1) @ params["fc6"]["kernel"] + params["fc6"]["bias"]
    onwards = params["fc7"]["kernel"][:, classes].T * 0.5 * (hidden > 0)
    slopes = (onwards @ params["fc6"]["kernel"].T).reshape(maps.shape)
    alpha = slopes.mean(axis=(1, 2))
    expected = np.maximum(np.einsum("nk,nhwk->nhw", alpha, maps), 0)
    assert expected.max() > 0
    for layer in (None, "conv2"):
        made = saliency.grad_cam(net, pixels, classes, layer)
        np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-3 * expected.max())


def test_the_class_explained_is_the_predicted_one(net, pixels):
    predicted = net.predict(pixels).argmax(axis=1)
    for method in (saliency.gradient, saliency.grad_cam):
        assert np.array_equal(method(net, pixels), method(net, pixels, predicted))
        assert not np.array_equal(method(net, pixels), method(net, pixels, (predicted + 1) % 10))


def test_a_wrong_class_or_layer_says_so(net, pixels):
    with pytest.raises(ConfigError, match="classes go from 0 to 9, not to 10"):
        saliency.gradient(net, pixels, [0, 1, 2, 3, 10])
    with pytest.raises(ConfigError, match="one number for each of the 5 images"):
        saliency.gradient(net, pixels, [1])
    with pytest.raises(ConfigError, match="no maps 'fc6'; it has conv1/linear"):
        saliency.grad_cam(net, pixels, layer="fc6")


def test_crops_are_the_middle_of_the_pixels(net, pixels):
    assert np.array_equal(pictures.crops(net, pixels), pixels[:, 1:15, 1:15])


def test_the_last_maps_are_those_before_the_pool(net):
    assert saliency.last_maps(net) == "conv2/act"


def test_the_figure_and_its_numbers(net, weights_file, tmp_path, capsys):
    command = ["--workdir", str(weights_file), "--out", str(tmp_path), "--count", "5"]
    saliency.main([*command, "--class", "rows-2"])
    path = tmp_path / "saliency.png"
    assert capsys.readouterr().out.strip() == str(path) and path.stat().st_size > 0
    numbers = json.loads((tmp_path / "saliency.json").read_text())
    assert numbers["layer"] == "conv2/act" and len(numbers["images"]) == 5
    assert {row["class"] for row in numbers["images"]} == {"rows-2"}
    assert np.shape(numbers["images"][0]["grad_cam"]) == net.shapes["conv2"][:2]


def test_other_methods_are_drawn_when_asked_for(net, weights_file, tmp_path):
    command = ["--workdir", str(weights_file), "--out", str(tmp_path), "--count", "2"]
    saliency.main([*command, "--methods", "occlusion", "integrated_gradients", "smoothgrad"])
    numbers = json.loads((tmp_path / "saliency.json").read_text())
    assert numbers["methods"] == ["occlusion", "integrated_gradients", "smoothgrad"]
    row = numbers["images"][0]
    assert np.shape(row["occlusion"]) == (12, 12) and "grad_cam" not in row
    assert row["largest_smoothgrad"] > 0 and row["sum_of_integrated_gradients"] != 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "guided"], "invalid choice: 'guided'"),
        (["--class", "rows-9"], "no class 'rows-9'; it has rows-"),
        (["--count", "0"], "--count must be from 1 to 128, the images of test"),
        (["--images", "none.jpg"], "there is no file none.jpg"),
        (["--split", "west"], "synthetic has no split 'west'; it has train, test"),
    ],
)
def test_bad_input_is_said(weights_file, tmp_path, arguments, said):
    with pytest.raises(AlexNetError, match=said):
        saliency.main(["--workdir", str(weights_file), "--out", str(tmp_path), *arguments])


def test_a_weights_file_needs_a_folder_for_its_figures(weights_file):
    with pytest.raises(ConfigError, match="--out DIR says which folder"):
        saliency.main(["--workdir", str(weights_file)])
