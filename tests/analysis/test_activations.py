import json

import numpy as np
import pytest

from alexnet_jax.analysis import activations
from alexnet_jax.data import sources


def test_the_statistics_are_those_of_all_activations(net, weights_file, tmp_path, capsys):
    activations.main(["--workdir", str(weights_file), "--out", str(tmp_path)])
    assert (tmp_path / "activations.png").stat().st_size > 0
    assert "conv2/act            2      4" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "activations.json").read_text())
    assert numbers["images"] == 128 and numbers["split"] == "test"
    found = {(row["feature"], row["tower"]): row for row in numbers["rows"]}
    assert {feature for feature, _ in found} == {"conv1/act", "conv2/act", "fc6/act", "fc7"}
    assert ("fc7", 1) not in found  # both towers make the logits

    pixels = sources.open_dataset(net.run.config.data, 0).splits["test"].images
    for (feature, tower), row in found.items():
        units = net.features(pixels, feature)
        units = units.reshape(-1, units.shape[-1]).astype(np.float64)
        half = units.shape[-1] // 2
        units = {None: units, 1: units[:, :half], 2: units[:, half:]}[tower]
        assert row["units"] == units.shape[1]
        assert row["mean"] == pytest.approx(units.mean(), rel=1e-4)
        assert row["std"] == pytest.approx(units.std(), rel=1e-4)
        assert row["zeros"] == pytest.approx((units == 0).mean(), abs=1e-3)
        assert row["dead"] == sum(unit.max() <= 0 for unit in units.T)
    assert found["fc6/act", None]["dead"] > 0 and found["fc6/act", None]["zeros"] > 0.1


def test_the_split_in_parts_gives_the_same(net):
    """The last batch of evaluation is filled up: what fills it does not count."""
    pixels = sources.open_dataset(net.run.config.data, 0).splits["test"].images
    whole, parts = (
        activations.statistics(net, pixels[:40]),
        activations.statistics(net, pixels[:37]),
    )
    assert whole != parts
    features = net.features(pixels[:37], "fc6/act")
    [row] = [row for row in parts if row["feature"] == "fc6/act" and row["tower"] is None]
    assert row["mean"] == pytest.approx(features.mean(), rel=1e-4)
