"""Runs as an array of SLURM jobs, one a run.

Each job carries out `python -m launch.member DIR HASH`, which starts the run, hands signals on, and puts the job back
into the queue when another start may mend what ended it. --signal=B:TERM@120 asks SLURM for that signal two minutes
before the time limit, and where the cluster is set up so, before preemption.
"""

import re
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

from alexnet_jax.errors import ConfigError
from launch import runs
from launch.runs import Run

_PATIENCE_SECONDS = 120
"""For each command of SLURM: a controller that is busy answers late."""


class Options(NamedTuple):
    """What a job asks for, in the words of sbatch; None leaves it to the cluster."""

    partition: str | None = None
    cpus: int | None = None
    """Of each process."""
    gpus: int | None = None
    """Of each node."""
    memory: str | None = None
    time: str | None = None
    nodes: int = 1
    processes: int = 1
    """On each node; more than one process in all makes srun start them."""
    most: int | None = None
    """Jobs that run at the same time."""
    extra: tuple[str, ...] = ()
    """Further options of sbatch, as they are."""


def script(todo: list[Run], options: Options) -> str:
    """The batch script of the array of `todo`."""
    array = f"0-{len(todo) - 1}" + (f"%{options.most}" if options.most else "")
    members = todo[0].record.parent
    asked = {
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
    lines = [f"#SBATCH --{name}={value}" for name, value in asked.items() if value is not None]
    lines += ["#SBATCH --requeue", *(f"#SBATCH {option}" for option in options.extra)]
    starter = ["--srun"] if options.nodes * options.processes > 1 else []
    command = shlex.join([sys.executable, "-m", "launch.member", str(todo[0].out), *starter])
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            f"runs=({' '.join(run.identity for run in todo)})",
            f"cd {shlex.quote(str(runs.ROOT))}",
            f"exec {command} ${{runs[$SLURM_ARRAY_TASK_ID]}}",
            "",
        ]
    )


def submit(todo: list[Run], options: Options) -> str:
    """Submit `todo` as one array; its job id. Raises ConfigError with what SLURM said."""
    for run in todo:
        runs.write_record(run)
    said = _ask(["sbatch", "--parsable"], script(todo, options))
    job = said.strip().partition(";")[0]
    if not re.fullmatch(r"\d+", job):
        raise ConfigError(f"sbatch answered {said!r}, which is no job id")
    for index, run in enumerate(todo):
        runs.write_record(run, slurm=f"{job}_{index}")
    return job


def queued(every: list[Run]) -> dict[str, runs.State]:
    """The states of those that SLURM has, by identity."""
    jobs = {(runs.read_record(run) or {}).get("slurm"): run.identity for run in every}
    jobs.pop(None, None)
    if not jobs or not shutil.which("squeue"):
        return {}
    found = {}
    for line in _ask(["squeue", "--noheader", "--array", "--me", "--format=%i %T"]).splitlines():
        job, _, state = line.partition(" ")
        if job in jobs:
            found[jobs[job]] = runs.State("running" if state == "RUNNING" else "queued")
    return found


def requeue(job: str) -> bool:
    """Put this job back into the queue, if SLURM still counts it as running: not after scancel, nor after a
    preemption, where SLURM does so itself."""
    if "JobState=RUNNING" not in _ask(["scontrol", "show", "job", job]):
        return False
    _ask(["scontrol", "requeue", job])
    return True


def _ask(command: list[str], text: str | None = None) -> str:
    """What a command of SLURM answers. Raises ConfigError."""
    if not shutil.which(command[0]):
        raise ConfigError(
            f"there is no {command[0]} here: --slurm is for a machine that submits jobs"
        )
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=_PATIENCE_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{command[0]} did not answer in {_PATIENCE_SECONDS} s") from None
    if done.returncode:
        raise ConfigError(f"{command[0]}: {' '.join(done.stderr.split())}")
    return done.stdout
