"""The training step of this package on random images."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from alexnet_jax.data.pipeline import placement
from alexnet_jax.data.pipeline.batches import Batch
from alexnet_jax.data.pipeline.splits import Split
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.inference import predict_step
from alexnet_jax.kernels.forms import Forms
from alexnet_jax.model import alexnet
from alexnet_jax.model import mesh as parallel
from alexnet_jax.specs import Config
from alexnet_jax.train import schedule, state, step

from . import workload


def examples(spec: Config) -> Batch:
    """A batch of random images on the host."""
    images, labels = workload.examples(spec)
    numbers = np.arange(len(labels), dtype=np.int32)
    return Batch(images, labels.astype(np.int32), numbers, 0 * numbers)


def statistics(spec: Config) -> Statistics:
    """Statistics of images that are gray on average."""
    mean = np.full((spec.data.image_size, spec.data.image_size, 3), 120, np.float32)
    return Statistics(mean, mean[0, 0], np.eye(3, dtype=np.float32), np.ones(3, np.float32))


def program(
    spec: Config, forms: Forms | None = None
) -> tuple[Callable[[int], float], dict[str, Any]]:
    """Build the step on one device: run(steps) -> the last loss, and facts.

    With train.steps_per_dispatch above 1, steps must be a multiple of it, and the images are on the device.

    Args:
      forms: Default: those of the device.
    """
    mesh = parallel.device_mesh(jax.local_devices()[:1])
    model = alexnet.from_config(spec, forms)
    batch: Any = jax.device_put(examples(spec))
    pool, per_dispatch = None, spec.train.steps_per_dispatch
    current = state.create(spec, model, 0, mesh=mesh)
    rates = schedule.rates(spec, 0.0, current.schedule, 1.0)
    if per_dispatch > 1:
        drawn = examples(spec)
        placed = placement.placed(Split(drawn.images, drawn.labels), mesh, "device")
        indices, epochs = (
            np.stack([array] * per_dispatch) for array in (drawn.indices, drawn.epochs)
        )
        batch, pool = placed.read_steps(indices, epochs), placed.pool
        rates = jax.tree.map(lambda rate: np.stack([rate] * per_dispatch), rates)
    train_step = step.make_train_step(spec, model, statistics(spec), mesh, pool)

    def run(steps: int) -> float:
        nonlocal current
        metrics: Any = {"loss": np.nan}
        for _ in range(steps // per_dispatch):
            current, metrics = train_step(current, batch, rates)
        jax.block_until_ready(current)
        return float(np.ravel(metrics["loss"])[-1])

    count = sum(leaf.size for leaf in jax.tree.leaves(current.params))
    return run, {"version": f"jax {jax.__version__}", "parameters": count}


def lower(spec: Config, mesh: Any, forms: Forms | None = None) -> jax.stages.Lowered:
    """Lower the step of a batch on `mesh`, as `trace` traces it."""
    return trace(spec, mesh, forms).lower()


def trace(spec: Config, mesh: Any, forms: Forms | None = None) -> jax.stages.Traced:
    """Trace the step of a batch on `mesh` from shapes; the devices of the mesh need not exist."""
    forms = parallel.forms_of(forms, mesh)
    model = alexnet.from_config(spec, forms)
    start = state.shapes(spec, model)
    weights = jax.eval_shape(functools.partial(step.narrow, spec, forms), start.params)
    rates = schedule.rates(spec, 0.0, schedule.create(), 1.0)
    constants = (
        predict_step.resized_statistics(statistics(spec), spec),
        *(state.stream(spec.seed, name) for name in (state.AUGMENT, state.DROPOUT)),
    )
    requests = np.zeros((mesh.size, 2), np.float32)
    jitted = step.jit_train_step(spec, model, mesh)
    return jitted.trace(
        start, weights, *map(_shapes, (examples(spec), rates, requests, constants)), None
    )


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), tree)
