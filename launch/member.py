"""Carry out one run of a sweep as a job of SLURM: what the batch script of launch/slurm.py calls.

python -m launch.member DIR HASH [--srun]

SIGTERM, SIGUSR1 and SIGUSR2 make the run save and end. It ends with the exit code of the run, after putting the job
back into the queue if the run was stopped, stalled or killed (at most three times without a new checkpoint).
"""

import os
import sys
import time
from pathlib import Path

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError, WorkdirError
from alexnet_jax.training.signals import Signals
from launch import process, runs, slurm

_LOOK_SECONDS = 0.25


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("dir", metavar="DIR")
    parser.add_argument("identity", metavar="HASH", help="as in DIR/members/HASH.json")
    parser.add_argument(
        "--srun", action="store_true", help="start the processes of the job by srun"
    )
    options = parser.parse_args(arguments)
    run = runs.from_record(Path(options.dir).absolute(), options.identity)
    with runs.locked(run) as mine, Signals() as signals:
        if not mine:
            raise WorkdirError(f"{run.folder} is run by another job or launcher")
        runs.begin(run)
        # srun hands signals on to its processes, and ends with the largest of their codes.
        prefix = ["srun", "--kill-on-bad-exit=1"] if options.srun else []
        child = process.start(run, prefix)
        told = False
        while child.poll() is None:
            if signals.received and not told:
                told = True
                process.stop(child)
            time.sleep(_LOOK_SECONDS)
        runs.end(run, child.returncode)
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


def _job() -> str | None:
    """The job that this is, as scontrol takes it; None outside SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


if __name__ == "__main__":
    cli.run(main)
