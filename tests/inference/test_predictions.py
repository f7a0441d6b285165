import numpy as np
import pytest

from alexnet_jax.errors import DataError, StorageError
from alexnet_jax.inference import predictions


@pytest.fixture
def kept():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(10), 50).astype(np.float32)
    return predictions.Predictions(probabilities, np.arange(50) % 10)


def test_predictions_come_back_and_agree_with_the_errors_of_the_run(tmp_path, kept):
    summary = predictions.record(tmp_path, "test", "center", 7, *kept)
    loaded = predictions.load(tmp_path, "test", "center", 7)
    assert np.array_equal(loaded.probabilities, kept.probabilities)
    assert np.array_equal(loaded.labels, kept.labels)
    assert loaded.wrong().mean() == summary["top1_error"]
    assert loaded.wrong(5).mean() == summary["top5_error"]


def test_missing_and_damaged_predictions_say_what_writes_them(tmp_path, kept):
    file = predictions.save(tmp_path, "test", "center", 7, kept)
    whole = file.read_bytes()
    damaged = (whole[:-30], whole[:500] + b"x" * 200 + whole[700:], b"", b"no archive")
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"test_center_7.npz.*evaluate --workdir"):
            predictions.load(tmp_path, "test", "center", 7)
    with pytest.raises(DataError, match="test_ten_7"):
        predictions.load(tmp_path, "test", "ten", 7)


def test_labels_of_other_images_are_refused(tmp_path, kept):
    predictions.save(tmp_path, "test", "center", 7, kept._replace(labels=np.arange(49)))
    with pytest.raises(DataError, match=r"labels is int64 \[49\], not integer \[images=50\]"):
        predictions.load(tmp_path, "test", "center", 7)


def test_a_folder_that_cannot_be_written_says_so(tmp_path, kept):
    (tmp_path / "predictions").write_text("a file")
    with pytest.raises(StorageError, match="cannot write"):
        predictions.save(tmp_path, "test", "center", 7, kept)
