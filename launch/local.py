"""Execute runs on this machine, one per GPU or each on its own cores."""

import itertools
import os
import re
import shutil
import subprocess
import time
from typing import BinaryIO, NamedTuple

from alexnet_jax.errors import ConfigError
from alexnet_jax.run.signals import Signals

from . import process, runs, table
from .runs import Run

_POLL_SECONDS = 0.25
_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
#: Fraction of a GPU's memory that JAX preallocates by default.
_GPU_SHARE = 0.75


class Slot(NamedTuple):
    """The cores and the environment (GPU and memory settings) for one run at a time."""

    cores: tuple[int, ...]
    environment: dict[str, str]


def slots(jobs: int | None) -> list[Slot]:
    """Divide cores and GPUs into `jobs` slots; by default one per GPU, or one per core without GPUs.

    Each slot has one GPU; slots that share a GPU divide its memory.

    Raises:
      ConfigError: XLA_PYTHON_CLIENT_MEM_FRACTION is set too high for the slots that share a GPU.
    """
    gpus, cores = _gpus(), sorted(os.sched_getaffinity(0))
    count = jobs or len(gpus) or len(cores)
    per_slot = max(1, len(cores) // count)
    found = []
    for i in range(count):
        slot_cores = tuple(cores[(i * per_slot + j) % len(cores)] for j in range(per_slot))
        device: dict[str, str] = {}
        if gpus:
            sharing = len(range(i % len(gpus), count, len(gpus)))
            device = {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)], **_memory_share(sharing)}
        found.append(Slot(slot_cores, device))
    return found


def _memory_share(sharing: int) -> dict[str, str]:
    """Return the memory setting for `sharing` processes on a GPU: by default, the first would take _GPU_SHARE."""
    if sharing == 1:
        return {}
    if os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "").lower() in ("false", "0"):
        return {}  # memory is allocated on demand
    given = os.environ.get(_FRACTION)
    if given is None:
        return {_FRACTION: f"{int(1000 * _GPU_SHARE / sharing) / 1000}"}
    try:
        fits = 0 < float(given) * sharing <= 1
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(
            f"{_FRACTION}={given} is too much for {sharing} runs on one GPU: unset it, or use fewer --jobs"
        )
    return {}


def _gpus() -> list[str]:
    """List the GPUs visible to this process, in the form of CUDA_VISIBLE_DEVICES."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        names = [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
        # CUDA ignores everything after the first invalid name.
        return list(itertools.takewhile(re.compile(r"\d+$|GPU-|MIG-").match, names))
    if not shutil.which("nvidia-smi"):
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    return [
        str(i) for i, _ in enumerate(line for line in done.stdout.splitlines() if "GPU" in line)
    ]


def execute(all_runs: list[Run], todo: list[Run], jobs: int | None) -> int:
    """Execute the runs in `todo`, showing a table of `all_runs`.

    A run that fails does not stop the others. After a signal no more runs are started, and running ones save and exit.
    A second signal, or the end of this process, kills them.

    Returns:
      0 if all of `all_runs` are finished, otherwise 1; 75 or 130 after a signal.
    """
    waiting, free = list(todo), slots(jobs)
    running: dict[subprocess.Popen[bytes], tuple[Run, Slot, BinaryIO]] = {}
    stopping = False
    with Signals() as signals, table.Live(all_runs) as shown:
        while running or (waiting and not stopping):
            while waiting and free and not signals.received:
                run = waiting.pop(0)
                lock = runs.take_lock(run)
                if lock is None:
                    shown.print_line(f"{run.member} seed {run.seed}: in use by another launcher")
                    continue
                runs.begin(run)
                slot = free.pop()
                child = process.start(run, cores=slot.cores, **slot.environment)
                running[child] = run, slot, lock
                shown.report_start(run)
            if signals.received and not stopping:
                stopping = True
                shown.print_line(
                    "stopping: runs save their state and exit; a second signal kills them"
                )
                for child in running:
                    process.stop(child)
            for child in [child for child in running if child.poll() is not None]:
                run, slot, lock = running.pop(child)
                runs.end(run, child.returncode)
                lock.close()
                free.append(slot)
                shown.report_end(run)
            shown.refresh()
            time.sleep(_POLL_SECONDS)
        if signals.received:
            return signals.exit_code
    return 0 if all(runs.state(run).name == "finished" for run in all_runs) else 1
