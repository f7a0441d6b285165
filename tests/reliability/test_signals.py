"""SIGTERM, Ctrl-C and the rest: saved, said in a line, and gone on with."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_jax.inference import checkpoints
from alexnet_jax.run.signals import Signals, Stop
from alexnet_jax.train import checkpoint
from tests.reliability.compare import differences, leftovers, snapshot

# Phase -> the point at which the signal comes, and whether there is something to save by then.
PHASES = {
    "opening the images": ("data.open:1", False),
    "before the first compilation": ("train.compile:1", False),
    "reading the first batch": ("data.batch:1", False),
    "in the first step, as it is compiled": ("train.step:1", True),
    "in a step": ("train.step:20", True),
    "waiting for data": ("data.batch:20", True),
    "after a line of the log": ("train.logged:3", True),
    "in an evaluation": ("evaluate.batch:7", True),
    "writing a checkpoint": ("save.folder:3", True),
    "committing a checkpoint": ("save.committed:3", True),
    "deleting an old checkpoint": ("prune.trash:2", True),
    "in the final evaluation": ("evaluate.batch:23", True),
}


def at(starter, folder: Path, point: str, *numbers: signal.Signals, arguments=(), pause=0.0):
    """The run stopped at `point`, given signals there, and let go: (outcome, seconds from the first to its end)."""
    start = starter.start(folder, *arguments, fault=f"{point}:stop")
    state = Path(f"/proc/{start.pid}/stat")
    end = time.monotonic() + 60
    while ") T " not in state.read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    begin = time.monotonic()
    for i, number in enumerate(numbers):
        start.signal(number)
        if i == 0:
            start.signal(signal.SIGCONT)
        if i < len(numbers) - 1:
            time.sleep(pause)
    return start.wait(60), time.monotonic() - begin


@pytest.mark.full
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.fault("F3")
def test_sigterm(starter, golden, tmp_path, status, figures, phase):
    point, saves = PHASES[phase]
    outcome, seconds = at(starter, tmp_path / "run", point, signal.SIGTERM)
    assert outcome.code == 75, outcome.err
    assert len(outcome.err.splitlines()) == 1
    steps = checkpoints.committed_steps(tmp_path / "run" / "checkpoints")
    assert bool(steps) == saves
    if saves:
        said = status(tmp_path / "run")
        assert (said["state"], said["saved"], said["code"]) == ("interrupted", True, 75)
        assert said["step"] == said["saved_step"] == steps[-1]  # not a step is done again
    assert starter.run(tmp_path / "run").code == 0
    end = snapshot(tmp_path / "run")
    assert [
        n for n in differences(golden, end) if n.startswith(("48/", "metrics", "results"))
    ] == []
    assert not leftovers(tmp_path / "run")
    figures["SIGTERM phases saved"] += 1
    figures["SIGTERM seconds to exit, longest"] = max(
        figures["SIGTERM seconds to exit, longest"], round(seconds, 2)
    )


@pytest.mark.full
@pytest.mark.parametrize(
    "number", [signal.SIGUSR1, pytest.param(signal.SIGUSR2, marks=pytest.mark.full)]
)
@pytest.mark.fault("F3")
def test_user_signals_mean_the_same(starter, tmp_path, number):
    assert at(starter, tmp_path / "run", "train.step:8", number)[0].code == 75


@pytest.mark.fault("F4")
def test_a_second_signal_leaves_at_once_and_harms_nothing(starter, tmp_path):
    fault = "save.state:2:sleep=600"  # longer than this waits for its end
    start = starter.start(tmp_path / "run", fault=fault)
    start.wait_for("step 12/48")
    start.signal(signal.SIGTERM)
    time.sleep(0.3)
    start.signal(signal.SIGTERM)
    assert start.wait().code == 143
    assert checkpoint.recover(tmp_path / "run" / "checkpoints", print) is not None


@pytest.mark.fault("F4")
def test_the_same_request_twice_within_a_moment_counts_once():
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stop):
            signals.poll()


@pytest.mark.fault("F4")
def test_a_request_that_a_launcher_hands_on_is_no_second_one():
    with Signals() as signals:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
            time.sleep(0.15)
        with pytest.raises(Stop):
            signals.poll()


@pytest.mark.fault("F3")
def test_signals_that_are_ignored_stay_ignored():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            signals.poll()
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.full
@pytest.mark.fault("F6")
def test_a_signal_to_the_whole_group_saves_once(starter, tmp_path, status):
    start = starter.start(tmp_path / "run", fault="train.step:20:sleep=1")
    start.wait_for("step 16/48")
    os.killpg(start.pid, signal.SIGTERM)
    assert start.wait().code == 75
    said = status(tmp_path / "run")
    assert said["saved"]
    assert checkpoints.committed_steps(tmp_path / "run" / "checkpoints")[-1] == said["step"]


@pytest.mark.full
@pytest.mark.fault("F5")
def test_ctrl_c_in_a_terminal_saves_and_says_so_in_a_few_lines(tmp_path):
    """The command itself, in a terminal of its own."""
    controller, terminal = pty.openpty()
    # Make the terminal on standard input its own, as a shell does, then become the command.
    own = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", own, sys.executable, "-m", "tests.reliability.faults", "--config", "tests/tiny.py",
               "--workdir", str(tmp_path / "run")]  # fmt: skip
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "1",
        "ALEXNET_FAULT": "train.step:20:sleep=3",
    }
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    with process, os.fdopen(controller, "rb", buffering=0) as screen:
        os.close(terminal)
        shown = b""
        while b"step 16/48" not in shown:
            shown += screen.read(4096)
        os.write(controller, b"\x03")
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(30) == 130
    assert len(said.splitlines()) <= 5
    assert "the same command continues" in said.splitlines()[-1]
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["saved"], status["code"]) == ("interrupted", True, 130)
