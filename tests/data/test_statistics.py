import numpy as np
import pytest

from alexnet_jax.data.pipeline import digests, statistics
from alexnet_jax.data.pipeline.splits import Dataset, Split


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(3, 3))
    pixels = 128 + 30 * generator.normal(size=(50, 6, 6, 3)) @ mixing
    return np.clip(pixels, 0, 255).astype(np.uint8)


def split_of(images):
    return Split(images, np.zeros(len(images), np.int32))


@pytest.mark.parametrize("chunk", [1, 3000, 2**22])
def test_statistics_are_those_of_all_pixels(images, chunk, monkeypatch):
    monkeypatch.setattr(statistics, "_CHUNK_BYTES", chunk)
    got = statistics.compute(split_of(images))
    pixels = images.astype(np.float64)
    assert np.allclose(got.mean_image, pixels.mean(0), atol=1e-4)
    assert np.allclose(got.channel_mean, pixels.mean((0, 1, 2)), atol=1e-4)
    covariance = np.cov(pixels.reshape(-1, 3).T, bias=True)
    rebuilt = got.eigenvectors * got.stds**2 @ got.eigenvectors.T
    assert np.allclose(rebuilt, covariance, rtol=1e-4, atol=1e-2)
    assert np.allclose(got.eigenvectors.T @ got.eigenvectors, np.eye(3), atol=1e-5)
    assert (np.diff(got.stds) > 0).all()
    assert all(part.dtype == np.float32 for part in got)


def test_directions_have_a_fixed_sign(images):
    vectors = statistics.compute(split_of(images)).eigenvectors
    largest = vectors[np.abs(vectors).argmax(0), range(3)]
    assert (largest > 0).all()


def test_gray_images_have_one_direction(images):
    got = statistics.compute(split_of(np.repeat(images[..., :1], 3, -1)))
    assert np.allclose(got.eigenvectors[:, 2], 3**-0.5, atol=1e-4)
    assert got.stds[2] == pytest.approx(images[..., 0].std() * 3**0.5, rel=1e-4)
    assert got.stds[:2].max() < 0.01


def test_large_sets_are_sampled_evenly(images, monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLE_ABOVE", 49)
    monkeypatch.setattr(statistics, "SAMPLE", 8)
    got = statistics.compute(split_of(images))
    assert np.allclose(got.mean_image, images[::7].mean(0), atol=1e-4)


def test_statistics_are_computed_once(images, tmp_path, monkeypatch):
    values = digests.of_rows(images)
    train = split_of(images)._replace(digests=values)
    dataset = Dataset({"train": train}, ("a", "b"))
    first = statistics.load(dataset, tmp_path)
    (path,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(statistics, "compute", None)
        for part, again in zip(first, statistics.load(dataset, tmp_path), strict=True):
            assert np.array_equal(part, again)
    path.write_bytes(path.read_bytes()[:100])
    assert np.array_equal(statistics.load(dataset, tmp_path).stds, first.stds)
    others = (
        dataset._replace(decoding="another size"),
        dataset._replace(times="of a large set"),
        dataset._replace(splits={"train": train._replace(digests=values[::-1].copy())}),
    )
    for other in others:
        statistics.load(other, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    statistics.load(dataset._replace(class_names=("c", "d")), tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("low, count", [(0, 1000), (255, 512), (254, 777)])
def test_products_of_channels_are_exact(low, count):
    pixels = np.random.default_rng(0).integers(low, 256, (count, 3), dtype=np.uint8)
    whole = pixels.astype(np.int64)
    assert np.array_equal(statistics._products(pixels), whole.T @ whole)
