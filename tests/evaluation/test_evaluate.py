import jax
import numpy as np
import pytest

from alexnet_jax import config, parallel
from alexnet_jax.data import sources, statistics
from alexnet_jax.data.sources import Split
from alexnet_jax.evaluation import errors, evaluate
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.training import state, step


@pytest.mark.fault("F33")
@pytest.mark.parametrize("batch_size", [1, 7, 64, 101, 128])
def test_every_image_is_counted_exactly_once_whatever_the_batch(batch_size):
    images = np.arange(101, dtype=np.uint8).reshape(101, 1, 1, 1).repeat(3, axis=3)
    split = Split(images, np.zeros(101, np.int32))

    def predict(images, indices):
        assert len(indices) == batch_size
        return images[indices][:, 0, 0, :2].astype(np.float32)

    probabilities = evaluate.predictions(predict, split, batch_size)
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
        eval_step = step.make_eval_step(spec, model, means, mesh, "center")
        predict = evaluate.predictor(eval_step, params, batch_stats, mesh)
        for batch_size in (1, 7, 64):
            rounded = parallel.round_up(batch_size, number)
            probabilities = evaluate.predictions(predict, split, rounded)
            alone = probabilities if alone is None else alone
            assert np.allclose(probabilities, alone, atol=1e-5)
            summary = errors.summarize(probabilities, split.labels)
            counts.add((summary["count"], *(summary[f"top{k}_error"] * 101 for k in (1, 5))))
    assert alone is not None and len(set(alone.argmax(1))) > 2
    ((count, top1, _),) = counts
    assert count == 101
    assert round(top1) == int((alone.argmax(1) != split.labels).sum())


def test_a_poll_that_raises_leaves_the_evaluation():
    split = Split(np.zeros((8, 1, 1, 3), np.uint8), np.zeros(8, np.int32))
    with pytest.raises(KeyboardInterrupt):
        evaluate.predictions(
            lambda x, i: x[i, 0, 0], split, 4, poll=lambda: (_ for _ in ()).throw(KeyboardInterrupt)
        )
