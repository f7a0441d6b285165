"""Training processes that do not outlive their launcher."""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence

from .environment import environment
from .runs import ROOT, Run

_PR_SET_PDEATHSIG = 1


def start(
    run: Run, prefix: Sequence[str] = (), cores: Sequence[int] = (), **variables: str
) -> subprocess.Popen[bytes]:
    """Start a run in its own process group; its output goes to members/HASH.out.

    The kernel kills it when the calling thread ends, so call this from the main thread.

    Args:
      prefix: A command that starts the run, such as srun.
      cores: The cores to use; default: all.
      variables: Additional environment variables.
    """
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before prctl
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
            [*prefix, *run.command], cwd=ROOT, env=environment() | threads | variables,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=prepare,
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a run to save and end, by SIGUSR1.

    srun forwards SIGUSR1, but kills its processes at SIGTERM. And where a scheduler sends SIGTERM to every process of
    a job, a second SIGTERM would end the run at once.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGUSR1)
