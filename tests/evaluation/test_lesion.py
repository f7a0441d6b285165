"""Errors without maps: measures against their definitions, masks against nets without the weights, and the command."""

import json

import numpy as np
import pytest

from alexnet_jax.analysis import lesion as command
from alexnet_jax.data import sources
from alexnet_jax.errors import ConfigError
from alexnet_jax.evaluation import lesion
from alexnet_jax.evaluation.lesion import Lesion
from alexnet_jax.inference import lesions, metrics, trained
from alexnet_jax.inference.network import Network


@pytest.fixture(scope="module")
def net(two_nets):
    return Network(trained.load(two_nets[0]))


@pytest.fixture(scope="module")
def test_split(net):
    config = net.trained.config
    return sources.open_dataset(config.data, config.seed).splits["test"]


@pytest.fixture(scope="module")
def conv2(net, test_split):
    """The outputs of conv2 for all test images, [128 h w 8]."""
    return net.features(test_split.images[np.arange(128)], "conv2")


def ranks_of(net, params, split):
    """The ranks of the labels with other parameters."""
    other = Network(net.trained._replace(params=net.trained.params | params))
    return metrics.rank(other.predict(split.images[np.arange(128)]), split.labels)


def without_rows(net, conv2, maps, fill=None):
    """Parameters of fc6 for which some maps of conv2 have no effect but that of `fill`, as part of the bias."""
    kernel, bias = (net.trained.params["fc6"][name].copy() for name in ("kernel", "bias"))
    by_map = kernel.reshape(*conv2.shape[1:], -1)
    if fill is not None:
        bias += (by_map[:, :, maps] * fill[maps][:, None]).sum(axis=(0, 1, 2))
    by_map[:, :, maps] = 0
    return {"fc6": {"kernel": kernel, "bias": bias}}


def test_removed_maps_have_no_weights_or_those_of_their_mean(net, test_split, conv2):
    means, counts = lesions.class_means(net, test_split.images, test_split.labels, "conv2", 10)
    fill = lesion.activity(means, counts).astype(np.float32)
    np.testing.assert_allclose(fill, conv2.mean(axis=(0, 1, 2)), rtol=1e-4)
    for value, by_hand in ((np.zeros(8, np.float32), None), (fill, fill)):
        some = [Lesion("", ((2,), (1, 5, 6)))]
        found = lesion.measure(net, test_split.images, test_split.labels, "conv2", some, value)
        assert list(found) == [(), (2,), (1, 5, 6)] and len(found[()]) == 128
        for maps, ranks in found.items():
            expected = ranks_of(net, without_rows(net, conv2, list(maps), by_hand), test_split)
            assert (ranks != expected).mean() < 0.02  # nearly equal logits
        assert (found[()] != found[1, 5, 6]).mean() > 0.1


def test_classes_are_those_that_are_predicted(net, test_split):
    classes = np.array([1, 4, 7])
    some = np.flatnonzero(np.isin(test_split.labels, classes))
    images, labels = test_split.images[some], np.searchsorted(classes, test_split.labels[some])
    found = lesion.measure(net, images, labels, "fc6", [], np.zeros(16, np.float32), classes)
    expected = metrics.rank(net.predict(images)[:, classes], labels)
    assert np.array_equal(found[()], expected)


def test_activity_and_selectivity_are_their_definitions(net, test_split, conv2):
    labels = test_split.labels
    means, counts = lesions.class_means(net, test_split.images, labels, "conv2", 12)
    assert counts.tolist() == np.bincount(labels, minlength=12).tolist()
    assert np.isnan(means[10:]).all()
    for class_ in (0, 7):
        expected = conv2[labels == class_].mean(axis=(0, 1, 2))
        np.testing.assert_allclose(means[class_], expected, rtol=1e-4)
    found = lesion.selectivity(means)
    for i in range(8):
        by_class = sorted(conv2[labels == c, ..., i].mean() for c in range(10))
        largest, others = by_class[-1], np.mean(by_class[:-1])
        assert found[i] == pytest.approx((largest - others) / (largest + others), rel=1e-3)


def test_selectivity_is_1_for_one_class_0_for_all_and_for_none():
    means = np.array([[1.0, 2.0, 0.0], [0.0, 2.0, 0.0], [np.nan] * 3, [0.0, 2.0, 0.0]])
    assert lesion.selectivity(means).tolist() == [1.0, 0.0, 0.0]
    assert lesion.selectivity(-means) is None and lesion.selectivity(means[:1]) is None


