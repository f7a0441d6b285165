"""Boxes against a loop over draws, pixels against PIL."""

import math

import jax
import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.pipeline import resized_crops
from alexnet_jax.kernels.forms import CPU

COUNT = 20_000


def draw(min_area, size=1):
    """(corners, sides) of COUNT boxes, and the draws that made them."""
    draws = np.random.default_rng(0).uniform(-1, 1, (COUNT, 2 + resized_crops.DRAWS))
    draws = draws.astype(np.float32)
    boxes = jax.jit(resized_crops.boxes)(draws[:, :2], draws[:, 2:], size, min_area)
    return (*map(np.asarray, boxes), draws)


def first_that_fits(draws, min_area):
    """Height and width of one box, as shares of the image's side."""
    for area, ratio in zip(draws[:10], draws[10:], strict=True):
        area = min_area + (1 - min_area) * (area + 1) / 2
        ratio = math.exp(ratio * math.log(4 / 3))
        height, width = math.sqrt(area / ratio), math.sqrt(area * ratio)
        if height <= 1 and width <= 1:
            return height, width
    return 1.0, 1.0


@pytest.mark.parametrize("min_area", [0.08, 0.25, 0.9, 1.0])
def test_a_box_is_the_first_that_fits_or_the_whole_image(min_area):
    corners, sides, draws = draw(min_area, size=256)
    expected = [first_that_fits(row[2:].astype(float), min_area) for row in draws[:2000]]
    assert np.allclose(sides[:2000], np.array(expected) * 256, atol=1e-3)
    places = (draws[:, :2] + 1) / 2 * (256 - sides)
    assert np.allclose(corners, places, atol=1e-3)
    if min_area == 1:
        assert (sides == 256).all() and (corners == 0).all()


def test_areas_and_ratios_are_torchvisions():
    corners, sides, _ = draw(0.08)
    assert corners.min() >= 0 and (corners + sides).max() <= 1 + 1e-6
    areas, ratios = sides.prod(1), sides[:, 1] / sides[:, 0]
    assert 0.08 <= areas.min() < 0.081 and 0.98 < areas.max() <= 1
    assert 0.75 - 1e-6 <= ratios.min() < 0.751 and 1.332 < ratios.max() <= 4 / 3 + 1e-6
    # Up to an area of 3/4 every ratio fits. Above it the share of those that fit is the mean of
    # -ln(area) / ln(4/3), from the integral of -ln: area - area ln(area).
    above = (1 - (0.75 - 0.75 * math.log(0.75))) / math.log(4 / 3)
    share = above / (above + 0.75 - 0.08)
    assert (areas > 0.75).mean() == pytest.approx(share, abs=0.01)
    small = areas[areas < 0.75]
    assert np.allclose(np.histogram(small, 5, (0.08, 0.75))[0] / len(small), 0.2, atol=0.015)
    logs = np.log(ratios[areas < 0.75]) / math.log(4 / 3)
    assert np.allclose(np.histogram(logs, 5, (-1, 1))[0] / len(logs), 0.2, atol=0.015)


@pytest.mark.parametrize(("size", "crop"), [(20, 16), (33, 9)])
def test_pixels_are_those_of_pil(size, crop):
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (24, size, size, 3), np.uint8)
    sides = (size * generator.uniform(0.2, 1, (24, 2))).astype(np.float32)
    sides[0] = size
    corners = (generator.uniform(0, 1, (24, 2)) * (size - sides)).astype(np.float32)
    mirrored = np.arange(24) % 3 == 0
    resample = jax.jit(resized_crops.resample, static_argnames=("crop", "forms"))
    got = np.asarray(resample(images, corners, sides, mirrored, crop=crop, forms=CPU))
    assert got.shape == (24, crop, crop, 3) and got.dtype == np.float32
    for image, (top, left), (height, width), flip, crop_of_it in zip(
        images, corners, sides, mirrored, got, strict=True
    ):
        box = (left, top, min(left + width, size), min(top + height, size))
        channels = [
            Image.fromarray(image[..., c].astype(np.float32)).resize(
                (crop, crop), Image.Resampling.BILINEAR, box=tuple(map(float, box))
            )
            for c in range(3)
        ]
        expected = np.stack([np.asarray(channel) for channel in channels], -1)
        assert np.allclose(crop_of_it, expected[:, ::-1] if flip else expected, atol=0.01)
