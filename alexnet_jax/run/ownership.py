"""Exclusive use of a run folder, by a file lock and, between hosts, by the heartbeat in status.json."""

import os
import socket
import time
from pathlib import Path
from typing import BinaryIO

from alexnet_jax import files
from alexnet_jax.errors import StorageError, WorkdirError
from alexnet_jax.run import reading, schemas
from alexnet_jax.run.schemas import Status

#: A run on another host is considered dead if its heartbeat is older than this.
ALIVE_SECONDS = 300
#: The same for an earlier start of the same SLURM job, which SLURM should have ended already.
_SILENT_SECONDS = 100


def acquire(folder: Path, *, steal: bool = False) -> BinaryIO:
    """Create the run folder if needed, and lock it until the returned file is closed.

    Args:
        steal: Take over a folder whose owner on another host has sent no heartbeat for ALIVE_SECONDS.

    Raises:
        WorkdirError: Another process uses the folder.
        StorageError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = files.lock(folder / ".lock")
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror}") from None
    if lock is None:
        raise WorkdirError(f"{folder} is in use by {_owner(folder)}; wait for it or stop it")
    try:
        _refuse_other_host(folder, steal)
    except WorkdirError:
        lock.close()
        raise
    return lock


def slurm_start() -> list[int] | None:
    """Return the SLURM job ID and how often the job was requeued; None outside SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    return [int(job), int(os.environ.get("SLURM_RESTART_COUNT", 0))] if job else None


def _refuse_other_host(folder: Path, steal: bool) -> None:
    """Raise WorkdirError if a process on another host uses the folder: file locks may not work between hosts."""
    status = reading.read_status(folder)
    if status is None or status["state"] != "running" or status["host"] == socket.gethostname():
        return
    if _is_earlier_start(status.get("slurm"), slurm_start()):
        time.sleep(min(max(0.0, _SILENT_SECONDS - _age(status)), _SILENT_SECONDS))
        if reading.read_status(folder) == status:
            return
    age = _age(status)
    if age < -ALIVE_SECONDS and not steal:
        raise WorkdirError(
            f"{folder} is in use by {_owner(folder)}, or its status.json is damaged: the heartbeat "
            f"{status['heartbeat']} is in the future; set the clocks right, or --steal takes it over"
        )
    if abs(age) < ALIVE_SECONDS:
        raise WorkdirError(
            f"{folder} is in use by {_owner(folder)}, alive {max(age, 0):.0f} s ago; "
            f"wait for it or stop it (a killed run counts as dead after {ALIVE_SECONDS} s)"
        )
    if not steal:
        raise WorkdirError(
            f"{folder} was in use by {_owner(folder)}, which has sent no heartbeat for {age:.0f} s; "
            "--steal takes it over"
        )


def _owner(folder: Path) -> str:
    status = reading.read_status(folder)
    return f"process {status.get('pid', '?')} on {status['host']}" if status else "another process"


def _is_earlier_start(one: list[int] | None, now: list[int] | None) -> bool:
    """Whether `one` is a start of the SLURM job of `now` before it was requeued."""
    return bool(one and now and one[0] == now[0] and one[1] < now[1])


def _age(status: Status) -> float:
    """Return the seconds since the heartbeat."""
    return time.time() - schemas.seconds(status["heartbeat"])
