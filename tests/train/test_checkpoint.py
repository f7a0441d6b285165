import json
from pathlib import Path

import jax
import numpy as np
import pytest

from alexnet_jax import config, files
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import CheckpointError, StorageError
from alexnet_jax.inference import checkpoints
from alexnet_jax.model import mesh as parallel
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.train import checkpoint, retention, schedule
from alexnet_jax.train import state as states

STATISTICS = Statistics(
    mean_image=np.arange(16 * 16 * 3, dtype=np.float32).reshape(16, 16, 3),
    channel_mean=np.ones(3, np.float32),
    eigenvectors=np.eye(3, dtype=np.float32),
    stds=np.array([3, 2, 1], np.float32),
)


@pytest.fixture(scope="module")
def state():
    spec = config.parse(config.load("tests/tiny.py", []))
    state = states.create(
        spec, AlexNet(spec.model), 3, mesh=parallel.device_mesh(jax.devices()[:1])
    )
    plateau = schedule.update(spec.schedule.weights, state.schedule, 1, 2)
    return state._replace(step=state.step + 12, schedule=plateau)


@pytest.fixture
def folder(state, tmp_path) -> Path:
    checkpoint.save(tmp_path, state, STATISTICS, {"class_names": ["a"]})
    return tmp_path


def leaves(state) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def test_restored_state_is_bit_identical(folder, state):
    step, meta = checkpoints.latest(folder)
    assert (step, meta["class_names"]) == (12, ["a"])
    restored = checkpoint.restore(folder, step, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert leaves(restored) == leaves(state)


@pytest.mark.fault("F15")
def test_checkpoint_of_one_device_restores_to_four(folder, state):
    replicated = jax.NamedSharding(parallel.device_mesh(jax.devices()[:4]), jax.P())
    like = jax.tree.map(
        lambda x: jax.device_put(x, replicated) if isinstance(x, jax.Array) else x, state
    )
    restored = checkpoint.restore(folder, 12, like)
    assert leaves(restored) == leaves(state)
    assert len(restored.params["conv1"]["kernel"].devices()) == 4


def test_the_state_of_the_optimizer_keeps_its_name_on_disk(folder, state):
    names = {name.split("/")[0] for name in files.flatten(checkpoints.read_state(folder, 12))}
    assert names == {"step", "params", "velocity", "schedule"}


def test_parameters_load_as_numpy_without_a_model(folder, state):
    params = checkpoints.load_variables(folder, 12)["params"]
    assert isinstance(params["conv1"]["kernel"], np.ndarray)
    assert np.array_equal(params["conv1"]["kernel"], state.params["conv1"]["kernel"])
    assert np.array_equal(checkpoints.load_statistics(folder, 12).mean_image, STATISTICS.mean_image)


# What may happen to a file of the newest checkpoint: content -> content, None for a file that is gone.
DAMAGE = {
    "emptied": lambda data, other: b"",
    "cut in half": lambda data, other: data[: len(data) // 2],
    "without its last byte": lambda data, other: data[:-1],
    "with its first bit changed": lambda data, other: bytes([data[0] ^ 1]) + data[1:],
    "with its last bit changed": lambda data, other: data[:-1] + bytes([data[-1] ^ 1]),
    "with a bit changed in the middle": lambda data, other: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 16]) + data[len(data) // 2 + 1 :]
    ),
    "longer": lambda data, other: data + b" ",
    "swapped with that of another step": lambda data, other: other,
    "gone": lambda data, other: None,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.fault("F7")
def test_damage_to_any_file_is_found_and_the_step_before_is_used(folder, state, damage, figures):
    changed = jax.tree.map(lambda x: x + 1, state)
    checkpoint.save(folder, changed, STATISTICS, {"class_names": ["b"]})
    newest = folder / "13"
    files = [p for p in newest.rglob("*") if p.is_file() and p.stat().st_size]
    others = [p for p in (folder / "12").rglob("*") if p.is_file()]
    assert len(files) > 6
    for file in files:
        good, name = file.read_bytes(), file.relative_to(newest)
        # Data files are named by their content: another one then.
        other = folder / "12" / name if (folder / "12" / name).exists() else others[0]
        bad = DAMAGE[damage](good, other.read_bytes())
        if bad == good:
            continue  # the same in both steps
        file.unlink()
        if bad is not None:
            file.write_bytes(bad)
        said: list[str] = []
        found = checkpoint.recover(folder, said.append)
        figures["checkpoint files damaged"] += 1
        assert found is not None and found[0] == 12, name
        assert "E_CHECKPOINT" in said[0] and ".bad-13" in said[0]
        figures["checkpoint damage detected"] += 1
        # Nothing is deleted: it is set aside.
        (folder / ".bad-13").rename(newest)
        file.write_bytes(good)
    checkpoints.verify(folder, 13)


@pytest.mark.fault("F7")
def test_where_no_checkpoint_is_intact_nothing_begins_from_scratch(folder):
    (folder / "12" / "COMMIT.json").unlink()
    for _ in range(2):  # the second time, only what was set aside is there
        with pytest.raises(CheckpointError, match=r"no intact checkpoint .* --overwrite"):
            checkpoint.recover(folder, print)
    assert [p.name for p in folder.iterdir()] == [".bad-12"]


@pytest.mark.fault("F7")
def test_a_second_damaged_checkpoint_of_a_step_has_its_own_name(folder, state):
    (folder / ".bad-12").mkdir()
    (folder / "12" / "meta.json").write_text("{}")
    with pytest.raises(CheckpointError):
        checkpoint.recover(folder, print)
    assert {p.name for p in folder.iterdir()} == {".bad-12", ".bad-12-2"}


@pytest.mark.fault("F2")
def test_what_killed_starts_left_is_removed_and_said(folder):
    (folder / ".tmp-18").mkdir()
    (folder / ".trash-6").mkdir()
    said: list[str] = []
    found = checkpoint.recover(folder, said.append)
    assert found is not None and found[0] == 12
    assert [p.name for p in folder.iterdir()] == ["12"]
    assert len(said) == 2


@pytest.mark.fault("F8")
def test_a_step_that_was_asked_for_is_not_replaced_by_another(folder, state):
    checkpoint.save(folder, state._replace(step=state.step + 1), STATISTICS, {"class_names": ["a"]})
    (folder / "13" / "meta.json").write_text("{}")
    with pytest.raises(StorageError, match="damaged"):
        checkpoints.latest(folder, 13)
    found = checkpoints.latest(folder)
    assert found is not None and found[0] == 12
    assert (folder / "13").exists()  # readers move nothing


@pytest.mark.fault("F12")
def test_a_newer_schema_is_named(folder):
    commit = folder / "12" / "COMMIT.json"
    commit.write_text(json.dumps(json.loads(commit.read_text()) | {"schema": 2}))
    with pytest.raises(StorageError, match=r"schema 2, this program reads 1"):
        checkpoints.verify(folder, 12)


@pytest.mark.fault("F13")
def test_leaves_of_another_shape_or_type_are_named(folder, state):
    kernel = state.params["conv1"]["kernel"]
    for other, what in (
        (kernel[..., :4], "float32(5, 5, 3, 8), the model needs float32(5, 5, 3, 4)"),
        (kernel.astype("bfloat16"), "the model needs bfloat16"),
    ):
        params = {**state.params, "conv1": {**state.params["conv1"], "kernel": other}}
        with pytest.raises(StorageError, match="params/conv1/kernel") as caught:
            checkpoint.restore(folder, 12, state._replace(params=params))
        assert what in str(caught.value)


@pytest.mark.fault("F13")
def test_a_model_without_a_saved_layer_is_refused(folder, state):
    less = {name: layer for name, layer in state.params.items() if name != "fc6"}
    with pytest.raises(StorageError, match="unexpected params/fc6/bias"):
        checkpoint.restore(folder, 12, state._replace(params=less))


@pytest.mark.fault("F13")
def test_parameters_to_begin_with_must_fit_or_be_taken_in_part(folder, state):
    variables = checkpoints.load_variables(folder, 12)
    begun, wrong = checkpoint.initialize(state, variables, partial=False)
    assert not wrong and leaves(begun) == leaves(state)
    variables["params"]["fc7"]["kernel"] = np.zeros((16, 3), np.float32)
    variables["params"]["fc6"]["bias"] = np.full(16, 7, np.float32)
    with pytest.raises(CheckpointError, match=r"fc7/kernel .* --allow-partial"):
        checkpoint.initialize(state, variables, partial=False)
    begun, wrong = checkpoint.initialize(state, variables, partial=True)
    assert wrong == [("params/fc7/kernel", "float32(16, 3)", "float32(16, 10)")]
    assert np.array_equal(begun.params["fc7"]["kernel"], state.params["fc7"]["kernel"])
    assert np.all(np.asarray(begun.params["fc6"]["bias"]) == 7)


@pytest.mark.fault("F13")
@pytest.mark.parametrize("partial", [False, True])
def test_parameters_of_which_nothing_fits_begin_no_run(state, partial):
    strange = {"params": {"dense": {"kernel": np.zeros((3, 3), np.float32)}}, "batch_stats": {}}
    with pytest.raises(CheckpointError, match="no array fits"):
        checkpoint.initialize(state, strange, partial=partial)


@pytest.mark.fault("F13")
def test_another_model_is_refused_by_the_names_of_its_leaves(folder, state):
    other = state._replace(params={**state.params, "conv9": state.params["conv2"]})
    with pytest.raises(StorageError, match="missing params/conv9/"):
        checkpoint.restore(folder, 12, other)


def test_the_last_two_the_best_and_each_kth_are_kept(folder, state):
    for step, best in ((13, 13), (14, 13), (15, 13), (16, 13), (17, 13)):
        checkpoint.save(
            folder, state._replace(step=jax.numpy.int32(step)), STATISTICS, {"class_names": ["a"]}
        )
        steps = checkpoints.committed_steps(folder)
        retention.prune(folder, retention.kept_steps(steps, best, 5))
    assert checkpoints.committed_steps(folder) == [13, 15, 16, 17]
    assert not list(folder.glob(".trash*"))


@pytest.mark.parametrize(
    ("best", "every", "powers", "kept"),
    [
        (None, None, False, [16, 17]),
        (13, None, False, [13, 16, 17]),
        (17, None, False, [16, 17]),
        (99, None, False, [16, 17]),  # gone: deleted to make room
        (None, 4, False, [0, 4, 8, 12, 16, 17]),
        (3, 9, True, [0, 1, 2, 3, 4, 8, 9, 16, 17]),
    ],
)
def test_what_is_kept_of_the_steps(best, every, powers, kept):
    assert retention.kept_steps(list(range(18)), best, every, powers) == kept


@pytest.mark.fault("F38")
def test_an_error_that_is_no_number_is_never_the_best():
    errors = {13: float("nan"), 14: 0.6, 15: 0.6, 16: 0.8}
    assert checkpoints.best_step(errors, errors) == 14
    assert checkpoints.best_step([13], errors) is None and checkpoints.best_step([], errors) is None


@pytest.mark.fault("F8")
def test_step_that_does_not_exist_lists_those_that_do(folder):
    with pytest.raises(StorageError, match=r"step 99 .* \[12\]"):
        checkpoints.latest(folder, 99)


def test_commit_lists_every_file(folder):
    commit = json.loads((folder / "12" / "COMMIT.json").read_text())
    files = {str(p.relative_to(folder / "12")) for p in (folder / "12").rglob("*") if p.is_file()}
    assert set(commit["files"]) == files - {"COMMIT.json"}
