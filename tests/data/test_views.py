import functools

import jax
import numpy as np
import pytest

from alexnet_jax import config
from alexnet_jax.data.pipeline import views
from alexnet_jax.data.pipeline.statistics import Statistics

SIZE, CROP = 12, 8


@pytest.fixture
def spec(augment_spec):
    return functools.partial(augment_spec, crop_size=CROP, color_std=0.1, color_rescale=True)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def statistics():
    mean = np.random.default_rng(1).uniform(0, 255, (SIZE, SIZE, 3)).astype(np.float32)
    return Statistics(mean, mean.mean((0, 1)), np.eye(3, dtype=np.float32), np.ones(3, np.float32))


def made(images, statistics, spec, name):
    return np.asarray(jax.jit(lambda x: views.views(x, statistics, spec, name))(images))


@pytest.mark.parametrize(
    ("name", "count"), [("center", 1), ("ten", 10), ("nine", 9), ("dense", 50)]
)
def test_views_are_distinct_and_equal_for_a_constant_image(images, statistics, name, count, spec):
    output = made(images, statistics, spec(), name)
    assert output.shape == (3, count, CROP, CROP, 3) and output.dtype == np.float32
    assert len({view.tobytes() for view in output[0]}) == count
    constant = made(np.full_like(images, 77), statistics, spec(), name)
    assert (constant == 77).all()  # nor divided by 1 + color_std


def test_ten_views_are_corners_and_center_then_their_mirror_images(images, statistics, spec):
    output = made(images, statistics, spec(), "ten")
    places = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    for view, (top, left) in enumerate(places):
        part = images[:, top : top + CROP, left : left + CROP]
        assert np.array_equal(output[:, view], part)
        assert np.array_equal(output[:, view + 5], part[:, :, ::-1])
    assert np.array_equal(made(images, statistics, spec(), "center")[:, 0], output[:, 4])


def test_nine_views_are_a_grid_without_mirror_images(images, statistics, spec):
    output = made(images, statistics, spec(), "nine")
    for view in range(9):
        top, left = view // 3 * 2, view % 3 * 2
        assert np.array_equal(output[:, view], images[:, top : top + CROP, left : left + CROP])


def test_dense_views_are_a_grid_from_corner_to_corner_and_its_mirror_images(
    images, statistics, spec
):
    output = made(images, statistics, spec(), "dense")
    for view in range(25):
        top, left = divmod(view, 5)
        part = images[:, top : top + CROP, left : left + CROP]
        assert np.array_equal(output[:, view], part)
        assert np.array_equal(output[:, view + 25], part[:, :, ::-1])


@pytest.mark.parametrize(("size", "crop"), [(256, 224), (32, 24), (11, 8), (10, 8), (9, 8), (8, 8)])
def test_dense_views_cover_the_image_without_doubles(size, crop):
    places = views.dense(size, crop)
    assert len(set(places)) == len(places) == 2 * min(5, size - crop + 1) ** 2
    seen = np.zeros((size, size), bool)
    for top, left, _ in places:
        assert 0 <= top <= size - crop and 0 <= left <= size - crop
        seen[top : top + crop, left : left + crop] = True
    assert seen.all()


@pytest.mark.parametrize(("view", "most"), [("center", 32), ("ten", 3), ("dense", 1)])
def test_a_batch_has_no_more_crops_than_the_config_says(view, most):
    tiny = config.parse(config.load("tests/tiny.py", []))  # batches of 32, crops of 14 in 16
    assert views.images_at_once(view, tiny) == most
    assert views.number(view, tiny) == {"center": 1, "ten": 10, "dense": 18}[view]


def test_the_mean_image_is_cropped_and_mirrored_with_the_view(images, statistics, spec):
    output = made(images, statistics, spec(mean="pixel", scale=2.0), "ten")
    centered = images - statistics.mean_image
    assert np.allclose(output[:, 1], 2 * centered[:, :CROP, 4:], atol=1e-3)
    assert np.allclose(output[:, 6], 2 * centered[:, :CROP, 4:][:, :, ::-1], atol=1e-3)


def test_the_center_of_the_mean_image_stays_for_every_view(images, statistics, spec):
    output = made(images, statistics, spec(mean="image_center"), "ten")
    plain = made(images, statistics, spec(), "ten")
    assert np.allclose(output, plain - statistics.mean_image[2:10, 2:10], atol=1e-3)


def test_views_of_resized_images(images, statistics, spec):
    output = made(images, statistics, spec(resize=20, crop_size=16, mean="channel"), "nine")
    assert output.shape == (3, 9, 16, 16, 3)
    flat = made(np.full_like(images, 50), statistics, spec(resize=20, crop_size=16), "nine")
    assert np.allclose(flat, 50, atol=1e-4)
