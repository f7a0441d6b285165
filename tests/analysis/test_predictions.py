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


@pytest.mark.parametrize(
    ("label", "legend"), [("cat", [["label", "other classes"]]), (None, [])], ids=["label", "file"]
)
def test_bars_have_percentages_and_a_legend_if_there_are_labels(label, legend):
    row = {"image": "a.jpg", "label": label, "top": [["cat", 0.876], ["dog", 0.124]]}
    figure = predictions._draw(np.zeros((1, 4, 4, 3), np.uint8), [row])
    _, bars = figure.axes
    assert [text.get_text() for text in bars.texts] == ["cat", "88%", "dog", "12%"]
    assert min(bars.get_ylim()) < -0.5 and max(bars.get_ylim()) < 2, "no room for classes beyond"
    assert [[text.get_text() for text in one.texts] for one in figure.legends] == legend
