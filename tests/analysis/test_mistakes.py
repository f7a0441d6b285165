"""Confusion, calibration and the most confident mistakes: the numbers of the figures."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.analysis import mistakes, report_evaluation
from alexnet_jax.errors import StorageError
from alexnet_jax.inference import predictions

PROTOCOL = {"step": 7, "split": "test", "views": "ten"}


def answered(classes):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(classes, 0.3), 200).astype(np.float32)
    return probabilities, rng.integers(0, classes - 1, 200)


def numbers(path):
    with Image.open(path) as picture:
        width, height = picture.size
        assert width > 250 and height > 50
    return json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("classes", [5, 40])  # the whole matrix, and lists
def test_confusion_is_written_as_it_is_counted(tmp_path, classes):
    probabilities, labels = answered(classes)
    names = [f"a class with the long name {k}" for k in range(classes)]
    path = tmp_path / "figures" / "confusion.png"
    found = numbers(mistakes.plot_confusion(probabilities, labels, names, path, PROTOCOL))
    assert (found["split"], found["views"], found["step"], found["count"]) == (
        "test",
        "ten",
        7,
        200,
    )
    matrix = np.zeros((classes, classes), int)
    for row, label in zip(probabilities, labels, strict=True):
        matrix[label, row.argmax()] += 1
    assert found["confusion"] == matrix.tolist()
    assert found["class_error"][-1] is None  # without images
    assert found["class_error"][0] == pytest.approx(1 - matrix[0, 0] / matrix[0].sum())
    first = found["most_confused"][0]
    assert first["count"] == (matrix - np.diag(np.diag(matrix))).max()
    assert matrix[names.index(first["label"]), names.index(first["answer"])] == first["count"]


def test_calibration_is_written_bin_by_bin(tmp_path):
    probabilities, labels = answered(5)
    found = numbers(mistakes.plot_calibration(probabilities, labels, tmp_path / "c.png", PROTOCOL))
    assert len(found["bins"]) == 15 and sum(one["count"] for one in found["bins"]) == 200
    assert math.isclose(found["bins"][3]["low"], 0.2) and found["bins"][-1]["high"] == 1
    assert found["bins"][0]["accuracy"] is None  # of 5 classes the best has 0.2 or more
    full = [one for one in found["bins"] if one["count"]]
    gaps = [one["count"] * abs(one["accuracy"] - one["confidence"]) for one in full]
    assert found["expected_calibration_error"] == pytest.approx(sum(gaps) / 200)


@pytest.mark.parametrize("perfect", [False, True])
def test_the_sheet_names_the_most_confident_mistakes(tmp_path, perfect):
    probabilities, labels = answered(5)
    labels = probabilities.argmax(axis=1) if perfect else labels
    images = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), dtype=np.uint8)
    path = tmp_path / "hardest.png"
    mistakes.plot_hardest(probabilities, labels, images, "abcde", path, PROTOCOL)
    found = json.loads(path.with_suffix(".json").read_text())["hardest"]
    wrong = [i for i in range(200) if probabilities[i].argmax() != labels[i]]
    wrong.sort(key=lambda i: -probabilities[i].max())
    assert [one["index"] for one in found] == wrong[:24] and bool(wrong) != perfect
    for one in found:
        assert one["label"] == "abcde"[labels[one["index"]]] != one["answer"]
        assert one["probability"] == pytest.approx(probabilities[one["index"]].max())


def test_the_command_draws_all_three_of_a_weights_file(two_nets, tmp_path, capsys):
    mistakes.main(["--workdir", str(two_nets[0]), "--out", str(tmp_path)])
    paths = capsys.readouterr().out.splitlines()
    drawn = ["confusion", "calibration", "hardest"]
    assert paths == [str(tmp_path / f"{name}.png") for name in drawn]
    assert [numbers(tmp_path / f"{name}.png")["count"] for name in drawn] == [128] * 3
    assert (tmp_path / "predictions" / "test_center_7.npz").exists()


def test_a_figure_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "figures").write_text("a file")
    with pytest.raises(StorageError, match="cannot write"):
        mistakes.plot_calibration(*answered(5), tmp_path / "figures" / "c.png", PROTOCOL)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [2, 40])
@pytest.mark.parametrize("answer", [0, 1], ids=["right", "wrong"])
def test_one_image_is_drawn(tmp_path, classes, answer):
    """Also for a network that is never wrong, or always."""
    probabilities, labels = np.eye(classes, dtype=np.float32)[[answer]], np.zeros(1, np.int32)
    names, images = [f"class {i}" for i in range(classes)], np.zeros((1, 8, 8, 3), np.uint8)
    given = probabilities, labels
    found = numbers(mistakes.plot_confusion(*given, names, tmp_path / "a.png", PROTOCOL))
    assert found["class_error"] == [answer] + [None] * (classes - 1)
    found = numbers(mistakes.plot_calibration(*given, tmp_path / "b.png", PROTOCOL))
    assert found["expected_calibration_error"] == answer
    found = numbers(mistakes.plot_hardest(*given, images, names, tmp_path / "c.png", PROTOCOL))
    assert len(found["hardest"]) == answer
    kept = [report_evaluation.SavedPredictions(tmp_path, "test", "center", 7)]
    predictions.save(tmp_path, "test", "center", 7, predictions.Predictions(*given))
    for part in (report_evaluation.classes(kept, None), report_evaluation.calibration(kept)):
        assert "nan" not in str(part).lower()


def test_bars_have_their_numbers_and_classes_without_images_none(tmp_path):
    matrix, errors = np.array([[3, 1], [0, 0]]), np.array([0.25, np.nan])
    figure = mistakes._draw_matrix(matrix, errors, ["cat", "dog"])
    assert [text.get_text() for text in figure.axes[1].texts] == ["25", ""]


@pytest.mark.parametrize(("count", "columns"), [(1, 2), (3, 3), (8, 6)])
def test_the_sheet_of_mistakes_is_as_wide_as_they_are(count, columns):
    one = {"answer": "cat", "label": "dog", "probability": 0.9}
    figure = mistakes._draw_sheet(np.zeros((count, 4, 4, 3), np.uint8), [one] * count)
    assert figure.get_size_inches()[0] == pytest.approx(1.65 * columns)
