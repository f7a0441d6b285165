import numpy as np
import pytest

from alexnet_jax.inference import metrics as errors


def test_top1_and_top5_match_a_literal_count():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(12), size=101)
    labels = rng.integers(0, 12, 101)
    order = np.argsort(-probabilities, axis=1)
    summary = errors.summarize(probabilities, labels)
    assert summary["count"] == 101
    assert summary["top1_error"] == sum(o[0] != y for o, y in zip(order, labels, strict=True)) / 101
    assert (
        summary["top5_error"]
        == sum(y not in o[:5] for o, y in zip(order, labels, strict=True)) / 101
    )
    assert summary["nll"] == pytest.approx(-np.mean(np.log(probabilities[np.arange(101), labels])))


def test_a_tie_is_an_error():
    assert errors.summarize(np.full((4, 10), 0.1), np.arange(4))["top1_error"] == 1.0


def test_top5_is_absent_below_6_classes():
    assert "top5_error" not in errors.summarize(np.eye(5), np.arange(5))


def test_probability_zero_gives_a_finite_nll():
    assert np.isfinite(errors.summarize(np.eye(6), np.array([1, 1, 1, 1, 1, 1]))["nll"])


def test_what_is_not_a_number_is_wrong():
    probabilities = np.array([[0.7, 0.2, 0.1], [np.nan, np.nan, np.nan]])
    assert errors.rank(probabilities, np.array([1, 0])).tolist() == [2, 3]
    assert errors.summarize(probabilities, np.array([0, 0]))["top1_error"] == 0.5


def test_sets_of_labels_match_a_literal_count():
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(12), size=200)
    sets = rng.random((200, 12)) < 0.2
    sets[np.arange(200), rng.integers(0, 12, 200)] = True
    order = np.argsort(-probabilities, axis=1)
    summary = errors.summarize(probabilities, sets)
    for top in (1, 5):
        wrong = [not right[o[:top]].any() for o, right in zip(order, sets, strict=True)]
        assert summary[f"top{top}_error"] == np.mean(wrong)
    assert set(summary) == {"count", "top1_error", "top5_error"}
    predicted = errors.predicted_classes(probabilities, sets)
    assert np.array_equal(predicted, order[:, 0])
    confidence = probabilities.max(axis=1)
    found = errors.reliability(probabilities, sets, bins=1)
    assert found.confidence[0] == pytest.approx(confidence.mean())
    assert found.accuracy[0] == 1 - summary["top1_error"]
    assert len(errors.hardest(probabilities, sets, 200)) == round(200 * summary["top1_error"])


def test_sets_of_one_label_are_labels():
    rng = np.random.default_rng(2)
    probabilities = np.round(rng.dirichlet(np.ones(8), size=300), 1)  # many ties
    probabilities[0] = np.nan
    labels = rng.integers(0, 8, 300)
    sets = labels[:, None] == np.arange(8)
    for of in (errors.rank, errors.predicted_classes, errors.hardest):
        assert np.array_equal(of(probabilities, labels), of(probabilities, sets))


def test_a_tie_with_another_right_class_is_no_error():
    probabilities = np.array([[0.4, 0.4, 0.2]])
    assert errors.rank(probabilities, np.array([[True, True, False]])).tolist() == [1]
    assert errors.rank(probabilities, np.array([[True, False, True]])).tolist() == [2]
    assert errors.predicted_classes(probabilities, np.array([[True, False, True]])).tolist() == [1]


def test_a_confusion_matrix_of_sets_is_refused():
    for of in (errors.confusion, errors.per_class_errors):
        with pytest.raises(ValueError, match="one label for each image"):
            of(np.eye(3), np.eye(3, dtype=bool))
