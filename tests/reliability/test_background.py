"""Checkpoints that are written while training goes on, and those that are made by time: nothing is lost by either."""

import json
import shutil
import signal

import pytest

from alexnet_jax.inference import checkpoints
from tests.reliability.compare import differences, leftovers, snapshot
from tests.reliability.starter import killed_once_saved
from tests.reliability.test_processes import ends, pair, start

__all__ = ["pair"]
ALL = "--config.train.keep_every=1"
OFTEN = "--config.train.checkpoint_minutes=0.001"


def steps_of(folder) -> list[int]:
    return checkpoints.committed_steps(folder / "checkpoints")


def content(found: dict) -> dict:
    """A snapshot without the names of checkpoints that only one run made, and without configs."""
    return {
        name: value
        for name, value in found.items()
        if name.startswith(("metrics", "results", "48/")) and not name.endswith("/config")
    }


@pytest.mark.fault("F1")
def test_a_slow_write_saves_the_state_of_its_step_while_training_goes_on(
    starter, golden, killed, tmp_path
):
    folder = tmp_path / "run"
    run = starter.start(folder, ALL, fault="save.folder:2:sleep=5,save.folder:4:sleep=0.5")
    run.wait_for("step 16/48")  # the next one to be saved is 18
    assert steps_of(folder) == [6], "step 12 is still being written"
    assert run.wait().code == 0
    assert steps_of(folder) == [6, 12, 18, 24, 30, 36, 42, 48]
    found = snapshot(folder)
    assert differences(content(golden), content(found)) == []
    slow, plain = (
        {name: value for name, value in run.items() if name.startswith("12/")}
        for run in (found, snapshot(killed))
    )
    assert "12/params/conv1/kernel" in slow
    assert [name for name in differences(plain, slow) if not name.endswith("/config")] == []


@pytest.mark.fault("F3")
def test_a_signal_ends_the_run_when_the_write_is_committed(starter, golden, tmp_path, status):
    folder = tmp_path / "run"
    run = starter.start(folder, fault="save.state:2:sleep=1,save.state:3:sleep=1")
    run.wait_for("step 12/48")
    run.signal(signal.SIGTERM)
    outcome = run.wait()
    assert outcome.code == 75 and len(outcome.err.splitlines()) == 1
    said = status(folder)
    assert said["saved"] and said["step"] == steps_of(folder)[-1] >= 12
    assert f"saved step {said['step']}" in outcome.err
    assert not leftovers(folder)
    assert starter.run(folder).code == 0
    assert differences(content(golden), content(snapshot(folder))) == []


@pytest.mark.fault("F9", "F11")
@pytest.mark.parametrize("stopped", [False, pytest.param(True, marks=pytest.mark.full)])
def test_a_write_that_fails_in_the_background_ends_the_run_with_its_line(
    starter, golden, tmp_path, status, stopped
):
    folder = tmp_path / "run"
    run = starter.start(folder, fault="save.state:2:sleep=1,save.state:2:raise=EACCES")
    run.wait_for("step 12/48")
    if stopped:
        run.signal(signal.SIGTERM)
    outcome = run.wait()
    assert outcome.code == 5
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"alexnet: error[E_STORAGE]: cannot save step 12 in {folder}")
    said = status(folder)
    assert (said["state"], said["code"], said["saved_step"]) == ("failed", 5, 6)
    assert steps_of(folder) == [6] and not leftovers(folder)
    assert "Traceback" in (folder / "log.txt").read_text()
    assert starter.run(folder).code == 0
    assert differences(golden, snapshot(folder)) == []


@pytest.mark.full
@pytest.mark.fault("F11")
def test_a_last_write_that_fails_during_the_final_evaluation_is_never_success(
    starter, tmp_path, status
):
    folder = tmp_path / "run"
    fault = "save.state:8:sleep=0.5,save.state:8:raise=EACCES,evaluate.batch:*:sleep=0.1"
    outcome = starter.run(folder, fault=fault)
    assert outcome.code == 5 and "cannot save step 48" in outcome.err
    assert not (folder / "results.json").exists()
    assert (status(folder)["state"], status(folder)["saved_step"]) == ("failed", 42)


