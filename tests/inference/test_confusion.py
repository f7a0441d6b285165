import numpy as np
import pytest

from alexnet_jax.inference import metrics


@pytest.fixture(scope="module")
def answered():
    """Probabilities of 400 images in 7 classes, some of them tied, none of the last class."""
    rng = np.random.default_rng(3)
    probabilities = rng.dirichlet(np.full(7, 0.4), 400).round(1).astype(np.float32)
    return probabilities, rng.integers(0, 6, 400)


def literal_answer(row, label):
    """The class with the highest probability; in a tie the first that is not the label."""
    best = [k for k, p in enumerate(row) if p == max(row)]
    return best[0] if len(best) == 1 else next(k for k in best if k != label)


def test_confusion_is_a_literal_count(answered):
    probabilities, labels = answered
    expected = np.zeros((7, 7), int)
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        expected[label, literal_answer(row, label)] += 1
    matrix = metrics.confusion(probabilities, labels)
    assert np.array_equal(matrix, expected) and matrix.sum() == 400
    error = metrics.summarize(probabilities, labels)["top1_error"]
    assert np.trace(matrix) == round(400 * (1 - error))


def test_errors_of_each_class(answered):
    probabilities, labels = answered
    found = metrics.per_class_errors(probabilities, labels)
    for label in range(6):
        rows = probabilities[labels == label].tolist()
        wrong = [literal_answer(row, label) != label for row in rows]
        assert found[label] == pytest.approx(sum(wrong) / len(wrong))
    assert np.isnan(found[6])


def test_the_most_confused_classes_are_the_largest_counts(answered):
    matrix = metrics.confusion(*answered)
    found = metrics.most_confused(matrix, 5)
    off = sorted((matrix[a, b] for a in range(7) for b in range(7) if a != b), reverse=True)
    assert [one.images for one in found] == off[:5]
    assert all(matrix[one.label, one.predicted] == one.images for one in found)
    assert all(one.label != one.predicted for one in found)
    assert metrics.most_confused(np.eye(4, dtype=int) * 9) == []


def test_the_hardest_are_the_most_confident_mistakes(answered):
    probabilities, labels = answered
    found = metrics.hardest(probabilities, labels, 12)
    mistakes = []
    for i, (row, label) in enumerate(zip(probabilities.tolist(), labels.tolist(), strict=True)):
        if literal_answer(row, label) != label:
            mistakes.append((-max(row), i))
    assert found.tolist() == [i for _, i in sorted(mistakes)[:12]]
    assert len(metrics.hardest(np.eye(7)[labels], labels)) == 0
