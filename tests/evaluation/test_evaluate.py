import dataclasses

import jax
import numpy as np
import pytest

from alexnet_jax import config
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import statistics
from alexnet_jax.data.pipeline.splits import Split
from alexnet_jax.inference import metrics as errors
from alexnet_jax.inference import predict_step, predictions
from alexnet_jax.model import mesh as parallel
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.train import state


@pytest.mark.fault("F33")
@pytest.mark.parametrize("batch_size", [1, 7, 64, 101, 128])
def test_every_image_is_counted_exactly_once_whatever_the_batch(batch_size):
    images = np.arange(101, dtype=np.uint8).reshape(101, 1, 1, 1).repeat(3, axis=3)
    split = Split(images, np.zeros(101, np.int32))

    def predict(images, indices):
        assert len(indices) == batch_size
        return images[indices][:, 0, 0, :2].astype(np.float32)

    probabilities = predictions.predict_split(predict, split, batch_size)
    assert np.array_equal(probabilities[:, 0], np.arange(101))


@pytest.fixture(scope="module")
def network():
    """The tiny net with weights large enough that its predictions differ."""
    spec = config.parse(config.load("tests/tiny.py", []))
    model = AlexNet(spec.model)
    made = state.create(spec, model, 0)
    params = jax.tree.map(lambda leaf: 4 * np.asarray(leaf), made.params)
    return spec, model, params, jax.device_get(made.batch_stats)


@pytest.mark.fault("F33")
def test_devices_and_batches_count_the_same_101_images(network):
    spec, model, params, batch_stats = network
    dataset = sources.open_dataset(spec.data, 0)
    test, means = dataset.splits["test"], statistics.load(dataset)
    split = Split(test.images[:101], test.labels[:101])
    counts, alone = set(), None
    for number in (1, 2, 4):
        mesh = parallel.device_mesh(jax.devices()[:number])
        eval_step = predict_step.make_eval_step(spec, model, means, mesh, "center")
        predict = predictions.predictor(eval_step, params, batch_stats, mesh)
        for batch_size in (1, 7, 64):
            rounded = parallel.round_up(batch_size, number)
            probabilities = predictions.predict_split(predict, split, rounded)
            alone = probabilities if alone is None else alone
            assert np.allclose(probabilities, alone, atol=1e-5)
            summary = errors.summarize(probabilities, split.labels)
            counts.add((summary["count"], *(summary[f"top{k}_error"] * 101 for k in (1, 5))))
    assert alone is not None and len(set(alone.argmax(1))) > 2
    ((count, top1, _),) = counts
    assert count == 101
    assert round(top1) == int((alone.argmax(1) != split.labels).sum())


class Later:
    """Probabilities that are on their way; `events` hears when they are fetched."""

    def __init__(self, number, values, events):
        self.number, self.values, self.events = number, values, events

    def __array__(self, dtype=None, copy=None):
        self.events.append(("fetch", self.number))
        return self.values


def test_the_next_batch_is_dispatched_before_the_last_one_is_fetched():
    images = np.arange(101, dtype=np.uint8).reshape(101, 1, 1, 1).repeat(3, axis=3)
    split, events = Split(images, np.zeros(101, np.int32)), []

    def eval_step(params, batch_stats, images):
        number = sum(name == "dispatch" for name, _ in events)
        events.append(("dispatch", number))
        return Later(number, np.asarray(images)[:, 0, 0, :2].astype(np.float32), events)

    mesh = parallel.device_mesh(jax.devices()[:2])
    predict = predictions.predictor(eval_step, {"w": np.zeros(1)}, {}, mesh)
    found = predictions.predict_split(predict, split, 32, poll=lambda: events.append(("poll", 0)))
    assert np.array_equal(found[:, 0], np.arange(101))
    assert [event for event in events if event[0] != "poll"] == [
        ("dispatch", 0), ("dispatch", 1), ("fetch", 0), ("dispatch", 2), ("fetch", 1),
        ("dispatch", 3), ("fetch", 2), ("fetch", 3),
    ]  # fmt: skip
    polls = [events[i + 1] for i, event in enumerate(events) if event[0] == "poll"]
    assert polls == [("dispatch", number) for number in range(4)]


def test_predictions_are_those_of_the_batches_one_after_the_other(network):
    spec, model, params, batch_stats = network
    dataset = sources.open_dataset(spec.data, 0)
    means, mesh = statistics.load(dataset), parallel.device_mesh(jax.devices()[:2])
    eval_step = predict_step.make_eval_step(spec, model, means, mesh, "center")
    split = dataset.splits["test"]
    predict = predictions.predictor(eval_step, params, batch_stats, mesh)
    found = predictions.predict_split(predict, split, 32)
    waited = [np.array(predict(split.images, np.arange(i, i + 32))) for i in range(0, 128, 32)]
    assert found.tobytes() == np.concatenate(waited).tobytes()


def test_nets_of_one_kind_share_the_program_and_have_answers_of_their_own(network, monkeypatch):
    spec, model, params, batch_stats = network
    dataset = sources.open_dataset(spec.data, 0)
    means, mesh = statistics.load(dataset), parallel.device_mesh(jax.devices()[:2])
    traces, original = [], predict_step.mean_probabilities
    monkeypatch.setattr(
        predict_step,
        "mean_probabilities",
        lambda *arguments: traces.append(arguments) or original(*arguments),
    )
    predict_step._jit.cache_clear()
    images = dataset.splits["test"].images[np.arange(16)]

    def answers(params, means, seed, **options):
        other = dataclasses.replace(spec, seed=seed)
        step = predict_step.make_eval_step(other, model, means, mesh, "center", **options)
        return np.asarray(step(params, batch_stats, images))

    first = answers(params, means, 0)
    darker = means._replace(mean_image=means.mean_image + 50)
    halved = jax.tree.map(lambda leaf: leaf / 2, params)
    others = [answers(halved, means, 1), answers(params, darker, 2)]
    assert len(traces) == 1 and all(np.abs(first - other).max() > 1e-4 for other in others)
    assert answers(params, means, 0).tobytes() == first.tobytes()
    few = answers(params, means, 0, classes=np.array([3, 1]))
    assert len(traces) == 2 and few.shape == (16, 2)


def test_a_poll_that_raises_leaves_the_evaluation():
    split = Split(np.zeros((8, 1, 1, 3), np.uint8), np.zeros(8, np.int32))
    with pytest.raises(KeyboardInterrupt):
        predictions.predict_split(
            lambda x, i: x[i, 0, 0], split, 4, poll=lambda: (_ for _ in ()).throw(KeyboardInterrupt)
        )