@pytest.mark.fault("F41")
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            "save.state:1:sleep=600", marks=pytest.mark.full
        ),  # the next save waits for it
        pytest.param("save.state:1:sleep=600,train.step:*:sleep=1", marks=pytest.mark.full),
    ],
)
def test_a_disk_that_hangs_ends_the_run_whether_or_not_it_is_waited_for(
    starter, golden, tmp_path, status, fault
):
    folder = tmp_path / "run"
    outcome = starter.run(folder, fault=fault, sabotage="impatient_with_writes")
    assert outcome.code == 8
    assert "no progress for" in outcome.err.splitlines()[-1]
    assert "checkpoint.py" in (folder / "log.txt").read_text()  # where the writer was
    assert (status(folder)["state"], status(folder)["code"]) == ("failed", 8)
    assert starter.run(folder).code == 0
    assert differences(golden, snapshot(folder)) == []


@pytest.mark.full
@pytest.mark.fault("D1")
def test_checkpoints_by_time_change_no_bit(starter, golden, tmp_path):
    folder = tmp_path / "run"
    assert starter.run(folder, ALL, OFTEN).code == 0
    assert set(steps_of(folder)) - set(range(6, 49, 6)), "none was made by time"
    assert differences(content(golden), content(snapshot(folder))) == []


@pytest.mark.full
@pytest.mark.fault("F1")
def test_a_killed_run_goes_on_from_a_checkpoint_that_was_made_by_time(starter, golden, tmp_path):
    folder, rarely = tmp_path / "run", "--config.train.checkpoint_every=1000"
    fault = killed_once_saved("train.step:9")
    assert starter.run(folder, rarely, OFTEN, fault=fault).code == -signal.SIGKILL
    assert 0 < steps_of(folder)[-1] <= 9
    outcome = starter.run(folder, rarely, OFTEN, fault=killed_once_saved("train.step:13"))
    assert outcome.code == -signal.SIGKILL and "continuing from step" in outcome.out
    assert starter.run(folder, OFTEN).code == 0
    assert differences(content(golden), content(snapshot(folder))) == []


@pytest.mark.fault("F14")
def test_an_old_run_folder_takes_the_keys_that_it_does_not_list(starter, golden, killed, tmp_path):
    folder = shutil.copytree(killed, tmp_path / "run")
    assert "checkpoint_minutes" not in (folder / "config.json").read_text()
    refused = starter.run(folder, "--config.train.label_smoothing=0.5")
    assert refused.code == 2 and "train.label_smoothing: 0.0 -> 0.5" in refused.err
    changed = ("--config.train.checkpoint_minutes=5", "--config.train.exact=True")
    assert starter.run(folder, *changed).code == 0
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert history[-1]["changes"] == {"train.checkpoint_minutes": [10.0, 5.0]}
    assert differences(content(golden), content(snapshot(folder))) == []


@pytest.mark.full
@pytest.mark.fault("F3", "F43")
def test_a_signal_to_one_process_in_an_evaluation_stops_all_in_it(starter, pair, tmp_path):
    folder = tmp_path / "run"
    both = start(starter, folder, fault="evaluate.batch:*:sleep=0.5")
    both[0].wait_for("step 12/48")  # and now the evaluation
    both[1].signal(signal.SIGTERM)
    assert [outcome.code for outcome in ends(both)] == [75, 75]
    assert steps_of(folder)[-1] == 12
    assert checkpoints.verify(folder / "checkpoints", 12)["evaluation_due"]
    assert [outcome.code for outcome in ends(start(starter, folder))] == [0, 0]
    assert differences(snapshot(folder), snapshot(pair)) == []


@pytest.mark.full
@pytest.mark.fault("F43")
def test_towers_in_two_processes_agree_to_save_and_to_stop(starter, tmp_path):
    folder, apart = tmp_path / "run", "--config.train.split_towers=True"
    both = start(starter, folder, ALL, OFTEN, apart, devices=1, fault="train.step:*:sleep=0.1")
    both[0].wait_for("step 16/48")
    both[1].signal(signal.SIGTERM)
    assert [outcome.code for outcome in ends(both)] == [75, 75]
    assert set(steps_of(folder)) - set(range(6, 49, 6)), "none was made by time"
    assert [outcome.code for outcome in ends(start(starter, folder, apart, devices=1))] == [0, 0]


@pytest.mark.full
@pytest.mark.fault("F43")
def test_two_processes_save_by_time_after_the_same_step(starter, pair, tmp_path):
    folder = tmp_path / "run"
    slowly = "train.step:*:sleep=0.02"
    outcomes = ends(start(starter, folder, ALL, OFTEN, fault=slowly))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert set(steps_of(folder)) - set(range(6, 49, 6)), "none was made by time"
    assert differences(content(snapshot(pair)), content(snapshot(folder))) == []
