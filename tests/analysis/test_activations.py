"""Activation statistics against their definitions."""

import json

import numpy as np
import pytest

from alexnet_jax.analysis import activations


def test_the_statistics_are_those_of_all_activations(answers, weights_file, tmp_path, capsys):
    activations.main(["--workdir", str(weights_file), "--out", str(tmp_path)])
    assert (tmp_path / "activations.png").stat().st_size > 0
    assert "conv2/act            2      4" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "activations.json").read_text())
    assert numbers["images"] == 128 and numbers["split"] == "test"
    found = {(row["feature"], row["tower"]): row for row in numbers["rows"]}
    assert {feature for feature, _ in found} == {"conv1/act", "conv2/act", "fc6/act", "fc7"}
    assert ("fc7", 1) not in found  # both towers make the logits

    for (feature, tower), row in found.items():
        units = answers[feature]
        units = units.reshape(-1, units.shape[-1]).astype(np.float64)
        half = units.shape[-1] // 2
        units = {None: units, 1: units[:, :half], 2: units[:, half:]}[tower]
        assert row["units"] == units.shape[1]
        assert row["mean"] == pytest.approx(units.mean(), rel=1e-4)
        assert row["std"] == pytest.approx(units.std(), rel=1e-4)
        assert row["zeros"] == pytest.approx((units == 0).mean(), abs=1e-3)
        assert row["dead"] == sum(unit.max() <= 0 for unit in units.T)
    assert found["fc6/act", None]["dead"] > 0 and found["fc6/act", None]["zeros"] > 0.1


def test_what_fills_up_the_last_batch_does_not_count(net, splits, answers):
    pixels = splits["test"].images
    whole, parts = (
        activations.statistics(net, pixels[:40]),
        activations.statistics(net, pixels[:37]),
    )
    assert whole != parts
    [row] = [row for row in parts if row["feature"] == "fc6/act" and row["tower"] is None]
    assert row["mean"] == pytest.approx(answers["fc6/act"][:37].mean(), rel=1e-4)