def test_random_sets_are_of_the_seed_and_contain_smaller_ones():
    few, many = (lesion.random_sets(50, count, 4, 7) for count in (5, 20))
    assert few == lesion.random_sets(50, 5, 4, 7) != lesion.random_sets(50, 5, 4, 8)
    for small, large in zip(few, many, strict=True):
        assert len(set(small)) == 5 and len(set(large)) == 20 and set(small) < set(large)
        assert list(large) == sorted(large) and max(large) < 50
    assert len(set(many)) == 4


def test_what_is_removed():
    assert lesion.of_each(3) == [Lesion(str(i), ((i,),)) for i in range(3)]
    [second] = lesion.of_towers(8, 2, [2], 3, 0)
    assert second.sets == ((4, 5, 6, 7),) and second.controls == lesion.random_sets(8, 4, 3, 0)
    [some] = lesion.of_maps(8, [6, 1, 6], 3, 0)
    assert some.title == "1, 6" and some.sets == ((1, 6),) and len(some.controls[0]) == 2
    order = np.array([5, 0, 7, 2, 1, 3, 4, 6])
    least, half = lesion.of_shares(8, [0.5, 0.01], order, 3, 0)
    assert least.sets == ((5,),) and half.sets == ((0, 2, 5, 7),)
    assert (least.title, half.title) == ("0.01", "0.5")
    [drawn] = lesion.of_shares(8, [0.5], None, 3, 0)
    assert drawn.sets == lesion.random_sets(8, 4, 3, 0) and drawn.controls == ()


def test_summaries_are_errors_and_their_differences():
    """10 images of class 0, 30 of class 1, 60 of class 2."""
    labels, place = np.repeat([0, 1, 2], [10, 30, 60]), np.arange(100)
    wrong = {
        (): place >= 80,
        (0,): (place < 8) | (place >= 80),
        (1,): place >= 80,
        (2,): place >= 70,
    }
    ranks = {maps: 1 + one for maps, one in wrong.items()}
    names = ["a", "b", "c", "d"]
    found = lesion.summarize(ranks, Lesion("0", ((0,),), ((1,), (2,), (1,))), labels, names)
    assert found["maps"] == [0] and found["count"] == 1 and "top5" not in found
    top1 = found["top1"]
    assert top1["error"]["value"] == pytest.approx(0.28)
    assert top1["change"]["value"] == pytest.approx(0.08)
    half = 1.96 * np.sqrt(0.08 * 0.92 / 100)  # paired: 8 images of 100 differ
    width = top1["change"]["high"] - top1["change"]["low"]
    assert width == pytest.approx(2 * half, rel=0.15)
    controls = top1["controls"]
    assert controls["errors"] == pytest.approx([0.2, 0.3, 0.2])
    assert controls["change"]["value"] == pytest.approx(0.1 / 3)
    assert controls["excess"]["value"] == pytest.approx(0.08 - 0.1 / 3)
    assert controls["p"] == pytest.approx((1 + 1) / (1 + 3))
    by_class = {one["class"]: one for one in found["classes"]}
    assert list(by_class) == ["a", "b", "c"] and by_class["b"]["images"] == 30
    assert by_class["a"]["error"]["value"] == pytest.approx(0.8)
    assert by_class["c"]["change"]["value"] == 0
    assert found["hurt_most"] == by_class["a"]
    several = lesion.summarize(ranks, Lesion("", ((0,), (2,))), labels, names, all_classes=False)
    assert several["maps"] is None and "classes" not in several
    assert several["top1"]["change"]["value"] == pytest.approx((0.08 + 0.1) / 2)
    assert lesion.intact(ranks, 4)["top1"]["value"] == pytest.approx(0.2)


def run(two_nets, folder, *arguments):
    command.main(["--workdir", str(two_nets[0]), "--out", str(folder), *arguments])
    return json.loads((folder / "lesion.json").read_text())


