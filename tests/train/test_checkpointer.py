"""When a run saves, and the order in which a checkpoint is committed, announced and others deleted."""

import contextlib
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from alexnet_jax import config
from alexnet_jax.errors import DivergedError, StorageError
from alexnet_jax.inference import checkpoints
from alexnet_jax.run import processes
from alexnet_jax.run.signals import Stop
from alexnet_jax.run.status import RunStatus
from alexnet_jax.run.workdir import RunFolder
from alexnet_jax.train import checkpoint, checkpointer, retention, schedule
from alexnet_jax.train.checkpointer import Checkpointer
from alexnet_jax.train.plan import Plan
from alexnet_jax.train.state import State


def state(step: int, value: float = 1.0) -> State:
    return State(jnp.int32(step), {"fc6": jnp.full(3, value)}, {}, {}, schedule.create())


@pytest.fixture
def saver(tmp_path, monkeypatch):
    """Called with errors and overrides: a Checkpointer; `events` has what it does."""
    events: list[tuple] = []
    monkeypatch.setattr(
        checkpoint,
        "save",
        lambda folder, state, _, meta: events.append(("save", int(state.step), meta)),
    )
    monkeypatch.setattr(retention, "prune", lambda folder, keep: events.append(("prune",)))

    class Status(RunStatus):
        def write_saved(self, step):
            events.append(("status", step))
            super().write_saved(step)

    def make(errors=None, *overrides: str) -> Checkpointer:
        found = config.load("tests/tiny.py", [f"--config.{override}" for override in overrides])
        watchdog = SimpleNamespace(
            beat=lambda *_: None, watching=lambda _: contextlib.nullcontext()
        )
        folder = RunFolder(tmp_path)
        made = Checkpointer(
            Plan(config.parse(found), 382), folder, Status(folder), watchdog,  # type: ignore
            None, {"class_names": ["a"]}, errors or {},  # type: ignore
        )  # fmt: skip
        return made

    make.events = events
    return make


def test_a_checkpoint_is_announced_when_it_is_committed_and_then_others_are_deleted(saver):
    made = saver()
    made.save(state(6), {"evaluation_due": False})
    assert made.fetched_step == 6
    made.wait()
    assert saver.events == [
        ("save", 6, {"class_names": ["a"], "evaluation_due": False}), ("status", 6), ("prune",),
    ]  # fmt: skip


def test_a_process_that_is_not_the_primary_only_notes_the_step(saver, monkeypatch):
    monkeypatch.setattr(processes, "is_primary", lambda: False)
    made = saver()
    made.save(state(6), {})
    made.wait()
    assert saver.events == [("status", 6)]


def test_the_lowest_error_is_due_and_remembered_once_it_is_saved(saver):
    made = saver({3: 0.5})
    assert made.is_due(6, None) and made.is_due(48, 0.9)  # by the plan
    assert not made.is_due(7, None) and not made.is_due(7, 0.5)
    assert made.is_due(7, 0.4) and made.is_due(8, 0.45)
    made.save(state(7), {}, 0.4)
    assert not made.is_due(8, 0.45)
    made.wait()


@pytest.mark.parametrize(("minutes", "is_time"), [("0", False), ("10", False), ("1e-9", True)])
def test_time_is_measured_from_the_last_save(saver, minutes, is_time):
    assert saver({}, f"train.checkpoint_minutes={minutes}").is_time() == is_time


def test_what_is_not_finite_is_not_saved(saver):
    made = saver()
    with pytest.raises(DivergedError, match="params/fc6 is not finite after step 6"):
        made.save(state(6, float("nan")), {})
    assert saver.events == [] and made.fetched_step == 0


@pytest.mark.parametrize(("cause", "raises"), [(Stop(), True), (ValueError(), False)])
def test_an_error_of_the_last_write_counts_where_a_run_is_merely_stopped(
    saver, monkeypatch, cause, raises
):
    def fail(*_):
        raise StorageError("the disk")

    monkeypatch.setattr(checkpoint, "save", fail)
    made = saver()
    made.save(state(6), {})
    with pytest.raises(StorageError) if raises else contextlib.nullcontext():
        error = made.close(cause)
        assert isinstance(error, StorageError)
    assert made.close(cause) is None


def test_old_checkpoints_are_deleted_by_the_policy_of_the_config(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    for step in range(0, 54, 6):
        (folder.checkpoints / str(step)).mkdir(parents=True)
    policy = config.parse(config.load("tests/tiny.py", ["--config.train.keep_every=24"])).train
    checkpointer.delete_old(folder, policy, {18: 0.1, 30: 0.2})
    left = sorted(int(path.name) for path in folder.checkpoints.iterdir())
    assert left == [0, 18, 24, 42, 48]


def test_a_better_checkpoint_is_one_with_a_lower_validation_error(saver, tmp_path, monkeypatch):
    made = saver({6: 0.5, 12: 0.25, 18: 0.25})
    steps = [6, 12, 18]
    monkeypatch.setattr(checkpoints, "committed_steps", lambda folder: steps)
    assert made.better_than(6) == 12 and made.better_than(18) is None
    assert made.better_than(24) == 12  # it was not evaluated
    steps.remove(12)
    assert made.better_than(6) == 18
