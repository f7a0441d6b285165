import jax
import numpy as np
import pytest

from alexnet_jax import parallel
from alexnet_jax.data import placement
from alexnet_jax.data.splits import Split
from alexnet_jax.errors import ConfigError

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
            placement.placed(SPLIT, mesh, kind)(indices, epochs) for kind in ("host", "device")
        )
        for one, other, true in zip(
            host,
            device,
            (SPLIT.images[indices], SPLIT.labels[indices], indices, epochs),
            strict=True,
        ):
            assert np.array_equal(one, true) and np.array_equal(other, true)
            assert one.sharding.is_equivalent_to(other.sharding, one.ndim)


def test_auto_is_device_where_the_images_are_a_small_part_of_its_memory():
    each = SPLIT.images.nbytes / 2
    for limit, expected in ((None, False), (each * 3.9, False), (each * 4, True)):
        assert placement.on_device(SPLIT, Fake(limit), "auto") == expected
    assert not placement.on_device(SPLIT, Fake(each * 100), "host")


def test_images_that_do_not_fit_are_refused():
    assert placement.on_device(SPLIT, Fake(SPLIT.images.nbytes), "device")
    with pytest.raises(ConfigError, match=r"placement='device'.* use 'host'"):
        placement.on_device(SPLIT, Fake(SPLIT.images.nbytes * 0.6), "device")