def test_the_command_removes_towers(two_nets, net, test_split, conv2, tmp_path, capsys):
    report = run(two_nets, tmp_path, "--layer", "conv2", "--tower", "1", "2", "--draws", "4")
    said = capsys.readouterr().out
    assert "maps of conv2 (8) set to 0" in said and said.strip().endswith("lesion.png")
    assert (tmp_path / "lesion.png").stat().st_size > 10_000
    assert report["kind"] == "tower" and report["count"] == 128 and report["split"] == "test"
    expected = metrics.summarize(net.predict(test_split.images[np.arange(128)]), test_split.labels)
    for top in ("top1", "top5"):
        assert report["intact"][top]["value"] == pytest.approx(expected[f"{top}_error"])
    for tower, one in enumerate(report["lesions"]):
        assert one["maps"] == list(range(4 * tower, 4 * tower + 4))
        ranks = ranks_of(net, without_rows(net, conv2, one["maps"]), test_split)
        assert one["top1"]["error"]["value"] == pytest.approx(np.mean(ranks > 1), abs=0.02)
        assert len(one["top1"]["controls"]["errors"]) == 4 and len(one["classes"]) == 10
        assert f"tower {tower + 1}" in said


def test_the_command_ranks_single_units(two_nets, tmp_path, capsys):
    report = run(two_nets, tmp_path, "--layer", "fc6", "--each", "--to", "mean", "--images", "50")
    said = capsys.readouterr().out
    assert "units of fc6 (16) set to their mean activation" in said and "the other 1 are" in said
    assert [one["title"] for one in report["lesions"]] == [str(i) for i in range(16)]
    assert report["count"] == 50 and set(report["correlations"]) == {"activity", "selectivity"}
    shown = [line for line in said.splitlines() if line.startswith("unit ")]
    changes = [one["top1"]["change"]["value"] for one in report["lesions"]]
    assert shown[0].startswith(f"unit {np.argmax(changes)} ")
    assert all("controls" not in one["top1"] and "hurt_most" in one for one in report["lesions"])


def test_the_command_removes_shares_in_an_order(two_nets, net, test_split, conv2, tmp_path, capsys):
    asked = ("--layer", "conv2", "--share", "0.25", "1", "--draws", "2", "--order")
    by_activity = np.argsort(-conv2.mean(axis=(0, 1, 2)))
    report = run(two_nets, tmp_path, *asked, "activity")
    assert report["lesions"][0]["maps"] == sorted(by_activity[:2])
    assert report["lesions"][1]["maps"] == list(range(8))
    assert "share 0.25" in capsys.readouterr().out
    report = run(two_nets, tmp_path, *asked, "activity", "--reverse")
    assert report["lesions"][0]["maps"] == sorted(by_activity[-2:])
    report = run(two_nets, tmp_path, *asked, "selectivity")
    means, _ = lesions.class_means(net, test_split.images, test_split.labels, "conv2", 10)
    assert report["lesions"][0]["maps"] == sorted(np.argsort(-lesion.selectivity(means))[:2])
    report = run(two_nets, tmp_path, *asked, "random", "--json")
    assert report["lesions"][0]["maps"] is None and "controls" not in report["lesions"][0]["top1"]
    nothing = report["lesions"][1]["top1"]["error"]  # one class for all images
    assert nothing["value"] == pytest.approx(0.9, abs=0.05)


def test_what_cannot_be_removed_is_refused(two_nets, tmp_path):
    cases = [
        (["--layer", "conv9", "--each"], "no features 'conv9'; it has conv1/linear"),
        (["--layer", "conv1"], "one of the arguments --each --tower --map --share is required"),
        (["--layer", "conv1", "--each", "--map", "1"], "not allowed with"),
        (["--layer", "conv1", "--map", "8", "--draws", "0"], "--map must be from 0 to 7; --draws must be at least 1"),
        (["--layer", "conv1", "--tower", "0"], "--tower must be from 1 to 2"),
        (["--layer", "fc7", "--tower", "1"], "fc7 is not divided into towers"),
        (["--layer", "conv1", "--share", "0"], "--share must be above 0 and at most 1"),
        (["--layer", "conv1", "--each", "--order", "activity"], "--order is for --share"),
        (["--layer", "conv1", "--share", "1", "--reverse"], "--reverse is for --order activity and"),
        (["--layer", "conv1/linear", "--share", "0.5", "--order", "selectivity"], "selectivity of conv1/linear is not"),
        (["--layer", "conv1", "--each", "--images", "129"], "--images must be from 1 to 128"),
    ]  # fmt: skip
    for arguments, says in cases:
        with pytest.raises(ConfigError, match=says):
            command.main(["--workdir", str(two_nets[0]), "--out", str(tmp_path / "o"), *arguments])
    assert not (tmp_path / "o").exists()
