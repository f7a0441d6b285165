"""Some steps of tests/tiny.py on several devices, to compare nets that are split over them with nets that are not."""

from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax.data.pipeline.batches import Batch
from alexnet_jax.inference import predict_step
from alexnet_jax.model import mesh as parallel
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.train import schedule, state, step
from bench import ours

BATCH = 32


class Learned(NamedTuple):
    state: Any
    norms: list[float]
    #: Of the last images.
    probabilities: np.ndarray


def learn(spec, devices: int, *, steps: int, towers: int = 1) -> Learned:
    """Train on random images."""
    mesh, model = parallel.device_mesh(jax.devices()[:devices], towers), AlexNet(spec.model)
    train_step = step.make_train_step(spec, model, ours.statistics(spec), mesh)
    now, norms, images = state.create(spec, model, 0, mesh=mesh), [], None
    rates = schedule.rates(spec, 0.0, now.schedule, 1.0)
    for i in range(steps):
        draw, numbers = np.random.default_rng(i), np.arange(BATCH, dtype=np.int32)
        images = draw.integers(0, 256, (BATCH, 16, 16, 3), np.uint8)
        now, metrics = train_step(now, Batch(images, numbers % 10, numbers, 0 * numbers), rates)
        norms.append(float(metrics["grad_norm"]))
    predict = predict_step.make_eval_step(spec, model, ours.statistics(spec), mesh, "center")
    return Learned(now, norms, np.asarray(predict(now.params, now.batch_stats, images)))


def assert_same(split: Learned, whole: Learned) -> None:
    """Assert that both are equal to rounding."""
    for one, other in zip(jax.tree.leaves(whole.state), jax.tree.leaves(split.state), strict=True):
        np.testing.assert_allclose(np.asarray(other), np.asarray(one), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(split.norms, whole.norms, rtol=1e-5)
    np.testing.assert_allclose(split.probabilities, whole.probabilities, atol=1e-5)
