import json
import math

import numpy as np
import pytest

from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.evaluation import compare, ensemble, tables
from alexnet_jax.inference import metrics, predictions


def answers(only_first: int, only_second: int, both: int, neither: int):
    """(first, second) bool [n], with so many images of each kind."""
    kinds = ((1, 0, only_first), (0, 1, only_second), (1, 1, both), (0, 0, neither))
    return (
        np.repeat([k[0] for k in kinds], [k[2] for k in kinds]).astype(bool),
        np.repeat([k[1] for k in kinds], [k[2] for k in kinds]).astype(bool),
    )


def test_mcnemar_looks_at_the_images_that_divide_the_nets():
    # Sign test of 5 against 15: 2 * sum of C(20, k) for k <= 5, over 2^20.
    assert compare.mcnemar(*answers(5, 15, 100, 880)) == (
        5,
        15,
        pytest.approx(0.04138947, rel=1e-6),
    )
    assert compare.mcnemar(*answers(5, 15, 0, 0)).p == compare.mcnemar(*answers(5, 15, 9, 999)).p
    assert compare.mcnemar(*answers(0, 0, 10, 10)).p == 1


def test_several_seeds_give_twice_the_mean_p():
    one, other = answers(5, 15, 100, 880)
    assert compare.mcnemar_of_seeds(one[None], other[None]) == pytest.approx(0.04138947)
    both = compare.mcnemar_of_seeds(np.array([one, one]), np.array([other, one]))
    assert both == 1.0
    assert compare.mcnemar_of_seeds(np.array([one] * 2), np.array([other] * 2)) == pytest.approx(
        2 * 0.04138947
    )


def test_the_bootstrap_of_one_net_each_has_the_width_of_the_paired_error():
    one, other = answers(300, 400, 500, 8800)
    found = compare.bootstrap(one, other)
    assert found.mean == pytest.approx(0.01)
    d = other.astype(float) - one
    half = 1.96 * d.std() / np.sqrt(len(d))
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert found == compare.bootstrap(one, other)  # no chance in it


def test_the_bootstrap_knows_of_seeds():
    """Nets that differ much by their seed widen the interval; images alone would not tell."""
    draw = np.random.default_rng(0)
    steady = np.array([draw.random(1000) < 0.3 for _ in range(4)])
    restless = np.array([draw.random(1000) < rate for rate in (0.2, 0.26, 0.34, 0.4)])
    narrow = compare.bootstrap(steady, steady[::-1], resamples=500)
    wide = compare.bootstrap(steady, restless, resamples=500)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def predicted(wrong, classes: int = 7) -> predictions.Predictions:
    """Of a net that is wrong, and sure, where `wrong` says so; all labels are 0."""
    labels = np.zeros(len(wrong), np.int32)
    return predictions.Predictions(
        np.eye(classes, dtype=np.float32)[np.asarray(wrong, int)], labels
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize(
    ("first", "second"),
    [([0], [0]), ([1], [1]), ([0], [1]), ([0, 0], [0, 0]), ([1, 1], [1, 1]), ([0, 1], [0, 1]), ([0, 0], [1, 1])],
    ids=str,
)  # fmt: skip
def test_few_images_and_equal_answers_are_compared(first, second, classes):
    """Finite numbers, of which one image bounds nothing; of one net each and of two."""
    one, other = predicted(first, classes), predicted(second, classes)
    for nets in (1, 2):
        found = compare.compare([one] * nets, [other] * nets)
        report = {"split": "test", "views": "center"} | found
        json.dumps(report, allow_nan=False)
        top1 = found["top1"]
        assert top1["difference"] == np.mean(second) - np.mean(first)
        assert top1["low"] <= top1["difference"] <= top1["high"]
        assert len(first) > 1 or (top1["low"], top1["high"]) == (-1, 1)
        assert first != second or top1["p"] == 1
        assert f"{len(first)} images" in compare._text(report, ["net"] * 2 * nets)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wrong", [[0], [1], [0, 0], [1, 1]], ids=str)
def test_everything_else_that_is_measured_of_few_images_is_finite(wrong):
    one = predicted(wrong)
    alike = ensemble.ensemble([one.probabilities] * 2, one.labels)
    table = tables.tables([(one.probabilities, False), (one.probabilities, True)], one.labels)
    error = metrics.expected_calibration_error(*one)
    matrix = metrics.confusion(*one)
    json.dumps([alike, table, error, matrix.tolist()], allow_nan=False)
    assert error == np.mean(wrong)
    assert np.isnan(metrics.per_class_errors(*one)[1:]).all()
    assert len(metrics.most_confused(matrix)) == any(wrong)
    assert len(metrics.hardest(*one)) == sum(wrong)
    if len(wrong) == 1:
        with pytest.raises(DataError, match="two images or more"):
            ensemble.ensemble([one.probabilities] * 2, one.labels, search=True)


def test_holm_as_in_his_example():
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert compare.holm([]) == []
    assert compare.holm([0.9, 0.8]) == [1.0, 1.0]


def test_two_groups_of_nets_are_compared_by_their_errors():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 300)
    nets = [predictions.Predictions(rng.dirichlet(np.ones(7), 300), labels) for _ in range(4)]
    found = compare.compare(nets[:2], nets[2:])
    for top in (1, 5):
        errors = []
        for net in nets:
            order = np.argsort(-net.probabilities, axis=1)[:, :top]
            errors.append(np.mean([y not in row for y, row in zip(labels, order, strict=True)]))
        difference = (errors[2] + errors[3]) / 2 - (errors[0] + errors[1]) / 2
        assert found[f"top{top}"]["difference"] == pytest.approx(difference, abs=1e-7)
        assert found[f"top{top}"]["low"] < difference < found[f"top{top}"]["high"]
        assert [one[f"top{top}_error"] for one in found["errors"]] == pytest.approx(errors)
    assert compare.compare(nets[:1], nets[1:])["top1"]["p"] is None


def test_the_command_compares_two_weights_files(two_nets, capsys):
    one, other = map(str, two_nets)
    compare.main([one, other, "--json"])
    report = json.loads(capsys.readouterr().out)
    wrong = [error["top1_error"] * 128 for error in report["errors"]]
    top1 = report["top1"]
    assert top1["only_second"] - top1["only_first"] == round(wrong[1] - wrong[0])
    compare.main(["--first", one, "--second", other])
    said = capsys.readouterr().out
    assert "test, center, 128 images" in said and f"McNemar p = {top1['p']:.2g}" in said


@pytest.mark.parametrize(
    "arguments", [["A"], ["A", "B", "C"], ["A", "B", "--first", "C"], ["--first", "A"], []]
)
def test_what_is_neither_two_nets_nor_two_groups_is_refused(arguments):
    with pytest.raises(ConfigError, match="give two nets"):
        compare.main(arguments)


def test_intervals_of_shares():
    # 5 of 5: the lower limit is the share p of which p^5 = 0.025.
    assert compare.proportion_interval(5, 5) == pytest.approx((0.025**0.2, 1))
    assert compare.proportion_interval(0, 5) == pytest.approx((0, 1 - 0.025**0.2))
    low, high = compare.proportion_interval(2, 7)
    tails = [
        sum(math.comb(7, k) * p**k * (1 - p) ** (7 - k) for k in ks)
        for p, ks in ((low, range(2, 8)), (high, range(3)))
    ]
    assert tails == pytest.approx([0.025, 0.025])
