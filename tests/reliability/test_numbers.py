"""Loss of finiteness, of memory and of time, and what a run says of it."""

import json
import re

import numpy as np
import pytest

from alexnet_jax import files
from alexnet_jax.errors import EXIT_CODES
from alexnet_jax.inference import checkpoints
from alexnet_jax.train.meter import Meter
from tests.reliability import faults
from tests.reliability.compare import differences, snapshot
from tests.reliability.starter import ROOT


def all_finite(folder) -> bool:
    for step in checkpoints.committed_steps(folder / "checkpoints"):
        variables = checkpoints.read_state(
            folder / "checkpoints", step, ("params", "velocity", "batch_stats")
        )
        if not all(np.isfinite(leaf).all() for _, leaf in files.flatten(variables).items()):
            return False
    return True


@pytest.mark.fault("F37")
def test_a_step_that_is_not_finite_changes_nothing_and_ends_the_run(
    starter, golden, tmp_path, status
):
    folder = tmp_path / "run"
    outcome = starter.run(folder, sabotage="not_finite_at_17")
    assert outcome.code == 4
    assert "step 17 is not finite" in outcome.err and len(outcome.err.splitlines()) == 1
    dump = json.loads((folder / "diverged.json").read_text())
    assert (dump["step"], len(dump["indices"]), len(dump["recent"])) == (17, 32, 18)
    assert all(np.isfinite(step["grad_norm"]) for step in dump["recent"][:-1])
    assert status(folder)["state"] == "diverged"
    assert all_finite(folder)
    assert "Traceback" in (folder / "log.txt").read_text()
    # Whoever mends the cause goes on, and nothing of the step that failed is left.
    assert starter.run(folder).code == 0
    assert differences(golden, snapshot(folder)) == []


@pytest.mark.full
@pytest.mark.fault("F37", "F39")
@pytest.mark.parametrize("rate", ["1e6", "1e30"])
def test_too_high_a_rate_ends_with_code_4_and_finite_checkpoints(starter, tmp_path, rate):
    arguments = [
        f"--config.schedule.weights.learning_rate={rate}",
        "--config.train.checkpoint_every=1",
    ]
    outcome = starter.run(tmp_path / "run", *arguments)
    assert outcome.code == 4, outcome.out
    assert all_finite(tmp_path / "run")


@pytest.mark.fault("F39")
def test_a_spike_of_the_gradient_is_said(caplog):
    meter = Meter()
    for step, norm in enumerate([1.0] * 20 + [25.0, 1.0]):
        metrics = {
            "loss": 1.0, "grad_norm": norm, "top1_errors": 0, "finite": True, "stop": False, "save": False,
        }  # fmt: skip
        meter.add(step, {name: np.asarray(value) for name, value in metrics.items()})
    meter.flush()
    assert [r.message for r in caplog.records] == [
        "step 20: the gradient's norm is 25, 25 times the median of the last 20 steps"
    ]


@pytest.mark.full
@pytest.mark.fault("F40")
def test_a_full_device_is_one_line_with_what_to_do(starter, tmp_path, status):
    outcome = starter.run(tmp_path / "run", fault="train.step:15:raise=MEMORY")
    assert outcome.code == 7
    line = outcome.err.splitlines()[-1]
    assert "1099511627776 bytes" in line and "--config.train.accumulate=2" in line
    assert (status(tmp_path / "run")["saved_step"], status(tmp_path / "run")["code"]) == (12, 7)
    assert starter.run(tmp_path / "run").code == 0


@pytest.mark.fault("F41")
@pytest.mark.parametrize(
    "point",
    [
        "data.batch:15",
        pytest.param("train.step:10", marks=pytest.mark.full),
        pytest.param("evaluate.batch:3", marks=pytest.mark.full),
    ],
)
def test_a_step_that_never_ends_ends_the_run(starter, golden, tmp_path, status, point):
    folder = tmp_path / "run"
    outcome = starter.run(folder, "--config.train.stall_seconds=1.5", fault=f"{point}:sleep=600")
    assert outcome.code == 8
    assert "no progress for" in outcome.err.splitlines()[-1]
    assert "faults.py" in (folder / "log.txt").read_text()  # where the thread was
    assert (status(folder)["state"], status(folder)["code"]) == ("failed", 8)
    assert starter.run(folder).code == 0
    assert differences(golden, snapshot(folder)) == []


@pytest.mark.full
@pytest.mark.fault("F41")
def test_a_process_that_was_suspended_has_not_stalled(starter, tmp_path):
    import signal
    import time

    start = starter.start(
        tmp_path / "run", "--config.train.stall_seconds=1.5", fault="train.step:10:stop"
    )
    start.wait_for("step 8/48")
    time.sleep(4)
    start.signal(signal.SIGCONT)
    assert start.wait().code == 0


@pytest.mark.full
@pytest.mark.fault("F34")
def test_a_reader_that_dies_is_noticed_and_nothing_is_lost(starter, golden, tmp_path, status):
    outcome = starter.run(tmp_path / "run", sabotage="kill_reader")
    assert outcome.code == 3 and "has died" in outcome.err
    assert (status(tmp_path / "run")["step"], status(tmp_path / "run")["saved"]) == (20, True)
    assert starter.run(tmp_path / "run").code == 0
    end = snapshot(tmp_path / "run")
    assert [name for name in differences(golden, end) if name.startswith(("48/", "metrics"))] == []


@pytest.mark.fault("F22")
@pytest.mark.parametrize("point", ["data.batch:20:raise=EIO"])
def test_an_error_in_reading_saves_first(starter, tmp_path, status, point):
    outcome = starter.run(tmp_path / "run", fault=point)
    assert outcome.code == 5
    assert status(tmp_path / "run")["code"] == 5


@pytest.mark.full
@pytest.mark.fault("F45")
def test_a_damaged_compilation_cache_changes_nothing(starter, golden, tmp_path):
    cache = tmp_path / "cache"
    settings = {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    arguments = ["--config.train.max_steps=6"]
    assert starter.run(tmp_path / "a", *arguments, **settings).code == 0
    files = [p for p in cache.rglob("*") if p.is_file()]
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    assert starter.run(tmp_path / "b", *arguments, **settings).code == 0
    assert differences(snapshot(tmp_path / "a"), snapshot(tmp_path / "b")) == []


def test_an_unknown_fault_point_is_refused(starter, tmp_path):
    unknown = starter.run(tmp_path / "other", fault="train.stp:1:kill")
    assert unknown.code == 2 and "train.stp:1:kill" in unknown.err


def test_the_program_knows_nothing_of_faults():
    for path in (ROOT / "alexnet_jax").rglob("*.py"):
        assert "ALEXNET_FAULT" not in path.read_text(), path


@pytest.mark.full
def test_every_fault_point_is_passed_by_a_run_and_its_continuation(starter, tmp_path):
    fault = ",".join(f"{name}:1:say" for name in faults.POINTS)
    for steps in (19, 20):
        last = f"--config.train.max_steps={steps}"
        outcome = starter.run(tmp_path / "run", last, fault=fault)
        assert outcome.code == 0, outcome.err
        passed = set(re.findall("^passed (.*)$", outcome.out, re.MULTILINE))
        assert passed == set(faults.POINTS) - ({"resume.restored"} if steps == 19 else set())


def test_the_codes_say_when_to_run_again():
    assert {code for code, meaning in EXIT_CODES.items() if "same command" in meaning} == {75, 130}
