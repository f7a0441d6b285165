"""The explanation of an image agrees with the network."""

import base64
import io

import numpy as np
from PIL import Image

from alexnet_jax.analysis import explanation, saliency


def levels(maps: dict) -> np.ndarray:
    """The floats that the page can make of `values`."""
    values = np.frombuffer(base64.b64decode(maps["values"]), np.uint8).reshape(maps["shape"])
    return maps["lowest"] + values / 255 * (maps["highest"] - maps["lowest"])


def test_answers_maps_and_saliency_are_those_of_the_network(net, pixels):
    found = explanation.explain(net, pixels[0])
    probabilities = net.predict(pixels[:1])[0]
    best = np.argsort(-probabilities)[:5]
    assert [one["class"] for one in found["top"]] == [net.class_names[i] for i in best]
    np.testing.assert_allclose(
        [one["probability"] for one in found["top"]], probabilities[best], rtol=1e-5
    )
    for layer in found["layers"]:
        maps = net.features(pixels[:1], layer["name"])[0].transpose(2, 0, 1)
        assert layer["shape"] == maps.shape
        np.testing.assert_allclose(levels(layer), maps, atol=0.6 * np.ptp(maps) / 255)
    for key, function in (("saliency", saliency.gradient), ("grad_cam", saliency.grad_cam)):
        maps = function(net, pixels[:1], best[:1])
        if key == "saliency":  # a hundredth is cut off
            assert (maps > found[key]["highest"]).mean() <= 0.011
            maps = np.minimum(maps, found[key]["highest"])
        np.testing.assert_allclose(levels(found[key]), maps, atol=0.6 * np.ptp(maps) / 255)
    second = explanation.explain(net, pixels[0], class_number=int(best[1]))
    assert second["top"] == found["top"] and second["layers"] == found["layers"]
    maps = saliency.grad_cam(net, pixels[:1], best[1:2])
    np.testing.assert_allclose(levels(second["grad_cam"]), maps, atol=0.6 * np.ptp(maps) / 255)


def test_the_input_is_the_center_crop(net, pixels):
    found = explanation.explain(net, pixels[1])
    png = base64.b64decode(found["input"].partition(",")[2])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), pixels[1, 1:15, 1:15])
    assert found["size"] == 14 and found["crop"] == 14 / 16 and found["towers"] == 2
