"""What one network makes of one image: its answer, what it saw, the maps of each layer, and what counted.

The numbers behind the page of `alexnet predict --serve`.
"""

import base64
from typing import cast

import jax
import numpy as np

from alexnet_jax.analysis import pictures, saliency
from alexnet_jax.inference.network import Network
from alexnet_jax.pages.html import data_uri

TOP = 5
SHOWN = 0.99
"""Of the pixels of a saliency map this share has its own shade; a few are much larger than all others."""


def look(net: Network, pixels: np.ndarray, answer: int | None = None) -> dict:
    """What JSON can hold of what `net` makes of an image, uint8 [s s 3] as of `net.pixels`.

    "top": [{number, class, probability}]; "seen": the center crop, a PNG as a data address; "crop": its side as a
    fraction of that of the image; "layers", one for each convolutional row; "towers"; "saliency" and "grad_cam" of
    the class `answer`, by default the first one. Maps are uint8 in base64, [n h w], from "lowest" to "highest" of all
    n. The first call compiles.
    """
    names = [name for name, _ in net.run.config.model.convs]

    def forward(variables, pixels):
        seen = net.inputs(pixels)[:, 0]
        logits, features = cast(tuple, net.model.apply(variables, seen, train=False))
        maps = {name: features[name][0].astype(np.float32) for name in names}
        return jax.nn.softmax(logits)[0], maps

    compiled = net.jitted("look", forward)
    probabilities, maps = jax.device_get(compiled(net.variables, pixels[None]))
    best = np.argsort(-probabilities, kind="stable")[:TOP]
    [seen] = pictures.crops(net, pixels[None])
    explained = best[:1] if answer is None else np.array([answer])
    slopes = saliency.gradient(net, pixels[None], explained)
    spec = net.run.config
    return {
        "top": [
            {"number": i, "class": net.class_names[i], "probability": float(probabilities[i])}
            for i in best.tolist()
        ],
        "seen": data_uri(seen),
        "size": len(seen),
        "crop": spec.augment.crop_size / (spec.augment.resize or spec.data.image_size),
        "saliency": _maps(np.minimum(slopes, np.quantile(slopes, SHOWN))),
        "grad_cam": _maps(saliency.grad_cam(net, pixels[None], explained)),
        "towers": spec.model.towers,
        "layers": [{"name": name, **_maps(maps[name].transpose(2, 0, 1))} for name in names],
    }


def _maps(maps: np.ndarray) -> dict:
    """float [n h w] with one scale for all of them; zero is always on it."""
    lowest, highest = min(0.0, float(maps.min())), max(0.0, float(maps.max()))
    span = highest - lowest or 1.0
    levels = np.rint(255 * (maps - lowest) / span).clip(0, 255).astype(np.uint8)
    return {
        "shape": levels.shape,
        "lowest": lowest,
        "highest": highest,
        "values": base64.b64encode(levels.tobytes()).decode(),
    }
