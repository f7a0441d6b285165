"""Predictions of a network without some of the maps or units of a layer, and how active these are for each class."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.inference import metrics

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network


def class_means(
    net: "Network", images: Any, labels: np.ndarray, layer: str, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Average the activations of a layer, over positions, by class.

    Args:
        images: uint8 [n s s 3], or an object that returns them for an array of indices.
        labels: int [n], below `classes`.

    Returns:
        float64 [classes units], NaN for a class without images, and the number of images of each class.
    """

    def means(variables: Any, pixels: Any) -> jax.Array:
        x = net.all_features(variables, pixels)[layer].astype(jnp.float32)
        return x.reshape(len(x), -1, x.shape[-1]).mean(axis=1)

    sums, start = np.zeros((classes, net.shape_of(layer)[-1])), 0
    for part in net.map_batches(net.jitted(f"means of {layer}", means), images):
        np.add.at(sums, labels[start : start + len(part)], part)
        start += len(part)
    counts = np.bincount(labels, minlength=classes)
    found = np.full_like(sums, np.nan)
    np.divide(sums, counts[:, None], out=found, where=counts[:, None] > 0)
    return found, counts


def ranks(
    net: "Network",
    images: Any,
    labels: np.ndarray,
    layer: str,
    kept: np.ndarray,
    fill: np.ndarray,
    classes: np.ndarray | None = None,
) -> np.ndarray:
    """Predict all images once for each mask in `kept`, and rank their labels (metrics.rank).

    The layers up to `layer` are computed once for each image, and one compiled program computes the rest for all masks.

    Args:
        images: uint8 [n s s 3], or an object that returns them for an array of indices.
        labels: int [n]; with `classes`, places in these.
        kept: bool [masks units]: the maps or units of `layer` that are not removed.
        fill: float32 [units], what removed ones are set to.
        classes: Numbers of the classes to predict; None for all.

    Returns:
        uint16 [masks n]; 1 is the most probable class.
    """
    predicted = np.arange(len(net.class_names)) if classes is None else classes

    def activations(variables: Any, pixels: Any) -> jax.Array:
        return net.all_features(variables, pixels)[layer]

    def probabilities(variables: Any, x: Any, kept: Any, fill: Any, predicted: Any) -> jax.Array:
        x = jnp.where(kept, x, fill.astype(x.dtype))
        return jax.nn.softmax(net.logits_from(variables, layer, x)[:, predicted])

    first = net.jitted(f"up to {layer}", activations)
    rest = net.jitted(f"from {layer}", probabilities)

    def batch_ranks(variables: Any, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
        x = first(variables, pixels)
        found = [
            metrics.rank(np.asarray(rest(variables, x, one, fill, predicted)), labels)
            for one in kept
        ]
        return np.stack(found, axis=1).astype(np.uint16)

    return np.concatenate(list(net.map_batches(batch_ranks, images, others=(labels,)))).T
