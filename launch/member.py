"""Carry out one run of a sweep as a job of SLURM: what the batch script of launch/slurm.py calls.

python -m launch.member DIR HASH [--srun]

SIGTERM, SIGUSR1 and SIGUSR2 make the run save and end. It ends with the exit code of the run, after putting the job
back into the queue if the run was stopped, stalled or killed (at most three times without a new checkpoint).
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
from launch import process, runs, slurm


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("identity", metavar="HASH", help="as in DIR/members/HASH.json")
    parser.add_argument(
        "--srun", action="store_true", help="start the processes of the job by srun"
    )
    options = parser.parse_args(arguments)
    run = runs.from_record(Path(options.dir).absolute(), options.identity)
    with runs.locked(run) as mine:
        if not mine:
            raise WorkdirError(f"{run.folder} is run by another job or launcher")
        runs.begin(run)
        before = run.output.stat().st_size if run.output.exists() else 0
        with handed_on() as hand_to:
            child = process.start(run, _srun() if options.srun else [])
            hand_to(child)
            code = child.wait()
        said = run.output.read_bytes()[before:].decode(errors="replace")
        runs.end(run, why(code, said) if options.srun else code)
    state = runs.state(run)
    print(
        f"{run.member} seed {run.seed}: {state.name}, code {state.code}, step {state.step}",
        flush=True,
    )
    if state.name == "stopped" and (job := _job()):
        try:
            if slurm.requeue(job):
                print(f"back into the queue as {job}", flush=True)
        except ConfigError as error:
            print(f"not put back into the queue: {error}", file=sys.stderr, flush=True)
    return state.code or 0


def _srun() -> list[str]:
    """The command that starts the processes of the job and ends with the largest of their codes."""
    # A process that ends is no reason to kill the others, which may be saving still: they notice by themselves.
    wait = processes.HEARTBEAT_SECONDS + 30
    # From SLURM 22.05 on, srun does not take this from the job.
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")
    share = [f"--cpus-per-task={cpus}"] if cpus else []
    return ["srun", "--kill-on-bad-exit=0", f"--wait={wait}", *share]


def why(code: int, said: str) -> int:
    """The code of the process that knows what is wrong, by what srun `said`; of those that lost it, it is larger."""
    found = re.findall(r"^srun: error: .*: Exited with exit code (\d+)$", said, re.MULTILINE)
    return min((int(one) for one in found if int(one) < StalledError.exit_code), default=code)


@contextlib.contextmanager
def handed_on() -> Iterator[Callable[[subprocess.Popen], None]]:
    """Inside, signals that ask to stop go on to the process that was named, or will be.

    At once: where SLURM signals all processes of a job, the run has to take both for one request.
    """
    children: list[subprocess.Popen] = []
    received = []

    def note(number: int, _frame) -> None:
        received.append(number)
        for child in children:
            process.stop(child)

    def hand_to(child: subprocess.Popen) -> None:
        children.append(child)
        if received:
            process.stop(child)

    previous = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield hand_to
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _job() -> str | None:
    """The job that this is, as scontrol takes it; None outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


if __name__ == "__main__":
    cli.run(main)
