"""Commands one after the other, each with a limit of its own, whose results last whatever comes after them.

A stage is a process group of its own. At its limit, and when this process is told to stop, the group is asked to end
and then killed. A stage that fails does not keep the next from its turn.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.run.signals import Signals

ROOT = Path(__file__).resolve().parents[1]
TAIL = 30
"""Lines of its output that are kept of a stage that is not done."""
LEAST = 5.0
"""Seconds: with less time left a stage is not begun."""
_LOOK_SECONDS = 0.05
_START = """
import ctypes, os, sys
PR_SET_PDEATHSIG, SIGKILL = 1, 9
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Becomes a command that is killed when this process dies, however it dies."""


class Stage(NamedTuple):
    name: str
    title: str
    command: list[str]
    expected: float
    """Seconds that it is thought to take."""
    limit: float
    """Seconds after which it is ended."""
    result: Callable[[], Any] = lambda: None
    """What it has left so far, called when it has ended, however that came; None for nothing."""
    skip: str = ""
    """Why it is not run."""
    grace: float = 10.0
    """Seconds that it has to end by itself when it is asked to."""


def carry_out(
    stages: list[Stage],
    record: dict[str, dict],
    folder: Path,
    limit: float,
    environment: dict[str, str],
    save: Callable[[], None],
) -> int:
    """Run the stages in their order, in `limit` seconds in all. What becomes of each goes into `record`, by name.

    Of each: `title`, `command`, `state`, `reason` unless it is done, `seconds`, `result`, and the last lines of its
    output (`said`) unless it is done; all of the output is NAME.log in `folder`. States: 'running', 'done', 'failed'
    (it ended by itself with another code than 0), 'cut' (it had too little time or none), 'skipped' (`Stage.skip`).
    `save` is called after each change. Returns 0; 1 if a stage failed; 75, or 130 for Ctrl-C, after a signal.
    """
    end = time.monotonic() + limit
    for stage in stages:
        record[stage.name] = {"title": stage.title, "command": stage.command, "state": "cut"}
        record[stage.name]["reason"] = "no time was left"
    with Signals() as signals:
        for stage in stages:
            row, left = record[stage.name], end - time.monotonic()
            if stage.skip:
                row |= {"state": "skipped", "reason": stage.skip}
            elif signals.received:
                row["reason"] = f"stopped by {signals.received.name}"
            elif left > LEAST:
                del row["reason"]
                row["state"] = "running"
                save()
                row |= _run(stage, min(stage.limit, left), folder, environment, signals)
            save()
            seconds = f" in {row['seconds']:.0f} s" if "seconds" in row else ""
            why = f": {row['reason']}" if "reason" in row else ""
            print(f"{stage.name}: {row['state']}{seconds}{why}", flush=True)
        if signals.received:
            return signals.exit_code
    return int(any(record[stage.name]["state"] == "failed" for stage in stages))


def _run(
    stage: Stage, seconds: float, folder: Path, environment: dict[str, str], signals: Signals
) -> dict[str, Any]:
    begun, path = time.monotonic(), folder / f"{stage.name}.log"
    with open(path, "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-SEc", _START, str(os.getpid()), *stage.command],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    row: dict[str, Any] = {"state": "done"}
    while process.poll() is None and row["state"] == "done":
        if signals.received:
            row = {"state": "cut", "reason": f"stopped by {signals.received.name}"}
        elif time.monotonic() > begun + seconds:
            row = {"state": "cut", "reason": f"not done in {seconds:.0f} s"}
        time.sleep(_LOOK_SECONDS)
    if row["state"] == "done" and process.returncode:
        row = {"state": "failed", "reason": f"ended with code {process.returncode}"}
    end_group(process, stage.grace)
    row["seconds"] = round(time.monotonic() - begun, 1)
    try:
        row["result"] = stage.result()
    except Exception as error:  # of a file that was being written
        row["result"] = None
        row["reason"] = f"{row.get('reason', 'done')}; no result: {type(error).__name__}: {error}"
    if row["state"] != "done":
        row["said"] = path.read_text(errors="replace").splitlines()[-TAIL:]
    return row


def end_group(process: subprocess.Popen, grace: float) -> None:
    """Ask a process and its group to end, and kill what there is of the group after at most `grace` seconds."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
