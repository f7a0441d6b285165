"""Activation patching: between the logits of target and source, and equal to an exchange by hand."""

import json

import numpy as np
import pytest

from alexnet_jax.analysis import patching
from alexnet_jax.analysis.pictures import Pictures
from alexnet_jax.errors import ConfigError


@pytest.fixture(scope="module")
def pair(splits, answers):
    """Two images that are predicted as different classes."""
    predicted = answers["fc7"].argmax(axis=1)
    chosen = np.array([0, np.flatnonzero(predicted != predicted[0])[0]])
    split = splits["test"]
    return Pictures(split.images[chosen], split.labels[chosen], [f"test {i}" for i in chosen])


def test_all_of_a_layer_gives_the_logits_of_the_source_and_nothing_those_of_the_target(net, pair):
    logits = net.features(pair.pixels, "fc7")
    source, target = pair.pixels[:1], pair.pixels[1:]
    for name in net.shapes:
        units = net.shapes[name][-1]
        masks = np.array([[True] * units, [False] * units])
        found = net.patch(source, target, name, masks)
        assert found.shape == (1, 2, 10) and found.dtype == np.float32
        np.testing.assert_allclose(found[0], logits, rtol=1e-4, atol=1e-4)
    whole = net.patch(pair.pixels, pair.pixels[::-1], "conv2")
    np.testing.assert_allclose(whole[:, 0], logits, rtol=1e-4, atol=1e-4)


def test_some_units_are_exchanged(net, pair, answers):
    """Units 3 and 8 of fc6 by hand, through fc7."""
    fc6, params = net.features(pair.pixels, "fc6"), net.trained.params["fc7"]
    mixed = fc6[1].copy()
    mixed[[3, 8]] = fc6[0, [3, 8]]
    masks = np.isin(np.arange(16), [3, 8])[None]
    found = net.patch(pair.pixels[:1], pair.pixels[1:], "fc6", masks)[0, 0]
    np.testing.assert_allclose(found, mixed @ params["kernel"] + params["bias"], rtol=1e-4)


def test_effects_are_normalized_between_target_and_source(net, pair):
    numbers = patching.effects(net, pair, ["conv1", "conv2", "fc6", "fc7"])
    logits = net.features(pair.pixels, "fc7")
    a, b = logits.argmax(axis=1)
    assert [one["predicted"] for one in numbers["images"]] == [
        net.class_names[a],
        net.class_names[b],
    ]
    exponentials = np.exp(logits)
    expected = (exponentials / exponentials.sum(axis=1, keepdims=True))[:, [a, b]]
    found = [one["probabilities"] for one in numbers["images"]]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for one in numbers["layers"]:
        assert one["effect"] == pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(one["probabilities"], expected[0], rtol=1e-2)
        assert len(one["maps"]) == net.shapes[one["layer"]][-1]
        assert len(one["towers"]) == (0 if one["layer"] == "fc7" else 2)
    fc6, fc7 = numbers["layers"][2:]
    # fc6 has only fc7, which is linear, after it: effects add up. Only two logits count.
    assert sum(fc6["maps"]) == pytest.approx(1, abs=1e-3)
    assert sum(fc6["maps"][:8]) == pytest.approx(fc6["towers"][0], abs=1e-3)
    gap = logits[0] - logits[1]
    assert fc7["maps"][a] == pytest.approx(gap[a] / (gap[a] - gap[b]), abs=1e-3)
    assert np.count_nonzero(np.round(fc7["maps"], 5)) == 2


def test_the_figure_and_its_numbers(net, weights_file, tmp_path, capsys):
    asked = ["--workdir", str(weights_file), "--out", str(tmp_path), "--layer", "conv2", "fc6"]
    patching.main(asked)
    said = capsys.readouterr().out
    assert "tower 2" in said and said.strip().endswith("patching.png")
    assert (tmp_path / "patching.png").stat().st_size > 10_000
    numbers = json.loads((tmp_path / "patching.json").read_text())
    source, target = numbers["images"]
    assert source["predicted"] == source["label"] != target["predicted"]
    assert [one["layer"] for one in numbers["layers"]] == ["conv2", "fc6"]


def test_what_cannot_be_patched_is_refused(net, pair, weights_file, tmp_path):
    with pytest.raises(ConfigError, match=r"both images are predicted as .*: choose two of"):
        patching.effects(net, pair._replace(pixels=pair.pixels[[0, 0]]), ["conv1"])
    with pytest.raises(ConfigError, match=r"masks for conv1 are bool \[m 8\], not bool \[1, 7\]"):
        net.patch(pair.pixels[:1], pair.pixels[1:], "conv1", np.ones((1, 7), bool))
    with pytest.raises(ConfigError, match="2 source images are not as many as 1 targets"):
        net.patch(pair.pixels, pair.pixels[1:], "conv1")
    with pytest.raises(ConfigError, match="no features 'conv9'"):
        patching.main(["--workdir", str(weights_file), "--out", str(tmp_path), "--layer", "conv9"])
