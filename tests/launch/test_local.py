"""Sweeps executed on this machine by the command, in processes of their own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import runs
from tests.reliability.compare import differences, snapshot

SECONDS = 240


def launch(out: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.launch.driver", "faulty", "--scale", "digits", "--out", str(out),
               "--local", *arguments]  # fmt: skip
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    return subprocess.Popen(
        command, cwd=runs.ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )  # fmt: skip


def finish(launcher: subprocess.Popen) -> tuple[int, str]:
    try:
        said, _ = launcher.communicate(timeout=SECONDS)
    finally:
        launcher.kill()
    return launcher.returncode, said


def states(said: str) -> dict[str, tuple[str, str]]:
    """The (state, code) of each member in the final table."""
    found = re.findall(r"│ (\w+) +│ +\d+ │ (\w+) +│ +(\d*) │", said)
    return {member: (state, code) for member, state, code in found}


def folder(out: Path, member: str) -> Path:
    for path in (out / "members").glob("*.json"):
        if json.loads(path.read_text())["member"] == member:
            return out / path.stem
    raise KeyError(member)


def without_config(shot: dict) -> dict:
    """Leave out the configs, in which all members differ."""
    return {name: value for name, value in shot.items() if not name.endswith("/config")}


def processes_of(out: Path) -> list[int]:
    """Process ids of training runs below `out`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        if b"alexnet_jax.main" in text and str(out).encode() in text:
            found.append(int(path.parent.name))
    return found


def wait_until(ready, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.fault("F46")
@pytest.mark.usefixtures("without_xla_flags")
def test_a_member_with_a_bad_config_fails_alone_and_is_left_to_a_person(tmp_path):
    code, said = finish(launch(tmp_path, "--only", "wrong"))
    assert code == 1
    assert states(said) == {"wrong": ("failed", "2")}
    assert "config.train.batch_size must be at least 1" in said
    code, said = finish(launch(tmp_path, "--only", "wrong"))
    assert code == 1 and "started" not in said
    code, said = finish(launch(tmp_path, "--only", "wrong", "--retry-failed"))
    assert code == 1 and "started wrong" in said


@pytest.mark.full
@pytest.mark.fault("F46")
def test_six_members_of_which_five_fail_end_in_six_states_and_two_go_on(tmp_path, figures):
    code, said = finish(launch(tmp_path, "--jobs", "2"))
    assert code == 1
    expected = {
        "good": ("finished", "0"), "diverging": ("failed", "4"), "wrong": ("failed", "2"),
        "killed": ("stopped", "137"), "preempted": ("stopped", "75"), "memory": ("failed", "7"),
    }  # fmt: skip
    assert states(said) == expected
    code, said = finish(launch(tmp_path, "--jobs", "2"))
    assert sorted(re.findall(r"started (\w+)", said)) == ["killed", "preempted"]
    assert code == 1  # three still failed
    good = without_config(snapshot(folder(tmp_path, "good")))
    for member in ("killed", "preempted"):
        end = without_config(snapshot(folder(tmp_path, member)))
        same = [n for n in differences(good, end) if n.startswith(("48/", "metrics", "results"))]
        assert same == [], member
    figures["sweep of six: states as promised"] += len(expected)
    code, said = finish(launch(tmp_path, "--only", "good", "killed", "preempted"))
    assert code == 0 and "started" not in said


@pytest.mark.full
@pytest.mark.fault("F47")
def test_a_killed_launcher_leaves_no_process_and_a_new_one_goes_on(tmp_path):
    long = ("--only", "good", "--config.train.epochs=4000.0")
    launcher = launch(tmp_path, *long)
    wait_until(lambda: list(tmp_path.glob("*/checkpoints/[1-9]*")))
    assert len(processes_of(tmp_path)) == 1
    launcher.kill()
    finish(launcher)
    wait_until(lambda: not processes_of(tmp_path))
    launcher = launch(tmp_path, *long)
    out = folder(tmp_path, "good")
    wait_until(lambda: "continuing from step" in (out / "log.txt").read_text())
    second = finish(launch(tmp_path, *long))
    assert "started" not in second[1] and states(second[1])["good"][0] == "running"
    launcher.send_signal(signal.SIGTERM)
    code, said = finish(launcher)
    assert code == 75
    assert states(said) == {"good": ("stopped", "75")}
    assert not processes_of(tmp_path)
