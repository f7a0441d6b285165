"""The figure of predictions and its numbers."""

import json

import numpy as np
import pytest

from alexnet_jax.analysis import predictions


def test_labels_and_the_five_most_probable_classes(net, splits, answers, weights_file, tmp_path):
    arguments = ["--workdir", str(weights_file), "--out", str(tmp_path), "--count", "5"]
    predictions.main(arguments)
    assert (tmp_path / "predictions.png").stat().st_size > 0
    rows = json.loads((tmp_path / "predictions.json").read_text())["images"]
    assert len(rows) == 5
    for row in rows:
        number = int(row["image"].removeprefix("test "))
        probabilities = np.exp(answers["fc7"][number])
        probabilities /= probabilities.sum()
        assert row["label"] == net.class_names[splits["test"].labels[number]]
        assert [name for name, _ in row["top"]] == [
            net.class_names[c] for c in probabilities.argsort()[::-1][:5]
        ]
        assert row["top"][0][1] == pytest.approx(probabilities.max(), abs=1e-4)
