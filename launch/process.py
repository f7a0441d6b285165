"""Start and stop training processes, which the kernel kills when the launcher dies."""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Sequence

from alexnet_jax.config.find import ROOT

from .environment import environment
from .runs import Run

_PR_SET_PDEATHSIG = 1


def start(
    run: Run, prefix: Sequence[str] = (), cores: Sequence[int] = (), **variables: str
) -> subprocess.Popen[bytes]:
    """Start a run in its own process group, and append its output to members/HASH.out.

    The kernel kills the process when the calling thread ends, so call this from the main thread.

    Args:
      prefix: Arguments to put before the run's command, such as srun and its options.
      cores: CPU cores to run on; empty for all.
      variables: Additional environment variables.
    """
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the launcher died before prctl
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
    """Send SIGUSR1, which asks a run to save a checkpoint and exit.

    Not SIGTERM, for two reasons: srun forwards SIGUSR1 but kills its processes on SIGTERM, and a scheduler may have
    sent SIGTERM to every process of the job already; a second one ends the run without a checkpoint.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGUSR1)
