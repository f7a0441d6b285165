"""Runs on this machine: one a device, or each on cores of its own."""

import itertools
import os
import re
import shutil
import subprocess
import time
from typing import NamedTuple

from alexnet_jax.errors import ConfigError
from alexnet_jax.run.signals import Signals
from launch import process, runs, table
from launch.runs import Run

_LOOK_SECONDS = 0.25
_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
_GPU_SHARE = 0.75
"""Of the memory of a GPU, what JAX takes by default when it starts."""


class Slot(NamedTuple):
    """Where one run at a time is carried out."""

    cores: tuple[int, ...]
    environment: dict[str, str]


def slots(jobs: int | None) -> list[Slot]:
    """`jobs` slots, by default one a GPU, or one a core where there is none; cores are divided among them.

    Each has one GPU, and those that share one divide its memory. Raises ConfigError where the environment gives each
    more than its part.
    """
    gpus, cores = _gpus(), sorted(os.sched_getaffinity(0))
    count = jobs or len(gpus) or len(cores)
    each = max(1, len(cores) // count)
    found = []
    for i in range(count):
        mine = tuple(cores[(i * each + j) % len(cores)] for j in range(each))
        device = {}
        if gpus:
            sharing = len(range(i % len(gpus), count, len(gpus)))
            device = {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)], **_memory_share(sharing)}
        found.append(Slot(mine, device))
    return found


def _memory_share(sharing: int) -> dict[str, str]:
    """Of a GPU for each of `sharing` processes; JAX would take _GPU_SHARE for the first alone. Raises ConfigError."""
    if sharing == 1:
        return {}
    if os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "").lower() in ("false", "0"):
        return {}  # each takes what it needs
    given = os.environ.get(_FRACTION)
    if given is None:
        return {_FRACTION: f"{int(1000 * _GPU_SHARE / sharing) / 1000}"}
    try:
        fits = 0 < float(given) * sharing <= 1
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(
            f"{_FRACTION}={given} is set, and {sharing} runs at a time share a GPU: unset it, or give fewer --jobs"
        )
    return {}


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        names = [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
        # As CUDA reads it: what follows a name that is none is not there.
        return list(itertools.takewhile(re.compile(r"\d+$|GPU-|MIG-").match, names))
    if not shutil.which("nvidia-smi"):
        return []
    said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    return [
        str(i) for i, _ in enumerate(line for line in said.stdout.splitlines() if "GPU" in line)
    ]


def carry_out(every: list[Run], todo: list[Run], jobs: int | None) -> int:
    """Run `todo` and show a table of `every`: 0 when all of these are finished, 1 when not, 75 or 130 after a signal.

    One that fails does not stop the others. After a signal no more are started, and those that run save and end; a
    second signal ends them at once, as does whatever ends this process.
    """
    waiting, free = list(todo), slots(jobs)
    going: dict[subprocess.Popen, tuple[Run, Slot, object]] = {}
    stopping = False
    with Signals() as signals, table.Live(every) as shown:
        while going or (waiting and not stopping):
            while waiting and free and not signals.received:
                run = waiting.pop(0)
                lock = runs.take_lock(run)
                if lock is None:
                    shown.say(f"{run.member} seed {run.seed}: another launcher has it")
                    continue
                runs.begin(run)
                slot = free.pop()
                child = process.start(run, cores=slot.cores, **slot.environment)
                going[child] = run, slot, lock
                shown.started(run)
            if signals.received and not stopping:
                stopping = True
                shown.say("stopping: runs save their state and end; a second signal does not wait")
                for child in going:
                    process.stop(child)
            for child in [child for child in going if child.poll() is not None]:
                run, slot, lock = going.pop(child)
                runs.end(run, child.returncode)
                lock.close()  # type: ignore[attr-defined]
                free.append(slot)
                shown.ended(run)
            shown.refresh()
            time.sleep(_LOOK_SECONDS)
        if signals.received:
            return signals.exit_code
    return 0 if all(runs.state(run).name == "finished" for run in every) else 1
