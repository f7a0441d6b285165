"""kill -9, wherever it comes: the same command then ends with the same bits as a run that nothing disturbed."""

import json
import random
import signal
import time

import pytest

from alexnet_jax.inference import checkpoints
from tests.reliability.compare import differences, leftovers, snapshot
from tests.reliability.starter import killed_once_saved

POINTS = (
    "data.open:1", "data.batch:1", "data.batch:20", "train.compile:1",
    "train.step:1", "train.step:7", "train.step:13", "train.step:25", "train.step:37", "train.step:48",
    "train.stepped:6", "train.stepped:12", "train.stepped:24", "train.logged:1", "train.logged:3", "train.logged:6",
    "evaluate.batch:1", "evaluate.batch:7", "evaluate.batch:14", "save.begin:1", "save.begin:4",
    "save.folder:1", "save.folder:3", "save.state:1", "save.state:5", "save.statistics:2", "save.meta:2",
    "save.hashed:1", "save.hashed:6", "save.committed:1", "save.committed:4", "save.renamed:1", "save.renamed:5",
    "save.renamed:8", "save.status:2", "save.status:8", "prune.trash:1", "prune.trash:3", "prune.deleted:2",
    "finish.evaluated:1", "finish.results:1", "finish.figures:1",
)  # fmt: skip
RANDOM_TIMES = 60 - len(POINTS)
# One run that is killed at each of these, one after the other; the counts begin anew with each start.
IN_TURN = ("save.state:1", "prune.trash:1", "finish.results:1")


def killed(starter, folder, fault: str) -> int:
    """Run with a kill at `fault`; the step that the start had reached by what it wrote."""
    before = checkpoints.committed_steps(folder / "checkpoints")
    outcome = starter.run(folder, fault=f"{fault}:kill")
    assert outcome.code == -signal.SIGKILL, (outcome.code, outcome.err)
    return check_survivors(folder, before)


def check_survivors(folder, before) -> int:
    """No checkpoint that was there is gone, but by retention; the newest step that is intact."""
    steps = checkpoints.committed_steps(folder / "checkpoints")
    for step in steps:
        checkpoints.verify(folder / "checkpoints", step)
    assert not before or (steps and steps[-1] >= before[-1])
    return steps[-1] if steps else 0


def resume(starter, folder, expected: int) -> None:
    outcome = starter.run(folder)
    assert outcome.code == 0, outcome.err
    if expected and "already finished" not in outcome.out:
        assert f"continuing from step {expected}" in outcome.out
    assert not leftovers(folder)


@pytest.mark.fault("F1", "F2")
def test_killed_three_times_in_one_run(starter, golden, tmp_path, figures):
    for fault in IN_TURN:
        reached = killed(starter, tmp_path / "run", fault)
    resume(starter, tmp_path / "run", reached)
    assert differences(golden, snapshot(tmp_path / "run")) == []
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))


@pytest.mark.full
@pytest.mark.parametrize("fault", POINTS)
@pytest.mark.fault("F1", "F2")
def test_killed_at_a_point(starter, golden, tmp_path, figures, fault):
    reached = killed(starter, tmp_path / "run", fault)
    resume(starter, tmp_path / "run", reached)
    assert differences(golden, snapshot(tmp_path / "run")) == []
    figures["kill -9 points, bit-identical"] += 1


@pytest.mark.full
@pytest.mark.parametrize("seed", range(RANDOM_TIMES))
@pytest.mark.fault("F1", "F2")
def test_killed_at_a_random_time(starter, golden, tmp_path, figures, seed):
    start = starter.start(tmp_path / "run")
    start.wait_for("signal in each layer")
    time.sleep(random.Random(seed).uniform(0, 1.5))
    start.signal(signal.SIGKILL)
    assert start.wait().code in (-signal.SIGKILL, 0)
    reached = check_survivors(tmp_path / "run", [])
    resume(starter, tmp_path / "run", reached)
    assert differences(golden, snapshot(tmp_path / "run")) == []
    figures["kill -9 points, bit-identical"] += 1


@pytest.mark.full
@pytest.mark.parametrize("every", (7, 8, 9, 11, 13))
@pytest.mark.fault("F1")
def test_killed_every_few_steps_until_finished(starter, golden, tmp_path, figures, every):
    codes = []
    while not codes or codes[-1] == -signal.SIGKILL:
        fault = killed_once_saved(f"train.stepped:{every}")
        codes.append(starter.run(tmp_path / "run", fault=fault).code)
    assert codes[-1] == 0 and len(codes) > 48 // every
    assert differences(golden, snapshot(tmp_path / "run")) == []
    figures["runs killed every few steps, bit-identical"] += 1


@pytest.mark.full
@pytest.mark.fault("F1")
def test_two_runs_that_nothing_disturbs_are_the_same(starter, golden, tmp_path):
    for number in range(4):
        assert starter.run(tmp_path / str(number)).code == 0
        assert differences(golden, snapshot(tmp_path / str(number))) == []
