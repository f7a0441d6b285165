"""Jitted prediction of class probabilities for a batch, on all devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from alexnet_jax.data.pipeline import augment, views
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.model import alexnet
from alexnet_jax.model import mesh as meshes
from alexnet_jax.model.alexnet import AlexNet, Edit
from alexnet_jax.model.hybrid import sharding_of
from alexnet_jax.model.mesh import DATA
from alexnet_jax.run import processes
from alexnet_jax.specs import AugmentSpec, Config


def make_eval_step(
    spec: Config,
    model: AlexNet,
    statistics: Statistics,
    mesh: jax.sharding.Mesh,
    view: str,
    classes: Int[np.ndarray, " k"] | None = None,
) -> Callable[[Any, Any, Any], jax.Array]:
    """Make a function that predicts class probabilities, averaged over the crops of each image (§4.1).

    Nets that differ only in their parameters and statistics share a compiled program.

    Args:
        view: Which crops to take, such as 'center' or 'ten'.
        classes: Numbers of the classes to predict, if not all, as in `mean_probabilities`.

    Returns:
        f(params, batch_stats, images uint8 [b s s 3]) -> probabilities [b classes], where b is a multiple of the number
        of devices. All crops of a batch pass through the network at once; views.images_at_once gives the largest b
        whose crops fit into `evaluation.batch_size`.
    """
    forms = meshes.forms_of(model.forms, mesh)
    model = model.clone(sharding=sharding_of(spec, mesh), forms=forms)
    chosen = None if classes is None else tuple(int(number) for number in classes)
    jitted = _jit(
        model,  # pyright: ignore[reportArgumentType] (Flax makes it hashable)
        spec.augment, spec.train.deterministic, mesh, view, chosen,
    )  # fmt: skip
    statistics = processes.to_devices(
        jax.device_get(resized_statistics(statistics, spec)), meshes.shardings(mesh, jax.P())
    )
    return lambda params, batch_stats, images: jitted(params, batch_stats, images, statistics)


@functools.lru_cache(maxsize=8)
def _jit(
    model: AlexNet,
    augment_spec: AugmentSpec,
    deterministic: bool,
    mesh: jax.sharding.Mesh,
    view: str,
    classes: tuple[int, ...] | None,
) -> Callable[..., jax.Array]:
    """Return (params, batch_stats, images, statistics) -> probabilities, jitted over `mesh`."""
    variables = alexnet.shapes(model.spec, augment_spec.crop_size)
    params, batch_stats = (
        model.sharding.partition(model.spec, variables[name]) for name in ("params", "batch_stats")
    )

    chosen = None if classes is None else np.array(classes)

    def predict(
        params: Any, batch_stats: Any, images: jax.Array, statistics: Statistics
    ) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        crops = views.views(images, statistics, augment_spec, view)
        return mean_probabilities(model, variables, crops, chosen)

    inputs = (params, batch_stats, jax.P(DATA), jax.P())
    return meshes.jit(predict, mesh, inputs, jax.P(DATA), deterministic=deterministic)


def mean_probabilities(
    model: AlexNet,
    variables: dict[str, Any],
    crops: Float[Array, "b v c c 3"],
    classes: Int[np.ndarray, " k"] | None = None,
    edit: Edit | None = None,
) -> Float[Array, "b classes"]:
    """Average the class probabilities over the crops of each image (§4.1).

    With `classes`, the softmax is over the logits of these classes alone, and the result has one column for each.
    `edit` is that of AlexNet.
    """
    images = crops.reshape(-1, *crops.shape[2:])
    logits: Any = model.apply(variables, images, train=False, edit=edit)[0]
    logits = logits if classes is None else logits[:, classes]
    return jax.nn.softmax(logits).reshape(*crops.shape[:2], -1).mean(axis=1)


def resized_statistics(statistics: Statistics, spec: Config) -> Statistics:
    """Resize the mean image to augment.resize here, once, instead of in the jitted function."""
    size = spec.augment.resize or statistics.mean_image.shape[0]
    return statistics._replace(mean_image=augment.mean_image(statistics, size))
