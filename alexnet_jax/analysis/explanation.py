"""Explain the prediction of one image as JSON: classes, input, feature maps, saliency and Grad-CAM.

The page of `alexnet serve` shows these numbers.
"""

import base64
from typing import Any, cast

import jax
import numpy as np

from alexnet_jax.analysis import pictures, saliency
from alexnet_jax.inference.network import Network
from alexnet_jax.pages.render import data_uri

TOP = 5
#: Saliency is clipped at this quantile, because a few values are much larger than all others.
CLIP_QUANTILE = 0.99


def explain(net: Network, pixels: np.ndarray, class_number: int | None = None) -> dict[str, Any]:
    """Explain the prediction for an image, uint8 [s s 3] as from `net.pixels`. The first call compiles.

    Args:
      class_number: The class that saliency and Grad-CAM explain; default: the most probable.

    Returns:
      A dict with "top": [{number, class, probability}]; "input", the center crop as a data URI of a PNG; "size", the
      side of the crop in pixels; "crop", the side of the crop as a fraction of the image's; "layers", the feature maps
      of each convolutional layer; "towers", their number; "saliency" and "grad_cam". Maps are uint8 [n h w] in base64,
      scaled from "lowest" to "highest".
    """
    names = [name for name, _ in net.trained.config.model.convs]

    def forward(variables: Any, pixels: jax.Array) -> Any:
        inputs = net.inputs(pixels)[:, 0]
        logits, features = cast(tuple, net.model.apply(variables, inputs, train=False))
        maps = {name: features[name][0].astype(np.float32) for name in names}
        return jax.nn.softmax(logits)[0], maps

    compiled = net.jitted("explain", forward)
    probabilities, maps = jax.device_get(compiled(net.variables, pixels[None]))
    best = np.argsort(-probabilities, kind="stable")[:TOP]
    [crop] = pictures.crops(net, pixels[None])
    explained = best[:1] if class_number is None else np.array([class_number])
    gradient = saliency.gradient(net, pixels[None], explained)
    spec = net.trained.config
    return {
        "top": [
            {"number": i, "class": net.class_names[i], "probability": float(probabilities[i])}
            for i in best.tolist()
        ],
        "input": data_uri(crop),
        "size": len(crop),
        "crop": spec.augment.crop_size / spec.uncropped_size,
        "saliency": _encoded(np.minimum(gradient, np.quantile(gradient, CLIP_QUANTILE))),
        "grad_cam": _encoded(saliency.grad_cam(net, pixels[None], explained)),
        "towers": spec.model.towers,
        "layers": [{"name": name, **_encoded(maps[name].transpose(2, 0, 1))} for name in names],
    }


def _encoded(maps: np.ndarray) -> dict[str, Any]:
    """Encode maps, float [n h w], with one scale for all that includes zero."""
    lowest, highest = min(0.0, float(maps.min())), max(0.0, float(maps.max()))
    span = highest - lowest or 1.0
    levels = np.rint(255 * (maps - lowest) / span).clip(0, 255).astype(np.uint8)
    return {
        "shape": levels.shape,
        "lowest": lowest,
        "highest": highest,
        "values": base64.b64encode(levels.tobytes()).decode(),
    }
