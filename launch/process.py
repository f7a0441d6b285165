"""A training process that does not outlive whoever started it."""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence

from launch import runs
from launch.runs import Run

_PR_SET_PDEATHSIG = 1


def start(
    run: Run, prefix: Sequence[str] = (), cores: Sequence[int] = (), **environment: str
) -> subprocess.Popen:
    """Start a run in a process group of its own, on `cores` alone if any are given; output goes to members/HASH.out.

    It is killed when the thread that started it ends, which leaves its checkpoints: so start it from the main one.
    """
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before that
            os.kill(os.getpid(), signal.SIGKILL)
        if cores:
            os.sched_setaffinity(0, cores)

    threads = (
        {"OMP_NUM_THREADS": str(len(cores)), "OPENBLAS_NUM_THREADS": str(len(cores))}
        if cores
        else {}
    )
    with open(run.output, "a") as output:
        return subprocess.Popen(
            [*prefix, *run.command], cwd=runs.ROOT, env=runs.environment() | threads | environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=prepare,
        )  # fmt: skip


def stop(process: subprocess.Popen) -> None:
    """Ask a run to save and end.

    By SIGUSR1: srun hands that on, but at a SIGTERM kills what it started. Nor does it count as a second SIGTERM
    where a scheduler sends one to every process of a job.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGUSR1)
