"""Execute one run of a sweep as a SLURM job; called by the batch script of slurm.py.

python -m launch.member DIR HASH [--srun]

SIGTERM, SIGUSR1 and SIGUSR2 make the run save and exit. If the run was stopped, stalled or killed, the job is requeued
(at most three times without a new checkpoint). The exit code is that of the run.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError, StalledError, WorkdirError
from alexnet_jax.run import processes
from alexnet_jax.run.signals import STOP_SIGNALS

from . import process, runs, slurm


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("identity", metavar="HASH", help="as in DIR/members/HASH.json")
    parser.add_argument(
        "--srun", action="store_true", help="start the processes of the job with srun"
    )
    options = parser.parse_args(arguments)
    run = runs.from_record(Path(options.dir).absolute(), options.identity)
    with runs.locked(run) as acquired:
        if not acquired:
            raise WorkdirError(f"{run.folder} is in use by another job or launcher")
        runs.begin(run)
        before = run.output.stat().st_size if run.output.exists() else 0
        with forwarded_signals() as forward_to:
            child = process.start(run, _srun() if options.srun else [])
            forward_to(child)
            code = child.wait()
        output = run.output.read_bytes()[before:].decode(errors="replace")
        runs.end(run, exit_code(code, output) if options.srun else code)
    state = runs.state(run)
    print(
        f"{run.member} seed {run.seed}: {state.name}, code {state.code}, step {state.step}",
        flush=True,
    )
    if state.name == "stopped" and (job := _job()):
        try:
            if slurm.requeue(job):
                print(f"requeued as {job}", flush=True)
        except ConfigError as error:
            print(f"not requeued: {error}", file=sys.stderr, flush=True)
    return state.code or 0


def _srun() -> list[str]:
    """Return the srun command, which starts the processes of the job and exits with the largest of their codes."""
    # When a process ends, srun must not kill the others: they detect it themselves, and may still be saving.
    wait = processes.HEARTBEAT_SECONDS + 30
    # Since SLURM 22.05 srun does not inherit this from the job.
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")
    share = [f"--cpus-per-task={cpus}"] if cpus else []
    return ["srun", "--kill-on-bad-exit=0", f"--wait={wait}", *share]


def exit_code(code: int, output: str) -> int:
    """Return the exit code of the process that failed first, from the output of srun.

    The other processes then exit with the code of StalledError, which is larger than the codes of all causes.
    """
    found = re.findall(r"^srun: error: .*: Exited with exit code (\d+)$", output, re.MULTILINE)
    return min((int(one) for one in found if int(one) < StalledError.exit_code), default=code)


@contextlib.contextmanager
def forwarded_signals() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Context that forwards stop signals to a process; it yields the function that sets the process.

    Signals are forwarded at once. If SLURM signals the run too, the run treats both signals as one request.
    """
    children: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def forward(number: int, _frame: object) -> None:
        received.append(number)
        for child in children:
            process.stop(child)

    def forward_to(child: subprocess.Popen[bytes]) -> None:
        children.append(child)
        if received:
            process.stop(child)

    previous = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        yield forward_to
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _job() -> str | None:
    """Return the id of this job, in the form of scontrol; None outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


if __name__ == "__main__":
    cli.run(main)
