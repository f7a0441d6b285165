"""The run folder of processes that are not the primary, and status.json."""

import inspect

import pytest

from alexnet_jax.errors import StorageError
from alexnet_jax.run.reading import read_status, saved_step
from alexnet_jax.run.status import RunStatus
from alexnet_jax.run.workdir import RunFolder, Workdir


def test_a_process_that_is_not_the_primary_writes_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write("signal.json", {})
    folder.write_bytes("dataset.npz", b"")
    status = RunStatus(folder)
    status.write_running()
    status.write_saved(6)
    status.write_finished()
    folder.write_heartbeat()
    folder.write_traceback(ValueError())
    assert status.saved_step == 6 and saved_step(folder.path) == 0
    assert folder.checkpoints == tmp_path / "run" / "checkpoints"
    assert not list(tmp_path.iterdir())


def test_both_kinds_of_folders_take_the_same_calls():
    for name in (name for name in vars(RunFolder) if name.startswith("write")):
        expected = list(inspect.signature(getattr(RunFolder, name)).parameters)
        assert name in vars(Workdir)
        assert list(inspect.signature(getattr(Workdir, name)).parameters) == expected, name


def test_the_status_follows_steps_and_checkpoints(tmp_path):
    with Workdir(tmp_path / "run") as folder:
        status = RunStatus(folder)
        status.begin(6)
        status.advance(9)
        status.write_running()
        found = read_status(folder.path)
        assert found and (found["state"], found["step"], found["saved_step"]) == ("running", 9, 6)
        status.write_saved(9)
        found = read_status(folder.path)
        assert found and (found["saved_step"], found["saved"]) == (9, True)
        status.write_ended("interrupted", 75, "signal")
        found = read_status(folder.path)
        assert found and (found["state"], found["code"], found["reason"]) == (
            "interrupted",
            75,
            "signal",
        )
        status.write_finished()
        found = read_status(folder.path)
        assert found and (found["state"], found["code"]) == ("finished", 0)


def test_an_end_that_cannot_be_written_is_kept_in_the_log_alone(tmp_path, monkeypatch):
    with Workdir(tmp_path / "run") as folder:
        status = RunStatus(folder)

        def fail(*_, **__):
            raise StorageError("the disk is full")

        monkeypatch.setattr(folder, "write_status", fail)
        status.write_ended("failed", 5, "the disk")
        assert "the disk is full" in (tmp_path / "run" / "log.txt").read_text()
        with pytest.raises(StorageError):
            status.write_finished()
