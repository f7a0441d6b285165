"""Execute commands one after the other, each with a time limit, saving results after each.

A stage is a process group. At its limit, and when this process is told to stop, the group is asked to end and then
killed. A failed stage does not prevent the next.
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

from alexnet_jax.config.find import IMPORT_ROOT
from alexnet_jax.run.signals import Signals

#: Lines of output that are kept of a stage that is not done.
TAIL = 30
#: With fewer seconds left no stage begins.
MIN_SECONDS = 5.0
_POLL_SECONDS = 0.05
#: Python code that executes the command in argv[2:], which the kernel kills when the process argv[1] dies.
_START = """
import ctypes, os, sys
PR_SET_PDEATHSIG, SIGKILL = 1, 9
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


class Stage(NamedTuple):
    """A command with its limits and its result."""

    name: str
    title: str
    command: list[str]
    #: Expected seconds.
    expected: float
    #: Seconds after which it is ended.
    limit: float
    #: Reads its result after it has ended for any reason; None if there is none.
    result: Callable[[], Any] = lambda: None
    #: The reason to skip it.
    skip: str = ""
    #: Seconds between asking it to end and killing it.
    grace: float = 10.0


def execute(
    stages: list[Stage],
    record: dict[str, dict[str, Any]],
    folder: Path,
    limit: float,
    environment: dict[str, str],
    save: Callable[[], None],
) -> int:
    """Execute the stages in order.

    Args:
      record: Filled by stage name: `title`, `command`, `state`, `seconds`, `result`, and unless it is done `reason` and
        the last lines of its output (`said`). States: 'running', 'done', 'failed' (with a nonzero exit code), 'cut'
        (for lack of time), 'skipped' (`Stage.skip`).
      folder: Gets the output of each stage, NAME.log.
      limit: Seconds for all stages.
      save: Called after each change of `record`.

    Returns:
      0; 1 if a stage failed; 75 or 130 after a signal.
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
            elif left > MIN_SECONDS:
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
            cwd=IMPORT_ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    row: dict[str, Any] = {"state": "done"}
    while process.poll() is None and row["state"] == "done":
        if signals.received:
            row = {"state": "cut", "reason": f"stopped by {signals.received.name}"}
        elif time.monotonic() > begun + seconds:
            row = {"state": "cut", "reason": f"not done in {seconds:.0f} s"}
        time.sleep(_POLL_SECONDS)
    if row["state"] == "done" and process.returncode:
        row = {"state": "failed", "reason": f"ended with code {process.returncode}"}
    end_group(process, stage.grace)
    row["seconds"] = round(time.monotonic() - begun, 1)
    try:
        row["result"] = stage.result()
    except Exception as error:  # the file may be incomplete
        row["result"] = None
        row["reason"] = f"{row.get('reason', 'done')}; no result: {type(error).__name__}: {error}"
    if row["state"] != "done":
        row["said"] = path.read_text(errors="replace").splitlines()[-TAIL:]
    return row


def end_group(process: subprocess.Popen[bytes], grace: float) -> None:
    """Ask a process and its group to end, and kill the group after at most `grace` seconds."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
