"""The watchdog: what counts as a stall, by a clock that the tests turn, and that nothing can keep it from its work."""

import json
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from alexnet_jax.run import watchdog
from alexnet_jax.run.watchdog import SLOW, Watchdog

SECONDS = 60
"""The longest that a test waits for another thread."""


@pytest.fixture
def clock(monkeypatch):
    """Its `now` is the time; nothing else makes it pass."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_step_that_does_not_come_is_a_stall(clock):
    dog = Watchdog(300, print, print)
    clock.now = SLOW
    assert dog._stalled(clock.now) == 0.0  # the first step is compiled
    dog.beat(step=True)
    clock.now += 300
    assert dog._stalled(clock.now) == 0.0
    clock.now += 1
    assert dog._stalled(clock.now) == 301


def test_slow_steps_and_what_was_announced_may_take_longer(clock):
    dog = Watchdog(300, print, print)
    dog.beat()
    for _ in range(9):
        clock.now += 100
        dog.beat(step=True)
    assert dog.limit == 2000
    dog.beat(SLOW)
    assert dog.limit == SLOW
    dog.beat()
    assert dog.limit == 2000


@pytest.mark.fault("F41")
def test_a_write_that_never_ends_is_a_stall_though_steps_go_on(clock):
    dog = Watchdog(300, print, print)
    with dog.watching(3600):
        for _ in range(36):
            clock.now += 100
            dog.beat(step=True)
            assert dog._stalled(clock.now) == 0.0
        clock.now += 1
        assert dog._stalled(clock.now) == 3601
    assert dog._stalled(clock.now) == 0.0  # it ended


def test_a_process_that_was_stopped_has_not_stalled(clock):
    dog = Watchdog(300, print, print)
    dog.beat()
    with dog.watching(3600):
        clock.now += 10_000
        assert dog._stalled(clock.now, suspended=10_000) == 0.0
        clock.now += 301
        assert dog._stalled(clock.now) == 301


@pytest.mark.fault("F41")
def test_a_heartbeat_that_hangs_keeps_the_watchdog_from_nothing(monkeypatch):
    """As a disk does that answers no more: the thread that writes the heartbeat never comes back."""
    hanging, stalled, forever = threading.Event(), threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        forever.wait()

    monkeypatch.setattr(watchdog, "_HEARTBEAT", 0.01)
    monkeypatch.setattr(watchdog, "_JOIN_SECONDS", 0.01)
    with Watchdog(0.05, lambda _: stalled.set(), hang) as dog:
        assert hanging.wait(SECONDS)
        dog.beat()
        assert stalled.wait(SECONDS)
    forever.set()


HUNG = """
import os, sys, threading
from alexnet_jax import files
from alexnet_jax.run import watchdog
from alexnet_jax.run.status import RunStatus
from alexnet_jax.run.workdir import Workdir

watchdog._HEARTBEAT = 0.01
hanging = threading.Event()
with Workdir(sys.argv[1]) as folder:
    status = RunStatus(folder)
    status.begin(7)
    status.write_running()
    def hang(*_):
        hanging.set()
        threading.Event().wait()
    files.write_atomically = hang
    end = lambda seconds: watchdog.exit_stalled(folder, status, seconds)
    with watchdog.Watchdog(0.05, end, folder.write_heartbeat) as dog:
        hanging.wait()  # in Workdir.write_heartbeat, with its lock
        dog.beat()
        folder.write_status("running", 8, 5)  # waits for the lock, for ever
"""


@pytest.mark.fault("F41")
def test_a_disk_that_hangs_in_the_heartbeat_ends_the_run_with_its_code(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HUNG, str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 8, done.stderr
    assert "no progress for" in done.stderr.splitlines()[-1]
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "running"
    assert "write_heartbeat" in (tmp_path / "run" / "log.txt").read_text()  # where it hangs
