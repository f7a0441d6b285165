"""Submit runs as an array of SLURM jobs, one per run.

Each job executes `python -m launch.member DIR HASH`, which starts the run, forwards signals, and requeues the job if
another start may succeed. --signal=B:TERM@120 asks SLURM for SIGTERM two minutes before the time limit and, where the
cluster is configured so, before preemption.
"""

import re
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

from alexnet_jax.config import find
from alexnet_jax.errors import ConfigError

from . import runs
from .runs import Run

#: Timeout of SLURM commands, long enough for a busy controller.
_TIMEOUT_SECONDS = 120


class Options(NamedTuple):
    """The resources of a job, as sbatch options; None for the default of the cluster."""

    partition: str | None = None
    #: For each process.
    cpus: int | None = None
    #: For each node.
    gpus: int | None = None
    memory: str | None = None
    time: str | None = None
    nodes: int = 1
    #: On each node; srun starts them if there is more than one in total.
    processes: int = 1
    #: Maximum number of jobs that run at the same time.
    most: int | None = None
    #: Additional sbatch options.
    extra: tuple[str, ...] = ()


def script(todo: list[Run], options: Options) -> str:
    """The batch script of an array of jobs for `todo`."""
    array = f"0-{len(todo) - 1}" + (f"%{options.most}" if options.most else "")
    members = todo[0].record.parent
    settings = {
        "job-name": "alexnet-sweep",
        "array": array,
        "output": f"{members}/slurm-%A_%a.out",
        "open-mode": "append",
        "signal": "B:TERM@120",
        "partition": options.partition,
        "nodes": options.nodes,
        "ntasks-per-node": options.processes,
        "cpus-per-task": options.cpus,
        "gpus-per-node": options.gpus,
        "mem": options.memory,
        "time": options.time,
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in settings.items() if value is not None]
    lines += ["#SBATCH --requeue", *(f"#SBATCH {option}" for option in options.extra)]
    starter = ["--srun"] if options.nodes * options.processes > 1 else []
    command = shlex.join(
        [sys.executable, "-m", f"{__package__}.member", str(todo[0].out), *starter]
    )
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            f"runs=({' '.join(run.identity for run in todo)})",
            f"cd {shlex.quote(str(find.IMPORT_ROOT))}",
            f"exec {command} ${{runs[$SLURM_ARRAY_TASK_ID]}}",
            "",
        ]
    )


def submit(todo: list[Run], options: Options) -> str:
    """Submit `todo` as one array and return its job id. Raises ConfigError with the message of SLURM."""
    for run in todo:
        runs.write_record(run)
    output = _run(["sbatch", "--parsable"], script(todo, options))
    job = output.strip().partition(";")[0]
    if not re.fullmatch(r"\d+", job):
        raise ConfigError(f"sbatch printed {output!r}, which is not a job id")
    for index, run in enumerate(todo):
        runs.write_record(run, slurm=f"{job}_{index}")
    return job


def queued(all_runs: list[Run]) -> dict[str, runs.State]:
    """The states of the runs in the queue, by identity."""
    jobs = {(runs.read_record(run) or {}).get("slurm"): run.identity for run in all_runs}
    jobs.pop(None, None)
    if not jobs or not shutil.which("squeue"):
        return {}
    found = {}
    for line in _run(["squeue", "--noheader", "--array", "--me", "--format=%i %T"]).splitlines():
        job, _, state = line.partition(" ")
        if job in jobs:
            found[jobs[job]] = runs.State("running" if state == "RUNNING" else "queued")
    return found


def requeue(job: str) -> bool:
    """Requeue a job, and return whether that was done.

    Only a job that SLURM lists as running is requeued: one that was cancelled must not start again, and SLURM itself
    requeues one that was preempted.
    """
    if "JobState=RUNNING" not in _run(["scontrol", "show", "job", job]):
        return False
    _run(["scontrol", "requeue", job])
    return True


def _run(command: list[str], text: str | None = None) -> str:
    """Run a SLURM command and return its output. Raises ConfigError."""
    if not shutil.which(command[0]):
        raise ConfigError(
            f"{command[0]} is not installed: --slurm needs a machine that can submit SLURM jobs"
        )
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{command[0]} did not respond in {_TIMEOUT_SECONDS} s") from None
    if done.returncode:
        raise ConfigError(f"{command[0]}: {' '.join(done.stderr.split())}")
    return done.stdout
