import dataclasses
import json
import os

import numpy as np
import pytest
from PIL import Image

import alexnet_jax
from alexnet_jax.data import sources
from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.evaluation import evaluate, target
from alexnet_jax.evaluation.target import EvalTarget, obtain_all, open_all
from alexnet_jax.inference import predictions


@pytest.fixture(scope="module")
def dataset(two_nets):
    config = alexnet_jax.load(two_nets[0]).trained.config
    return sources.open_dataset(config.data, config.seed)


@pytest.fixture(scope="module")
def report(two_nets, tmp_path_factory):
    """Of the first net on its test images, and where the predictions are."""
    out = tmp_path_factory.mktemp("out")
    return evaluate.evaluate(EvalTarget(two_nets[0], out=out), "test", "center"), out


def test_a_weights_file_is_evaluated_as_the_network_answers(two_nets, dataset, report):
    net, (found, out) = alexnet_jax.load(two_nets[0]), report
    images, labels, _ = dataset.splits["test"]
    expected = net.predict(images[np.arange(len(labels))])
    wrong = [max(row) != row[label] for row, label in zip(expected, labels, strict=True)]
    assert len(set(expected.argmax(axis=1))) > 2
    assert found["splits"]["test"]["center"]["top1_error"] == pytest.approx(np.mean(wrong))
    assert found["splits"]["test"]["center"]["count"] == 128 and found["step"] == 7
    kept = predictions.load(out, "test", "center", 7)
    np.testing.assert_allclose(kept.probabilities, expected, rtol=1e-4, atol=1e-7)


def test_other_data_go_by_the_names_of_the_classes(two_nets, dataset, report, tmp_path):
    images, labels, _ = dataset.splits["test"]
    order = np.random.default_rng(0).permutation(10)
    numbers = np.argsort(order)[labels]  # class `order[k]` of the net is class k there
    names = np.array(dataset.class_names)[order]
    file = tmp_path / "other.npz"
    arrays = {"train_images": images[np.arange(128)], "train_labels": numbers}
    np.savez(file, **arrays, class_names=names)
    other = EvalTarget(two_nets[0], source="arrays", data_path=str(file), out=tmp_path)
    found = evaluate.evaluate(other, "train", "center")
    assert found["data"] == f"arrays at {file}"
    assert found["splits"]["train"]["center"] == report[0]["splits"]["test"]["center"]

    with pytest.raises(DataError, match="neither val nor test"):
        evaluate.evaluate(other)
    np.savez(file, **arrays, class_names=[*names[:9], "wolf"])
    with pytest.raises(
        DataError, match=r"1 of 10 classes of arrays at .* not known to the net: wolf; it"
    ):
        evaluate.evaluate(EvalTarget(two_nets[0], None, "arrays", str(file), tmp_path))


@pytest.fixture
def dark_and_bright(dataset, tmp_path):
    """Two folders with equal names, sizes and times of files, and with the classes of the nets."""
    draw, folders = np.random.default_rng(0), (tmp_path / "dark", tmp_path / "bright")
    for folder, (low, high) in zip(folders, ((0, 61), (190, 256)), strict=True):
        for split in ("train", "test"):
            for name in dataset.class_names:
                path = folder / split / name / "0.bmp"
                path.parent.mkdir(parents=True)
                pixels = draw.integers(low, high, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
                os.utime(path, (1e9, 1e9))
    return folders


def test_each_folder_has_its_own_errors(two_nets, dark_and_bright, tmp_path):
    net = alexnet_jax.load(two_nets[0])
    for number, folder in enumerate(dark_and_bright):
        other = EvalTarget(two_nets[0], None, "folder", str(folder), tmp_path / str(number))
        found = evaluate.evaluate(other, "test", "center")
        names = sorted(net.class_names)
        paths = [folder / "test" / name / "0.bmp" for name in names]
        expected = net.predict(np.stack([np.asarray(Image.open(path)) for path in paths]))
        answers = [net.class_names[label] for label in expected.argmax(axis=1)]
        wrong = [answer != name for answer, name in zip(answers, names, strict=True)]
        assert found["splits"]["test"]["center"]["top1_error"] == pytest.approx(np.mean(wrong))
        kept = predictions.load(tmp_path / str(number), "test", "center", 7)
        np.testing.assert_allclose(kept.probabilities, expected, rtol=1e-4, atol=1e-6)


def test_answers_to_other_images_are_not_compared(two_nets, dark_and_bright, monkeypatch):
    found = [
        dataclasses.replace(alexnet_jax.load(two_nets[0]).trained.config.data, source="folder",
                            path=str(folder), validation=0.0)
        for folder in dark_and_bright
    ]  # fmt: skip
    specs, plain = iter(found), EvalTarget.__init__

    def of_folder(self, path, **options):
        plain(self, path, **options)
        self._data_spec = next(specs)

    monkeypatch.setattr(EvalTarget, "__init__", of_folder)
    with pytest.raises(DataError, match="the files of their test differ"):
        obtain_all(open_all(two_nets), "test", "center")


def test_what_cannot_be_evaluated_says_so(two_nets, tmp_path):
    net = str(two_nets[0])
    with pytest.raises(ConfigError, match="--out DIR"):
        evaluate.main(["--workdir", net, "--split", "test"])
    with pytest.raises(DataError, match=r"no folder /none.*; --data-path PATH says where"):
        run = EvalTarget(net).trained
        gone = dataclasses.replace(run.config.data, source="folder", path="/none")
        run = run._replace(config=dataclasses.replace(run.config, data=gone))
        target.open_dataset(run, gone)
    with pytest.raises(DataError, match="no split 'tset'; it has train, test, val"):
        evaluate.main(["--workdir", net, "--split", "tset", "--out", str(tmp_path)])
    with pytest.raises(ConfigError, match="--source store needs --data-path"):
        evaluate.main(["--workdir", net, "--source", "store", "--out", str(tmp_path)])
    with pytest.raises(ConfigError, match="invalid choice: 'centre'"):
        evaluate.main(["--workdir", net, "--views", "centre"])
    assert not list(tmp_path.iterdir())


def test_several_nets_answer_the_same_images(two_nets):
    targets = open_all(two_nets)
    split, (first, second) = obtain_all(targets, None, "center")
    assert split == "test"
    assert np.array_equal(first.labels, second.labels)
    assert not np.allclose(first.probabilities, second.probabilities)
    assert [target.trained.config.seed for target in targets] == [0, 1]
    with pytest.raises(DataError, match="predict different images: the labels of their val differ"):
        obtain_all(open_all(two_nets), "val", "center")  # each seed draws its own


def test_the_report_is_a_table_or_json(two_nets, report, tmp_path, capsys):
    arguments = ["--workdir", str(two_nets[0]), "--split", "test", "--views", "center"]
    arguments += ["--out", str(tmp_path)]
    evaluate.main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found == report[0] | {"predictions": str(tmp_path / "predictions")}
    evaluate.main(arguments)
    said = capsys.readouterr().out
    error = report[0]["splits"]["test"]["center"]["top1_error"]
    assert "step 7 of tiny, on synthetic" in said and f"{error:.2%}" in said
    assert "40.66 / 18.21" not in said and "top-5 error" in said
    all_of_imagenet = found | {"classes": {"predicted": 1000, "of": 1000, "matched_by": "name"}}
    said = evaluate._text(all_of_imagenet)
    assert "40.66 / 18.21" in said and "not comparable" in said
    for errors in found["splits"]["test"].values():
        del errors["top5_error"]  # as of five classes
    assert "top-5" not in evaluate._text(found)
