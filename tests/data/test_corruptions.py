"""Properties of the 15 corruptions, on pictures of the size of CIFAR-10 and of ImageNet."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.pipeline import corruptions
from alexnet_jax.data.pipeline.corruptions import CORRUPTIONS, SEVERITIES, blur, corrupt, severities
from alexnet_jax.data.pipeline.corruptions.draws import Draws
from alexnet_jax.data.pipeline.corruptions.resampling import convolve, sample, zoom
from alexnet_jax.data.pipeline.corruptions.weather import plasma

BLURS = [*corruptions.CATEGORIES["blur"], "elastic_transform", "pixelate"]


def pictures(count: int, size: int) -> np.ndarray:
    """Random pictures whose amplitudes fall with the frequency, as those of photographs do."""
    draw = np.random.default_rng(0)
    frequencies = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)) * size
    noise = (
        np.fft.fft2(draw.normal(size=(count, 3, size, size))) / np.maximum(frequencies, 1) ** 1.2
    )
    made = np.fft.ifft2(noise).real + 0.5 * np.fft.ifft2(noise[:, :1]).real
    made *= 45 / made.std(axis=(2, 3), keepdims=True)
    return np.clip(100 + made, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.fixture(scope="module", params=[(32, 32), (4, 224)], ids=["32", "224"])
def images(request):
    return pictures(*request.param)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    errors = np.mean((a.astype(float) - b) ** 2, axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(errors, 1e-9))))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_is_further_from_the_image(name, images):
    made = [corrupt(images, name, severity) for severity in SEVERITIES]
    assert all(one.shape == images.shape and one.dtype == np.uint8 for one in made)
    found = [psnr(images, one) for one in made]
    # Random angles and clouds of a few images hide small steps, of which fog has the smallest.
    slack = 0.6 if name == "fog" else 0.2
    assert (np.diff(found) < slack).all() and found[-1] < found[0] - 0.5
    assert 4 < found[-1] < 40


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_alike_in_any_batch(name):
    images = pictures(5, 32)
    together = corrupt(images, name, 3, seed=7)
    alone = np.concatenate([corrupt(images[i : i + 1], name, 3, seed=7) for i in (4, 2)])
    # Sums over a batch may be rounded in another way.
    assert np.abs(together[[4, 2]].astype(int) - alone).max() <= 1
    assert np.array_equal(together, corrupt(images, name, 3, seed=7))


def test_draws_depend_on_image_corruption_severity_and_seed():
    images = pictures(2, 32)
    first = corrupt(images, "gaussian_noise", 2, seed=0)
    noise = first.astype(int) - images
    assert not np.array_equal(noise[0], noise[1])
    assert not np.array_equal(first, corrupt(images, "gaussian_noise", 2, seed=1))
    keys = ["gaussian_noise 2 0", "gaussian_noise 3 0", "shot_noise 2 0"]
    drawn = [Draws(images[:1], key).normal(8) for key in keys]
    assert not np.allclose(drawn[0], drawn[1]) and not np.allclose(drawn[0], drawn[2])


def test_images_are_corrupted_when_they_are_indexed():
    images = pictures(70, 32)
    with ThreadPoolExecutor(2) as pool:
        found = corruptions.Corrupted(images, "fog", 4, 1, pool)
        chosen = np.array([3, 69, 0])
        assert len(found) == 70
        assert np.array_equal(found[chosen], corrupt(images[chosen], "fog", 4, 1))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_variance_that_it_should(severity):
    gray = np.empty((9, 32, 32, 3), np.uint8)  # not alike, or their noise were alike
    gray[:] = np.arange(124, 133)[:, None, None, None]
    ((deviation,), _), ((photons,), _), ((share,), _) = (
        severities.of(name, severity, 32)
        for name in ("gaussian_noise", "shot_noise", "impulse_noise")
    )
    found = (corrupt(gray, "gaussian_noise", severity) - gray.astype(float)) / 255
    assert found.std() == pytest.approx(deviation, rel=0.03)
    found = (corrupt(gray, "shot_noise", severity) - gray.astype(float)) / 255
    assert found.mean() == pytest.approx(0, abs=0.005)
    assert found.var() == pytest.approx(128 / 255 / photons, rel=0.05)
    found = corrupt(gray, "impulse_noise", severity)
    assert (found != gray).mean() == pytest.approx(share, rel=0.15)
    assert set(np.unique(found[found != gray])) == {0, 255}
    assert (found == 0).sum() == pytest.approx((found == 255).sum(), rel=0.4)


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("name", BLURS)
def test_what_moves_or_averages_pixels_keeps_a_constant_image(name, size):
    constant = np.full((2, size, size, 3), (200, 17, 90), np.uint8)
    for severity in (1, 5):
        assert np.array_equal(corrupt(constant, name, severity), constant)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_pillows_at_its_quality(severity, images):
    (quality,), _ = severities.of("jpeg_compression", severity, images.shape[1])
    file = io.BytesIO()
    Image.fromarray(images[1]).save(file, "JPEG", quality=quality)
    expected = np.asarray(Image.open(file))
    assert np.array_equal(corrupt(images, "jpeg_compression", severity)[1], expected)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelation_is_pillows_reduction(severity, images):
    (share,), _ = severities.of("pixelate", severity, images.shape[1])
    size = images.shape[1]
    small = Image.fromarray(images[1]).resize((int(size * share),) * 2, Image.Resampling.BOX)
    expected = np.asarray(small.resize((size, size), Image.Resampling.BOX))
    assert np.array_equal(corrupt(images, "pixelate", severity)[1], expected)
    assert len(np.unique(expected[0], axis=0)) <= int(size * share)


def test_brightness_keeps_hue_and_saturation():
    images = pictures(4, 32)
    (added,), _ = severities.of("brightness", 3, 32)
    made = corrupt(images, "brightness", 3).astype(float)
    expected = np.minimum(images.max(axis=3) + 255 * added, 255)
    assert np.abs(made.max(axis=3) - expected).max() <= 0.5
    shares = [x / x.max(axis=3, keepdims=True) for x in (images.astype(float) + 1e-9, made)]
    assert np.abs(shares[0] - shares[1]).max() < 0.02
    assert (
        corrupt(np.zeros((1, 32, 32, 3), np.uint8), "brightness", 3) == round(255 * added)
    ).all()


def test_contrast_keeps_the_mean_and_shrinks_the_deviation():
    images = pictures(4, 32)
    (factor,), _ = severities.of("contrast", 4, 32)
    made = corrupt(images, "contrast", 4)
    assert np.allclose(made.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=0.1)
    assert np.allclose(made.std(axis=(1, 2)), factor * images.std(axis=(1, 2)), atol=0.3)


def test_glass_exchanges_pixels_and_does_not_make_new_ones():
    x = pictures(2, 32).astype(np.float32)
    made = blur.glass_blur(x, Draws(x.astype(np.uint8), ""), 1, 1e-6, 1.5, 2)
    assert not np.array_equal(made, x)
    for before, after in zip(x, made, strict=True):
        assert np.array_equal(np.sort(before.reshape(-1, 3), 0), np.sort(after.reshape(-1, 3), 0))


def test_kernels_of_blur_sum_to_one():
    for radius, sigma in ((0.3, 0.4), (1.5, 0.3), (10, 0.5)):
        kernel = blur.disc(radius, sigma)
        assert kernel.sum() == pytest.approx(1, abs=1e-6)
        assert np.allclose(kernel, kernel.T) and np.allclose(kernel, kernel[::-1])
    assert (blur.disc(10, 1e-6) > 0).sum() == pytest.approx(np.pi * 10**2, rel=0.15)
    angles = np.array([0, np.pi / 4, -np.pi / 2], np.float32)
    trails = blur.trails(angles, 8, 3)
    assert np.allclose(trails.sum(axis=(1, 2)), 1, atol=1e-6)
    middle = trails.shape[1] // 2
    assert trails[0][middle].sum() == pytest.approx(1, abs=1e-5)
    assert trails[2][:, middle].sum() == pytest.approx(1, abs=1e-5)


def test_convolution_is_the_literal_sum():
    draw = np.random.default_rng(0)
    x, kernels = draw.random((2, 7, 7, 3), np.float32), draw.random((2, 5, 5), np.float32)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="symmetric")
    expected = np.zeros_like(x)
    for row in range(5):
        for column in range(5):
            weight = kernels[:, 4 - row, 4 - column][:, None, None, None]
            expected += weight * padded[:, row : row + 7, column : column + 7]
    np.testing.assert_allclose(convolve(x, kernels), expected, rtol=1e-4)
    one = convolve(x, kernels[0])
    np.testing.assert_allclose(one[0], expected[0], rtol=1e-4)


def test_resampling_of_a_slope_is_exact():
    rows, columns = np.mgrid[:9, :9].astype(np.float32)
    x = (2 * rows - columns)[None, ..., None]
    places = np.stack([rows + 0.25, columns - 0.5], -1)[None].clip(0, 8)
    expected = 2 * places[..., :1] - places[..., 1:]
    np.testing.assert_allclose(sample(x, places), expected, atol=1e-5)
    mirrored = sample(x, np.stack([-rows, 16 - columns], -1)[None])
    np.testing.assert_allclose(mirrored[0, :, :, 0], 2 * rows - columns, atol=1e-5)
    np.testing.assert_allclose(zoom(x, 2)[0, 4, :, 0], 8 - (4 + (columns[0] - 4) / 2), atol=1e-5)


def test_fractals_fill_the_range_and_are_rougher_with_less_decay():
    draws = Draws(pictures(6, 32), "")
    smooth, rough = plasma(draws, 64, 3), plasma(draws, 64, 1.2)
    for field in (smooth, rough):
        assert field.shape == (6, 64, 64)
        assert np.allclose(field.min(axis=(1, 2)), 0) and np.allclose(field.max(axis=(1, 2)), 1)
    steps = [np.abs(np.diff(field, axis=1)).mean() for field in (smooth, rough)]
    assert steps[1] > 3 * steps[0]
    assert plasma(draws, 20, 2).shape == (6, 20, 20)


def test_parameters_are_of_the_nearer_size_and_lengths_scale():
    assert severities.of("gaussian_noise", 1, 32) == ((0.04,), 1)
    assert severities.of("gaussian_noise", 5, 64) == ((0.10,), 2)
    assert severities.of("gaussian_noise", 1, 112) == ((0.08,), 0.5)
    assert severities.of("gaussian_noise", 5, 448) == ((0.38,), 2)
    for table in (severities.SMALL, severities.LARGE):
        assert list(table.severities) == list(CORRUPTIONS)
        assert all(len(found) == len(SEVERITIES) for found in table.severities.values())
    large, small = pictures(1, 128), pictures(1, 32)
    for name in CORRUPTIONS:
        assert corrupt(large, name, 5).shape == large.shape
        assert corrupt(small[:, :20, :20], name, 1).shape == (1, 20, 20, 3)
