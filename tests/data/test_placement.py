import functools
import threading

import jax
import numpy as np
import pytest

from alexnet_jax import main
from alexnet_jax.data.pipeline import batches, placement
from alexnet_jax.data.pipeline.splits import Split
from alexnet_jax.errors import ConfigError
from alexnet_jax.model import mesh as parallel

DRAW = np.random.default_rng(0)


class Images:
    """What a source promises of its images, and no more."""

    def __init__(self, pixels):
        self.pixels, self.nbytes = pixels, pixels.nbytes

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, indices):
        assert isinstance(indices, np.ndarray) and indices.dtype.kind == "i"
        return self.pixels[indices]


# 101 images do not divide over 2 or 4 devices.
PIXELS = DRAW.integers(0, 256, (101, 6, 6, 3), np.uint8)
SPLIT = Split(Images(PIXELS), np.arange(101, dtype=np.int32) % 10)


class Fake:
    """Devices that say how much memory they have."""

    def __init__(self, limit):
        self.shape, self.local_devices = {parallel.DATA: 2}, [self, self]
        self.memory_stats = lambda: None if limit is None else {"bytes_limit": limit}


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_batches_are_the_same_wherever_the_images_are(devices):
    mesh = parallel.device_mesh(jax.devices()[:devices])
    for _ in range(3):
        indices = DRAW.integers(0, 101, 8).astype(np.int32)
        epochs = np.arange(8, dtype=np.int32)
        host, device = (
            placed.finish(placed.read(indices, epochs))
            for placed in (placement.placed(SPLIT, mesh, kind) for kind in ("host", "device"))
        )
        for one, other, true in zip(
            host,
            device,
            (SPLIT.images[indices], SPLIT.labels[indices], indices, epochs),
            strict=True,
        ):
            assert np.array_equal(one, true) and np.array_equal(other, true)
            assert one.sharding.is_equivalent_to(other.sharding, one.ndim)


@pytest.fixture
def gathers(monkeypatch):
    """The threads in which devices were told to gather a batch, one of each time."""
    threads, gatherer = [], placement._gatherer

    def recorded(split, mesh):
        gather = gatherer(split, mesh)

        def record(indices):
            threads.append(threading.current_thread())
            return gather(indices)

        return record

    monkeypatch.setattr(placement, "_gatherer", recorded)
    return threads


@pytest.mark.parametrize("depth", [0, 3])
def test_devices_gather_in_the_thread_that_takes_the_batch(gathers, depth):
    mesh = parallel.device_mesh(jax.devices()[:4])
    placed = placement.placed(SPLIT, mesh, "device")
    positions = functools.partial(
        batches.positions, batch_size=8, num_examples=101, seed=1, shuffle="epoch"
    )
    with batches.Prefetch(lambda step: placed.read(*positions(step)), range(30), depth) as made:
        for step, read in made:
            batch = placed.finish(read)
            indices, epochs = positions(step)
            assert np.array_equal(batch.images, PIXELS[indices])
            assert np.array_equal(batch.labels, indices % 10)
            assert np.array_equal(batch.indices, indices) and np.array_equal(batch.epochs, epochs)
    assert gathers == [threading.main_thread()] * 30


@pytest.mark.fault("D2")
@pytest.mark.full
def test_a_run_on_four_devices_gathers_in_the_thread_of_its_steps(gathers, tmp_path):
    command = ["--config", "tests/tiny.py", "--config.train.max_steps=12"]
    for name in ("host", "device"):
        more = ["--workdir", str(tmp_path / name), f"--config.data.placement={name}"]
        assert main.main([*command, *more]) == 0
    assert gathers == [threading.main_thread()] * 12
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("host", "device")]
    one, other = ([line.split('"batch_hash"')[1] for line in text.splitlines()] for text in lines)
    assert one == other


def test_auto_is_device_where_the_images_are_a_small_part_of_its_memory():
    each = SPLIT.images.nbytes / 2
    for limit, expected in ((None, False), (each * 3.9, False), (each * 4, True)):
        assert placement.on_device(SPLIT, Fake(limit), "auto") == expected
    assert not placement.on_device(SPLIT, Fake(each * 100), "host")


def test_images_that_do_not_fit_are_refused():
    assert placement.on_device(SPLIT, Fake(SPLIT.images.nbytes), "device")
    with pytest.raises(ConfigError, match=r"placement='device'.* use 'host'"):
        placement.on_device(SPLIT, Fake(SPLIT.images.nbytes * 0.6), "device")
