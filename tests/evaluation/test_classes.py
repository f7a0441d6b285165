"""Datasets with some of the net's classes, and with several right labels for each image."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import alexnet_jax
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline.image_files import ImageFiles
from alexnet_jax.data.pipeline.splits import Split, take
from alexnet_jax.data.sources import arrays as arrays_source
from alexnet_jax.errors import DataError
from alexnet_jax.evaluation import classes, compare, evaluate
from alexnet_jax.evaluation.target import EvalTarget, open_dataset
from alexnet_jax.inference import metrics, predict_step, predictions, trained


@pytest.fixture(scope="module")
def test_split(two_nets):
    config = alexnet_jax.load(two_nets[0]).trained.config
    return sources.open_dataset(config.data, config.seed).splits["test"]


@pytest.fixture(scope="module")
def subset(two_nets, test_split, tmp_path_factory):
    """The test images of seven classes, numbered in another order, and the numbers of these in the net."""
    names = alexnet_jax.load(two_nets[0]).class_names
    numbers = np.array([8, 2, 5, 9, 0, 3, 6])
    kept = np.flatnonzero(np.isin(test_split.labels, numbers))
    labels = np.array([numbers.tolist().index(i) for i in test_split.labels[kept]])
    images, file = test_split.images[kept], tmp_path_factory.mktemp("subset") / "some.npz"
    arrays = {"train_images": images[:7], "train_labels": labels[:7], "test_images": images}
    np.savez(file, **arrays, test_labels=labels, class_names=np.array(names)[numbers])
    return file, images, test_split.labels[kept], np.sort(numbers)


def target_of(path, file, out, **options) -> EvalTarget:
    return EvalTarget(path, source="arrays", data_path=str(file), out=out, **options)


def test_only_the_classes_of_the_images_are_predicted(two_nets, subset, tmp_path):
    file, images, labels, numbers = subset
    everything = alexnet_jax.load(two_nets[0]).predict(images)
    expected = everything[:, numbers] / everything[:, numbers].sum(axis=1, keepdims=True)
    target = target_of(two_nets[0], file, tmp_path)
    report = evaluate.evaluate(target, "test", "center")
    kept = predictions.load(tmp_path, "test", "center", 7)
    np.testing.assert_allclose(kept.probabilities, expected, rtol=1e-4, atol=1e-7)
    assert np.array_equal(numbers[kept.labels], labels)
    assert report["classes"] == {"predicted": 7, "of": 10, "matched_by": "name"}
    found = report["splits"]["test"]["center"]
    wrong = numbers[expected.argmax(axis=1)] != labels
    assert found["top1_error"] == pytest.approx(wrong.mean()) and 0 < wrong.mean() < 1
    assert found["calibration_error"] == pytest.approx(
        metrics.expected_calibration_error(expected, np.searchsorted(numbers, labels)), abs=1e-6
    )
    assert metrics.confusion(*kept).shape == (7, 7)
    assert target.class_names == tuple(target.trained.class_names[i] for i in numbers)
    assert "among the 7 classes of these images, of the 10 of the net" in evaluate._text(report)


def test_all_classes_can_be_predicted(two_nets, subset, tmp_path):
    file, images, labels, _ = subset
    everything = alexnet_jax.load(two_nets[0]).predict(images)
    target = target_of(two_nets[0], file, tmp_path, classes="all")
    report = evaluate.evaluate(target, "test", "center")
    assert report["classes"]["predicted"] == 10 and len(target.class_names) == 10
    error = report["splits"]["test"]["center"]["top1_error"]
    assert error == pytest.approx((everything.argmax(axis=1) != labels).mean())
    assert "--classes all" not in evaluate._text(report)


def test_top5_needs_six_classes_among_those_of_the_images(two_nets, test_split, tmp_path, capsys):
    names = alexnet_jax.load(two_nets[0]).class_names
    kept = np.flatnonzero(test_split.labels < 5)
    arrays = {"train_images": test_split.images[kept], "train_labels": test_split.labels[kept]}
    np.savez(tmp_path / "five.npz", **arrays, class_names=np.array(names[:5]))
    asked = ["--workdir", str(two_nets[0]), "--source", "arrays", "--split", "train", "--views", "center"]  # fmt: skip
    asked += ["--data-path", str(tmp_path / "five.npz"), "--out", str(tmp_path)]
    evaluate.main(asked)
    assert "top-5" not in capsys.readouterr().out
    evaluate.main([*asked, "--classes", "all"])
    assert "top-5" in capsys.readouterr().out


def test_the_softmax_of_each_crop_is_over_the_chosen_classes():
    logits = np.random.default_rng(0).normal(0, 2, (6, 5)).astype(np.float32)

    class Net:
        def apply(self, variables, crops, train, edit):
            return jnp.asarray(logits), None

    chosen = np.array([0, 3, 4])
    crops = np.zeros((2, 3, 4, 4, 3), np.float32)
    found = predict_step.mean_probabilities(Net(), {}, crops, chosen)
    powers = np.exp(logits[:, chosen])
    each = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, each.reshape(2, 3, 3).mean(axis=1), rtol=1e-5)


def test_classes_match_by_name_synset_or_index():
    plain = ("n01440764", "n01443537", "n01484850")
    described = (
        "n01440764 tench, Tinca tinca",
        "n01443537 goldfish",
        "n01484850 great white shark",
    )
    cases = [
        (plain[::-1], plain, [2, 1, 0], "name"),
        (plain[1:], described, [1, 2], "synset"),
        (("0", "10", "2"), tuple(map(str, range(11))), [0, 10, 2], "name"),
        (("0", "1", "10", "2"), [f"class {i}" for i in range(11)], [0, 1, 10, 2], "index"),
    ]
    for names, known, numbers, by in cases:
        found = classes.match(names, known, "there")
        assert found.numbers.tolist() == numbers and found.by == by


def test_unknown_classes_are_named_up_to_a_number():
    known = [f"class {i}" for i in range(10)]
    with pytest.raises(DataError, match=r"2 of 3 classes of there .*net: fox, wolf; it knows"):
        classes.match(("wolf", "class 3", "fox"), known, "there")
    many = [f"other {i:03}" for i in range(500)]
    with pytest.raises(DataError, match="other 019 and 480 more"):
        classes.match(many, known, "there")
    with pytest.raises(DataError, match="are not known to the net: 10, 9"):
        classes.match(("9", "10"), known, "there")
    with pytest.raises(DataError, match="the classes 1, 01 are the same class of the net, class 1"):
        classes.match(("1", "01"), known, "there")


def test_folders_named_by_class_numbers(two_nets, test_split, tmp_path, caplog):
    """ImageNet-V2 has such folders; a run that held out images itself holds out none of these."""
    for i in range(9):
        (tmp_path / "v2" / str(i)).mkdir(parents=True)
        for n in np.flatnonzero(test_split.labels == i)[:2]:
            Image.fromarray(test_split.images[[n]][0]).save(tmp_path / "v2" / str(i) / f"{n}.png")
    target = EvalTarget(two_nets[0], None, "folder", str(tmp_path / "v2"), tmp_path / "out")
    report = evaluate.evaluate(target, "train", "center")
    assert report["classes"] == {"predicted": 9, "of": 10, "matched_by": "index"}
    assert report["splits"]["train"]["center"]["count"] == 18
    first = target.trained.class_names[0]
    assert f"taken for the class numbers of the net, of which 0 is {first}" in caplog.text


def labelled(names, labels) -> Split:
    """A split of files with these names, which are not read."""
    images = ImageFiles(lambda i: (None, None), len(names), 8, threads=1, identity=None, paths=names)  # fmt: skip
    return Split(images, np.array(labels, np.int32))


def written(path, content):
    path.write_text(json.dumps(content))
    return path


def test_label_sets_have_the_order_of_the_file_names(tmp_path):
    file = written(tmp_path / "real.json", [[0], [1, 2], [], [2]])
    found = classes.read_label_sets(file, labelled(["x/a", "x/d", "y/b", "y/c"], [0, 2, 1, 0]), "abc")  # fmt: skip
    assert found.astype(int).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 1], [0, 0, 0]]
    same_names = classes.read_label_sets(file, labelled(["x/0", "x/1", "y/0", "y/1"], [0, 1, 0, 2]), "abc")  # fmt: skip
    assert same_names.astype(int).tolist() == [[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]]
    arrays = Split(np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 0, 2]))
    assert np.array_equal(classes.read_label_sets(file, arrays, "abc"), same_names)


def test_label_sets_of_some_validation_images(tmp_path):
    file = written(tmp_path / "real.json", [[0], [1, 2], [], [2]])
    names = [f"n0/ILSVRC2012_val_{i:08}.JPEG" for i in (4, 2, 1)]
    split = take(labelled(names, [2, 1, 1]), np.array([0, 1]))
    found = classes.read_label_sets(file, split, "abc")
    assert found.astype(int).tolist() == [[0, 0, 1], [0, 1, 1]]
    with pytest.raises(DataError, match="labels of 4 images, which are not the 1 to evaluate"):
        classes.read_label_sets(file, labelled(["ILSVRC2012_val_00000005.JPEG"], [0]), "abc")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([[0], [1]], "labels of 2 images, which are not the 3"),
        ([[0], [1], [7, -1]], "not from 0 to 2: -1, 7"),
        ([[1], [2], [0]], "only 0.0% of them have their own class"),
        ([[], [], []], "no label for any"),
        ([[0], [1], 2], r"it\[2\] is 2, not a list"),
        ({"a": [0]}, "not a list"),
    ],
)
def test_label_sets_that_do_not_fit_are_refused(tmp_path, content, says):
    file = written(tmp_path / "real.json", content)
    with pytest.raises(DataError, match=says):
        classes.read_label_sets(file, labelled(["a", "b", "c"], [0, 1, 2]), "abc")
    with pytest.raises(DataError, match="there is no file"):
        classes.read_label_sets(tmp_path / "none.json", labelled(["a"], [0]), "abc")


def test_a_prediction_is_right_if_it_is_any_of_the_labels(two_nets, subset, tmp_path, capsys):
    file, images, labels, numbers = subset
    rng = np.random.default_rng(3)
    sets = [sorted({int(label), *rng.integers(0, 10, 2).tolist()}) for label in labels]
    sets[5] = []
    real = written(tmp_path / "real.json", sets)
    asked = ["--source", "arrays", "--data-path", str(file), "--out", str(tmp_path), "--split", "test"]  # fmt: skip
    asked += ["--workdir", str(two_nets[0]), "--views", "center", "--labels", str(real)]
    evaluate.main([*asked, "--json"])
    report = json.loads(capsys.readouterr().out)
    found = report["splits"]["test"]["center"]
    everything = alexnet_jax.load(two_nets[0]).predict(images)
    predicted = numbers[everything[:, numbers].argmax(axis=1)]
    wrong = [p not in right for p, right in zip(predicted, sets, strict=True) if right]
    assert found["top1_error"] == pytest.approx(np.mean(wrong))
    assert found["count"] == len(labels) - 1 and found["not_counted"] == 1
    assert "nll" not in found and report["undefined"] == ["nll", "confusion", "class_error"]
    assert report["labels"] == str(real)
    # The file keeps the label of each image, for commands that need one.
    kept = predictions.load(tmp_path, "test", "center", 7)
    assert np.array_equal(numbers[kept.labels], labels)
    evaluate.main(asked)
    said = capsys.readouterr().out
    assert "any label of the image" in said and "NLL, confusion" in said and "  NLL" not in said


def test_sets_of_labels_are_read_once(two_nets, test_split, tmp_path, monkeypatch):
    real = written(tmp_path / "real.json", [[int(label)] for label in test_split.labels])
    files, read = [], classes.read_label_sets
    monkeypatch.setattr(classes, "read_label_sets", lambda *a: files.append(a[0]) or read(*a))
    target = EvalTarget(two_nets[0], out=tmp_path, labels=real)
    center, ten = (target.obtain("test", view) for view in ("center", "ten"))
    assert files == [real] and np.array_equal(center.labels, ten.labels)


def test_nets_are_compared_with_sets_of_labels(two_nets, test_split, tmp_path, capsys):
    sets = [[int(label), (int(label) + 1) % 10] for label in test_split.labels]
    real = written(tmp_path / "real.json", sets)
    compare.main([*map(str, two_nets), "--labels", str(real), "--split", "test", "--json"])
    report = json.loads(capsys.readouterr().out)
    for path, errors in zip(two_nets, report["errors"], strict=True):
        predicted = alexnet_jax.load(path).predict(test_split.images[np.arange(128)]).argmax(axis=1)
        wrong = [p not in right for p, right in zip(predicted, sets, strict=True)]
        assert errors["top1_error"] == pytest.approx(np.mean(wrong))
    assert report["labels"] == str(real) and report["count"] == 128
    compare.main([*map(str, two_nets), "--labels", str(real), "--split", "test"])
    said = capsys.readouterr().out
    assert "any label of the image" in said and "McNemar" in said


def test_saved_predictions_of_other_labels_are_refused(two_nets, test_split, tmp_path, monkeypatch):
    """The images of the run may have changed since; sets of labels would be those of other images."""
    real = written(tmp_path / "real.json", [[int(label)] for label in test_split.labels])
    target = EvalTarget(two_nets[0], labels=real)
    target.path = tmp_path / "run"
    target.path.mkdir()
    saved = predictions.Predictions(np.full((127, 10), 0.1, np.float32), test_split.labels[:127])
    predictions.save(target.path, "test", "center", target.trained.step, saved)
    with pytest.raises(DataError, match="has predictions of other images"):
        target.obtain("test", "center")


def test_nothing_is_held_out_from_images_of_some_classes(two_nets, subset, monkeypatch):
    """A run that held out images of its own does not do so with others."""
    net = trained.load(two_nets[0])
    assert net.config.data.validation > 0
    target = EvalTarget(two_nets[0], source="arrays", data_path=str(subset[0]))
    assert sorted(target.dataset.splits) == ["test", "train"]
    data = dataclasses.replace(net.config.data, source="arrays", path=str(subset[0]))
    opened, load = [], arrays_source.load
    monkeypatch.setattr(arrays_source, "load", lambda spec: opened.append(spec) or load(spec))
    assert sorted(open_dataset(net, data).splits) == ["test", "train"]
    assert len(opened) == 1
