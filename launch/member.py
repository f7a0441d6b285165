"""Carry out one run of a sweep as a job of SLURM: what the batch script of launch/slurm.py calls.

python -m launch.member DIR HASH [--srun]

SIGTERM, SIGUSR1 and SIGUSR2 make the run save and end. It ends with the exit code of the run, after putting the job
back into the queue if the run was stopped, stalled or killed (at most three times without a new checkpoint).
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError, WorkdirError
from alexnet_jax.training.signals import STOP_SIGNALS
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
        # srun hands signals on to its processes, and ends with the largest of their codes.
        prefix = ["srun", "--kill-on-bad-exit=1"] if options.srun else []
        with handed_on() as hand_to:
            child = process.start(run, prefix)
            hand_to(child)
            runs.end(run, child.wait())
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
