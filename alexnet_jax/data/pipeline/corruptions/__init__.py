"""The 15 common corruptions of images, for each of which an image is made at 5 severities.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations" (2019). These
are written from the description there: errors on their images are not those on the files of ImageNet-C or CIFAR-10-C.
A corruption is a function f(images float32 [b s s 3] in [0, 1], draws, scale, *parameters).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import UInt8

from alexnet_jax.data.pipeline.corruptions import blur, digital, noise, severities, weather
from alexnet_jax.data.pipeline.corruptions.draws import Draws
from alexnet_jax.data.pipeline.splits import Images

#: Category -> corruption -> function.
CATEGORIES: dict[str, dict[str, Callable[..., np.ndarray]]] = {
    "noise": {
        "gaussian_noise": noise.gaussian_noise,
        "shot_noise": noise.shot_noise,
        "impulse_noise": noise.impulse_noise,
    },
    "blur": {
        "defocus_blur": blur.defocus_blur,
        "glass_blur": blur.glass_blur,
        "motion_blur": blur.motion_blur,
        "zoom_blur": blur.zoom_blur,
    },
    "weather": {
        "snow": weather.snow,
        "frost": weather.frost,
        "fog": weather.fog,
        "brightness": weather.brightness,
    },
    "digital": {
        "contrast": digital.contrast,
        "elastic_transform": digital.elastic_transform,
        "pixelate": digital.pixelate,
        "jpeg_compression": digital.jpeg_compression,
    },
}
CORRUPTIONS = {name: f for found in CATEGORIES.values() for name, f in found.items()}
#: Corruptions that the authors added for validation. They are read from files, not made, and are in no mean.
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
#: All that can be read from files.
KNOWN = (*CORRUPTIONS, *EXTRA)
SEVERITIES = (1, 2, 3, 4, 5)
#: Values that are corrupted at once, few enough for the intermediate arrays to stay small.
_AT_ONCE = 2**21


def corrupt(
    images: UInt8[np.ndarray, "b s s 3"], name: str, severity: int, seed: int = 0
) -> UInt8[np.ndarray, "b s s 3"]:
    """Corrupt images; the result for an image depends on its pixels and the other arguments alone.

    Args:
        name: A key of CORRUPTIONS.
        severity: From 1 to 5.
    """
    parameters, scale = severities.of(name, severity, images.shape[1])
    draws = Draws(images, f"{name} {severity} {seed}")
    pixels = images.astype(np.float32) / np.float32(255)
    made = CORRUPTIONS[name](pixels, draws, scale, *parameters)
    return np.rint(255 * np.clip(made, 0, 1)).astype(np.uint8)


class Corrupted:
    """Images that are corrupted when indexed, by a pool of threads."""

    def __init__(
        self, images: Images, name: str, severity: int, seed: int, pool: ThreadPoolExecutor
    ) -> None:
        self._images, self._pool = images, pool
        self._name, self._severity, self._seed = name, severity, seed

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, indices: np.ndarray) -> UInt8[np.ndarray, "b s s 3"]:
        clean = self._images[indices]
        count = max(1, _AT_ONCE // clean[0].size)
        parts = [clean[i : i + count] for i in range(0, len(clean), count)]
        made = self._pool.map(
            lambda part: corrupt(part, self._name, self._severity, self._seed), parts
        )
        return np.concatenate(list(made))
