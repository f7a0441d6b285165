"""What exported files say of the inputs of a net: the mean that is subtracted, and all input statistics as metadata."""

import base64
import math
from pathlib import Path

import numpy as np

from alexnet_jax.data.pipeline import statistics
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import CheckpointError
from alexnet_jax.inference import trained
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.specs import Config


def mean(run: TrainedModel) -> np.ndarray | None:
    """Return what is subtracted from center crops [3 c c]: float32 [3 c c] or [3 1 1], or None."""
    match run.config.augment.mean:
        case "pixel" | "image_center":
            return _mean_crop(run)
        case "channel":
            return run.statistics.channel_mean[:, None, None]
    return None


def mean_shape(spec: Config) -> tuple[int, ...] | None:
    """Return the shape of what `mean` returns, or None."""
    crop = spec.augment.crop_size
    shapes = {"pixel": (3, crop, crop), "image_center": (3, crop, crop), "channel": (3, 1, 1)}
    return shapes.get(spec.augment.mean)


def _mean_crop(run: TrainedModel) -> np.ndarray:
    """Return the center crop [3 c c] of the mean image, at the size that images are resized to."""
    from alexnet_jax.data.pipeline import views
    from alexnet_jax.inference.predict_step import resized_statistics

    image = np.asarray(resized_statistics(run.statistics, run.config).mean_image)
    crop = run.config.augment.crop_size
    [(top, left, _)] = views.center(len(image), crop)
    return image[top : top + crop, left : left + crop].transpose(2, 0, 1)


def metadata_of(run: TrainedModel) -> dict[str, str]:
    """Return the metadata of our weights files, and all statistics as base64 of float32, one after another."""
    flat = np.concatenate([np.ravel(array) for array in run.statistics])
    encoded = base64.b64encode(flat.astype("<f4").tobytes()).decode()
    return {**trained.metadata_of(run), "statistics": encoded}


def statistics_of(path: str | Path, metadata: dict[str, str], spec: Config) -> Statistics:
    """Read the statistics that `metadata_of` wrote for a net of config `spec`. Raises CheckpointError."""
    shapes = statistics.shapes(spec.data.image_size)
    lengths = [math.prod(shape) for shape in shapes.values()]
    try:
        flat = np.frombuffer(base64.b64decode(metadata.get("statistics", ""), validate=True), "<f4")
    except ValueError:
        flat = np.zeros(0, np.float32)
    if len(flat) != sum(lengths) or not np.isfinite(flat).all():
        raise CheckpointError(f"{path}: statistics of its metadata are not those of its images")
    parts = np.split(flat.astype(np.float32), np.cumsum(lengths)[:-1])
    return Statistics(*(part.reshape(s) for part, s in zip(parts, shapes.values(), strict=True)))
