import numpy as np
import pytest

from alexnet_jax.data.sources import Split
from alexnet_jax.evaluation import evaluate


@pytest.mark.fault("F33")
@pytest.mark.parametrize("batch_size", [1, 7, 64, 101, 128])
def test_every_image_is_counted_exactly_once_whatever_the_batch(batch_size):
    images = np.arange(101, dtype=np.uint8).reshape(101, 1, 1, 1).repeat(3, axis=3)
    split = Split(images, np.zeros(101, np.int32))

    def predict(batch):
        assert len(batch) == batch_size
        return batch[:, 0, 0, :2].astype(np.float32)

    probabilities = evaluate.predictions(predict, split, batch_size)
    assert np.array_equal(probabilities[:, 0], np.arange(101))


def test_a_poll_that_raises_leaves_the_evaluation():
    split = Split(np.zeros((8, 1, 1, 3), np.uint8), np.zeros(8, np.int32))
    with pytest.raises(KeyboardInterrupt):
        evaluate.predictions(
            lambda x: x[:, 0, 0], split, 4, poll=lambda: (_ for _ in ()).throw(KeyboardInterrupt)
        )
