"""First-layer kernels: color scores, and pixels of the figure."""

import json

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.analysis import filters
from alexnet_jax.errors import ConfigError


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_gray_kernels_score_zero_and_opponent_colors_one():
    gray = np.repeat(np.random.default_rng(0).normal(size=(3, 3, 1)), 3, axis=2)
    red_against_green = np.zeros((3, 3, 3))
    red_against_green[..., 0], red_against_green[..., 1] = 1, -1
    dead = np.zeros((3, 3, 3))
    scores = filters.color_scores(np.stack([gray, red_against_green, dead], axis=3))
    np.testing.assert_allclose(scores, [0, 1, 0], atol=1e-12)


def test_untrained_kernels_score_two_thirds():
    kernel = np.random.default_rng(0).normal(size=(11, 11, 3, 256))
    assert abs(filters.color_scores(kernel).mean() - 2 / 3) < 0.01


def test_the_towers_stand_one_over_the_other_with_one_contrast(tmp_path):
    kernel = np.zeros((11, 11, 3, 96), np.float32)
    kernel[..., 0] = 1.0  # tower 1, first kernel: white
    kernel[..., 48] = -0.5  # tower 2, first kernel: halfway to black
    path = filters.plot(kernel, 2, tmp_path / "figures" / "filters.png")
    pixels = read(path)
    step = 55 + filters.GAP
    block = filters.CAPTION + 3 * step
    assert pixels.shape == (2 * block + filters.GAP, 16 * step + filters.GAP, 3)
    first = pixels[filters.CAPTION :, filters.GAP :][:55, :55]
    second = pixels[block + filters.CAPTION :, filters.GAP :][:55, :55]
    assert (first == 255).all()
    assert (second == 64).all()
    assert (pixels[filters.CAPTION + 30, filters.GAP + step + 30] == 128).all()  # zero is mid-gray


def test_each_weight_becomes_one_square_of_equal_pixels(tmp_path):
    kernel = np.random.default_rng(0).normal(size=(5, 5, 3, 4)).astype(np.float32)
    pixels = read(filters.plot(kernel, 1, tmp_path / "filters.png"))
    tile = pixels[filters.CAPTION :, filters.GAP :][:55, :55].reshape(5, 11, 5, 11, 3)
    assert (tile == tile[:, :1, :, :1]).all()
    expected = np.round(255 * (0.5 + 0.5 * kernel[..., 0] / np.abs(kernel).max()))
    np.testing.assert_array_equal(tile[:, 0, :, 0], expected)


def test_the_scores_are_written_by_tower(tmp_path):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
    kernel[:, :, :, :2] = kernel[:, :, :1, :2]  # tower 1 is gray
    filters.plot(kernel, 2, tmp_path / "filters.png")
    report = json.loads((tmp_path / "filters.json").read_text())
    assert report["tower_mean_color_score"][0] == 0
    assert report["tower_mean_color_score"][1] > 0.3
    assert [len(tower) for tower in report["color_score"]] == [2, 2]


@pytest.mark.parametrize(
    ("shape", "towers"), [((3, 3, 1, 4), 1), ((3, 3, 3, 5), 2), ((2, 2, 3, 3, 3, 4), 1)]
)
def test_other_kernels_are_refused_in_one_line(tmp_path, shape, towers):
    with pytest.raises(ConfigError, match="cannot be drawn"):
        filters.plot(np.ones(shape), towers, tmp_path / "filters.png")


def test_kernels_of_zeros_are_mid_gray(tmp_path):
    path = filters.plot(np.zeros((3, 3, 3, 2)), 1, tmp_path / "filters.png")
    pixels = read(path)
    assert (pixels[filters.CAPTION, filters.GAP] == 128).all()


def test_the_command_takes_a_weights_file(weights_file, tmp_path, capsys):
    filters.main(["--workdir", str(weights_file), "--out", str(tmp_path)])
    assert capsys.readouterr().out.strip() == str(tmp_path / "filters.png")
    assert len(json.loads((tmp_path / "filters.json").read_text())["color_score"]) == 2
