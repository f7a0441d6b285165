"""The run folder: what the primary process writes there, and that the others write nothing."""

import inspect
import json

from alexnet_jax.run import reading, resume
from alexnet_jax.run.workdir import RunFolder, Workdir


def test_other_processes_write_nothing(tmp_path):
    silent = RunFolder(tmp_path / "run")
    silent.write("a.json", {})
    silent.write_bytes("b", b"1")
    silent.write_status("running", 3, 2)
    silent.write_heartbeat()
    silent.write_traceback(ValueError())
    assert not list(tmp_path.iterdir()) and reading.saved_step(silent.path) == 0


def test_other_processes_have_every_method_that_writes():
    def writers(kind: type) -> dict[str, inspect.Signature]:
        found = {name: f for name, f in vars(kind).items() if name.startswith("write")}
        return {name: inspect.signature(function) for name, function in found.items()}

    assert writers(RunFolder) == writers(Workdir)


def test_a_status_is_read_back(tmp_path):
    with Workdir(tmp_path / "run") as workdir:
        workdir.write_status("running", 8, 8)
        assert reading.saved_step(workdir.path) == 8
        status = reading.read_status(workdir.path)
        assert status is not None and status["state"] == "running" and status.get("saved")
        workdir.write_status("failed", 9, 8, code=1, reason="why")
        workdir.write_heartbeat()  # nothing: the run has ended
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["saved"], status["code"]) == ("failed", False, 1)


def test_an_empty_section_is_a_value_of_a_config():
    assert resume.flat({"a": {"b": {}}, "c": 1}) == {"a.b": {}, "c": 1}
