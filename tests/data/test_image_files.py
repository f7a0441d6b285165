import itertools
import logging

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.pipeline import batches, image_files
from alexnet_jax.data.pipeline.image_files import ImageFiles
from alexnet_jax.data.pipeline.splits import Split
from alexnet_jax.errors import DataError

COUNT, SIZE = 40, 16


@pytest.fixture
def paths(tmp_path):
    generator = np.random.default_rng(0)
    made = []
    for i in range(COUNT):
        pixels = generator.integers(0, 256, (20 + i % 3, 24, 3), dtype=np.uint8)
        made.append(tmp_path / f"{i:03}.{'png' if i % 4 else 'jpg'}")
        Image.fromarray(pixels).save(made[-1])
    return made


def open_files(paths, *, threads=2, identity=None, reads=None):
    def read(i):
        if reads is not None:
            reads.append(i)
        return None, paths[i]

    return ImageFiles(read, len(paths), SIZE, threads=threads, identity=identity)


@pytest.mark.fault("D1")
def test_pixels_do_not_depend_on_the_number_of_threads(paths):
    order = np.random.default_rng(1).permutation(COUNT)
    one, three = open_files(paths, threads=1), open_files(paths, threads=3)
    assert one[order].shape == (COUNT, SIZE, SIZE, 3)
    assert np.array_equal(one[order], three[order])
    assert np.array_equal(one[order][0], one[order[:1]][0])
    assert len(one) == COUNT and one[np.array([], int)].shape == (0, SIZE, SIZE, 3)


def test_images_are_decoded_once_and_kept(paths, cache_folder):
    plain = open_files(paths)[np.arange(COUNT)]
    reads = []
    first = open_files(paths, identity="set", reads=reads)
    assert not reads and not list(cache_folder.iterdir())
    assert np.array_equal(first[np.array([3, 1])], plain[[3, 1]])
    assert sorted(reads) == list(range(COUNT))
    again = open_files(paths, identity="set", reads=reads)
    assert np.array_equal(again[np.arange(COUNT)], plain)
    assert len(reads) == COUNT
    (kept,) = cache_folder.iterdir()
    assert kept.suffix == ".npy"


def test_another_identity_or_a_damaged_file_is_decoded_again(paths, cache_folder):
    plain = open_files(paths)[np.arange(COUNT)]
    open_files(paths, identity="one")[np.array([0])]
    open_files(paths, identity="two")[np.array([0])]
    first, second = cache_folder.iterdir()
    for path, damaged in ((first, b"junk"), (second, second.read_bytes()[:2000])):
        path.write_bytes(damaged)
    for identity in ("one", "two"):
        assert np.array_equal(open_files(paths, identity=identity)[np.arange(COUNT)], plain)


def test_sets_over_the_limit_are_decoded_for_every_batch(paths, cache_folder, monkeypatch):
    monkeypatch.setattr(image_files, "CACHE_LIMIT_BYTES", COUNT * SIZE * SIZE * 3 - 1)
    reads = []
    images = open_files(paths, identity="set", reads=reads)
    images[np.array([5])]
    images[np.array([5, 6])]
    assert sorted(reads) == [5, 5, 6] and not list(cache_folder.iterdir())


@pytest.mark.fault("F22")
def test_a_bad_image_is_named_and_leaves_nothing_behind(paths, cache_folder):
    for i in (30, 12):
        paths[i].write_bytes(b"junk")
    for threads in (1, 3):
        with pytest.raises(DataError, match=r"012\.jpg is not an image"):
            open_files(paths, threads=threads, identity="set")[np.array([0])]
    assert not list(cache_folder.iterdir())


@pytest.mark.fault("F22")
@pytest.mark.parametrize("depth", [0, 2])
def test_an_image_damaged_during_training_ends_it_at_its_step_by_name(paths, depth):
    split = Split(open_files(paths), np.zeros(COUNT, np.int32))

    def make(step):
        indices, _ = batches.positions(
            step, batch_size=8, num_examples=len(split.labels), seed=0, shuffle="epoch"
        )
        return split.images[indices], indices

    broken = int(make(3)[1][5])
    whole = paths[broken].read_bytes()
    paths[broken].write_bytes(whole[: len(whole) // 2])
    with batches.Prefetch(make, itertools.count(), depth) as made:
        assert [next(made)[0] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(DataError, match=f"{paths[broken]}") as caught:
            next(made)
    assert caught.value.exit_code == 3
    paths[broken].write_bytes(whole)
    assert int(make(3)[1][5]) == broken  # the order of the others never changed


@pytest.mark.parametrize("fault", ["full", "a file"])
def test_without_room_images_are_still_served(paths, tmp_path, monkeypatch, caplog, fault):
    if fault == "full":
        usage = type("Usage", (), {"free": 0})
        monkeypatch.setattr(image_files.shutil, "disk_usage", lambda path: usage)
    else:
        (tmp_path / "a file").write_text("")
        monkeypatch.setenv("ALEXNET_JAX_CACHE", str(tmp_path / "a file" / "cache"))
    images = open_files(paths, identity="set")
    with caplog.at_level(logging.WARNING):
        assert images[np.array([1, 2])].shape == (2, SIZE, SIZE, 3)
        assert images[np.array([1])].shape == (1, SIZE, SIZE, 3)
    assert len(caplog.records) == 1 and "again for each batch" in caplog.text


def test_long_work_reports_its_progress(paths, monkeypatch, caplog):
    monkeypatch.setattr(image_files, "_REPORT_SECONDS", -1.0)
    with caplog.at_level(logging.INFO):
        open_files(paths, identity="set")[np.array([0])]
    assert f"{COUNT} of {COUNT}" in caplog.text


def test_arrays_of_another_size_are_fitted():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    color = np.repeat(pixels[..., None], 3, -1)
    assert image_files.fitted(color, 8, 1) is color
    assert np.array_equal(image_files.fitted(pixels, 8, 1)[np.arange(5)], color)
    enlarged = image_files.fitted(pixels, 16, 2)
    assert isinstance(enlarged, np.ndarray) and enlarged.shape == (5, 16, 16, 3)
    assert image_files.fitted(pixels, 16, 2, limit=enlarged.nbytes).shape == enlarged.shape
    lazy = image_files.fitted(pixels, 16, 2, limit=enlarged.nbytes - 1)
    assert isinstance(lazy, ImageFiles)
    assert np.array_equal(lazy[np.array([4, 2])], enlarged[[4, 2]])
