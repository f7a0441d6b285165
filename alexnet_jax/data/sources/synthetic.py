"""Source 'synthetic': generated images of noisy stripes, which need no files."""

import numpy as np

from alexnet_jax.data.pipeline import digests
from alexnet_jax.data.pipeline.splits import Dataset, Split
from alexnet_jax.specs import DataSpec

_SEED = 0x73796E


def load(spec: DataSpec) -> Dataset:
    """Generate stripes of 5 colors in 2 directions with noise: 512 images for 'train', 128 for 'test'.

    A net learns the ten classes in seconds. Mirroring or shifting an image does not change its class.
    """
    generator, size = np.random.default_rng(_SEED), spec.image_size
    hues = np.arange(5) / 5 * 2 * np.pi
    colors = 0.5 + 0.5 * np.cos(hues[:, None] - np.arange(3) * 2 * np.pi / 3)
    splits = {}
    for name, count in (("train", 512), ("test", 128)):
        labels = np.arange(count, dtype=np.int32) % 10
        images = np.empty((count, size, size, 3), np.uint8)
        for image, label, phase in zip(
            images, labels, generator.uniform(0, 2 * np.pi, count), strict=True
        ):
            stripes = 0.5 + 0.5 * np.sin(phase + np.arange(size) * (2 * np.pi * 4 / size))
            stripes = stripes[:, None, None] if label < 5 else stripes[None, :, None]
            noise = generator.normal(0, 30, (size, size, 3))
            image[:] = np.clip(40 + 150 * stripes * colors[label % 5] + noise, 0, 255)
        splits[name] = Split(images, labels, digests.of_rows(images))
    names = tuple(f"{direction}-{hue}" for direction in ("rows", "columns") for hue in range(5))
    return Dataset(splits, names)
