import json

import pytest

from alexnet_jax.analysis import predictions
from alexnet_jax.data import sources


@pytest.mark.parametrize("count", [1, 6])
def test_labels_and_the_five_most_probable_classes(net, weights_file, tmp_path, count):
    arguments = ["--workdir", str(weights_file), "--out", str(tmp_path), "--count", str(count)]
    predictions.main(arguments)
    assert (tmp_path / "predictions.png").stat().st_size > 0
    rows = json.loads((tmp_path / "predictions.json").read_text())["images"]
    assert len(rows) == count
    split = sources.open_dataset(net.run.config.data, 0).splits["test"]
    for row in rows:
        number = int(row["image"].removeprefix("test "))
        probabilities = net.predict(split.images[number])[0]
        assert row["label"] == net.class_names[split.labels[number]]
        assert [name for name, _ in row["top"]] == [
            net.class_names[c] for c in probabilities.argsort()[::-1][:5]
        ]
        assert row["top"][0][1] == pytest.approx(probabilities.max(), abs=1e-4)
