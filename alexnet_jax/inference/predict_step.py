"""The prediction of a batch over all devices."""

import functools
from typing import Any

import jax

from alexnet_jax.data.pipeline import augment, views
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.model import alexnet, towers
from alexnet_jax.model import mesh as parallel
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.mesh import DATA, TOWER
from alexnet_jax.run import processes
from alexnet_jax.specs import Config


def make_eval_step(spec: Config, model: AlexNet, statistics: Statistics, mesh, view: str):
    """f(params, batch_stats, images uint8 [b s s 3]) -> probabilities [b classes], the mean over the views (§4.1).

    b must divide over the devices: the caller pads. All views go through at once (v times b crops): the caller
    divides the batch by the views (views.images_at_once).
    """

    sharding = towers.TowerSharding(mesh.shape[TOWER])
    model = model.clone(sharding=sharding, forms=parallel.forms_of(model, mesh))
    params, batch_stats = partition(spec, mesh)

    def predict(params, batch_stats, images, statistics):
        variables = {"params": params, "batch_stats": batch_stats}
        return mean_probabilities(
            model, variables, views.views(images, statistics, spec.augment, view)
        )

    inputs = (params, batch_stats, jax.P(DATA), jax.P())
    jitted = parallel.jit(predict, spec, mesh, inputs, jax.P(DATA))
    statistics = processes.to_devices(
        jax.device_get(resized_statistics(statistics, spec)), parallel.shardings(mesh, jax.P())
    )
    return lambda params, batch_stats, images: jitted(params, batch_stats, images, statistics)


def partition(spec: Config, mesh) -> tuple[Any, Any]:
    """PartitionSpecs of parameters and batch statistics: whole on all devices of `mesh`, or split over its towers."""
    init = functools.partial(
        alexnet.init, alexnet.of_config(spec), input_size=spec.augment.crop_size
    )
    made = jax.eval_shape(init, jax.random.key(0))
    if mesh.shape[TOWER] == 1:
        made = jax.tree.map(lambda _: jax.P(), made)
    else:
        made = {name: towers.partition(spec.model, part) for name, part in made.items()}
    return made["params"], made["batch_stats"]


def mean_probabilities(model: AlexNet, variables, seen) -> jax.Array:
    """[b classes]: the mean over the views (§4.1) float32 [b v c c 3] of each image."""
    logits: Any = model.apply(variables, seen.reshape(-1, *seen.shape[2:]), train=False)[0]
    return jax.nn.softmax(logits).reshape(*seen.shape[:2], -1).mean(axis=1)


def resized_statistics(statistics: Statistics, spec: Config) -> Statistics:
    """With the mean image at the size of resized images: done once, before it is traced."""
    size = spec.augment.resize or statistics.mean_image.shape[0]
    return statistics._replace(mean_image=augment.mean_image(statistics, size))
