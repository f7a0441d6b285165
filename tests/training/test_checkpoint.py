import json
from pathlib import Path

import jax
import numpy as np
import pytest

from alexnet_jax import config, parallel
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import StorageError
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.training import checkpoint, schedule
from alexnet_jax.training import state as states

STATISTICS = Statistics(
    mean_image=np.arange(16 * 16 * 3, dtype=np.float32).reshape(16, 16, 3),
    channel_mean=np.ones(3, np.float32),
    eigenvectors=np.eye(3, dtype=np.float32),
    stds=np.array([3, 2, 1], np.float32),
)


@pytest.fixture(scope="module")
def state():
    spec = config.parse(config.load("tests/tiny.py", []))
    state = states.create(spec, AlexNet(spec.model), 3, mesh=parallel.data_mesh(jax.devices()[:1]))
    plateau = schedule.update(spec.schedule.weights, state.schedule, 0.5)
    return state._replace(step=state.step + 12, schedule=plateau)


@pytest.fixture
def folder(state, tmp_path) -> Path:
    checkpoint.save(tmp_path, state, STATISTICS, {"val_error": 0.5, "class_names": ["a"]})
    return tmp_path


def leaves(state) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def test_restored_state_is_bit_identical(folder, state):
    step, meta = checkpoint.latest(folder)
    assert (step, meta["class_names"]) == (12, ["a"])
    restored = checkpoint.restore(folder, step, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert leaves(restored) == leaves(state)


def test_checkpoint_of_one_device_restores_to_four(folder, state):
    replicated = jax.NamedSharding(parallel.data_mesh(jax.devices()[:4]), jax.P())
    like = jax.tree.map(
        lambda x: jax.device_put(x, replicated) if isinstance(x, jax.Array) else x, state
    )
    restored = checkpoint.restore(folder, 12, like)
    assert leaves(restored) == leaves(state)
    assert len(restored.params["conv1"]["kernel"].devices()) == 4


def test_parameters_load_as_numpy_without_a_model(folder, state):
    params = checkpoint.load_variables(folder, 12)["params"]
    assert isinstance(params["conv1"]["kernel"], np.ndarray)
    assert np.array_equal(params["conv1"]["kernel"], state.params["conv1"]["kernel"])
    assert np.array_equal(checkpoint.load_statistics(folder, 12).mean_image, STATISTICS.mean_image)


def test_a_changed_byte_in_any_file_is_noticed(folder):
    files = [p for p in (folder / "12").rglob("*") if p.is_file() and p.stat().st_size]
    assert len(files) > 4
    for file in files:
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(StorageError, match="12"):
            checkpoint.verify(folder, 12)
        file.write_bytes(good)
    checkpoint.verify(folder, 12)


def test_a_folder_without_commit_is_not_a_checkpoint_and_is_written_over(folder, state):
    (folder / "12" / "COMMIT.json").unlink()
    assert checkpoint.latest(folder) is None
    checkpoint.save(folder, state, STATISTICS, {"val_error": None})
    assert checkpoint.latest(folder) is not None


def test_a_damaged_newest_checkpoint_is_walked_back_past(folder, state):
    checkpoint.save(folder, state._replace(step=state.step + 1), STATISTICS, {"val_error": None})
    (folder / "13" / "meta.json").write_text("{}")
    found = checkpoint.latest(folder)
    assert found is not None and found[0] == 12
    with pytest.raises(StorageError, match="damaged"):
        checkpoint.latest(folder, 13)
    (folder / "12" / "meta.json").write_text("{}")
    with pytest.raises(StorageError, match="no intact checkpoint"):
        checkpoint.latest(folder)


def test_another_model_is_refused_by_the_names_of_its_leaves(folder, state):
    other = state._replace(params={**state.params, "conv9": state.params["conv2"]})
    with pytest.raises(StorageError, match="missing params/conv9/"):
        checkpoint.restore(folder, 12, other)


def test_the_last_two_the_best_and_each_kth_are_kept(folder, state):
    for step, error in ((13, 0.1), (14, 0.3), (15, 0.4), (16, None), (17, 0.2)):
        checkpoint.save(
            folder, state._replace(step=jax.numpy.int32(step)), STATISTICS, {"val_error": error}
        )
        checkpoint.prune(folder, keep_every=5)
    assert checkpoint.committed_steps(folder) == [13, 15, 16, 17]
    assert not list(folder.glob(".trash*"))


def test_step_that_does_not_exist_lists_those_that_do(folder):
    with pytest.raises(StorageError, match=r"step 99 .* \[12\]"):
        checkpoint.latest(folder, 99)


def test_commit_lists_every_file(folder):
    commit = json.loads((folder / "12" / "COMMIT.json").read_text())
    files = {str(p.relative_to(folder / "12")) for p in (folder / "12").rglob("*") if p.is_file()}
    assert set(commit["files"]) == files - {"COMMIT.json"}
