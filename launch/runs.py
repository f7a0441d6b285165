"""One run of a sweep: its command, its folder, and its state, all read from the disk.

DIR/HASH/ is the run folder; HASH says what moves the numbers of the run, so that the same run of two sweeps is
one. DIR/members/ has, for each, HASH.json (its command and how each start ended), HASH.out (what it said) and
HASH.lock (held by whoever runs it).
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.errors import ConfigError, StorageError
from alexnet_jax.run import reading, resume
from alexnet_jax.run.schemas import Errors, Launched, LaunchedStart, Results

ROOT = Path(__file__).resolve().parents[1]
RETRYABLE = (75, 8, 137, 138, 139)
"""Stopped and saved, stalled, killed, told to stop before it could listen, crashed: what another start may mend."""
MOST_RETRIES = 3
"""Without a new checkpoint in between; then it is for a person to look."""


class Run(NamedTuple):
    """A member of a sweep with one seed."""

    member: str
    seed: int
    config: str
    """As --config takes it."""
    overrides: tuple[str, ...]
    """--config.key=value arguments, those of the seed and the data among them."""
    out: Path
    identity: str

    @property
    def folder(self) -> Path:
        return self.out / self.identity

    @property
    def record(self) -> Path:
        return self.out / "members" / f"{self.identity}.json"

    @property
    def output(self) -> Path:
        """What its processes say, on both standard streams."""
        return self.record.with_suffix(".out")

    @property
    def command(self) -> list[str]:
        program = [sys.executable, "-m", "alexnet_jax.main"]
        return [*program, "--config", self.config, "--workdir", str(self.folder), *self.overrides]


class State(NamedTuple):
    """What became of a run."""

    name: str
    """waiting, running, queued, finished, stopped (another start may mend it) or failed."""
    code: int | None = None
    """Exit code of the last start; 128 + n for signal n."""
    step: int = 0


def run(member: str, config: str, overrides: dict, seed: int, out: Path) -> Run:
    """The run of a member; one whose config cannot be loaded has an identity too, and fails when it is started."""
    arguments = tuple(
        f"--config.{key}={value}" for key, value in (overrides | {"seed": seed}).items()
    )
    return Run(member, seed, config, arguments, out, _identity(config, arguments))


def _identity(config: str, arguments: tuple[str, ...]) -> str:
    with contextlib.chdir(ROOT):
        try:
            digest = resume.identity(configs.load(config, list(arguments)))
        except ConfigError:
            digest = hashlib.sha256(repr((config, arguments)).encode()).hexdigest()
    return digest[:16]


def state(run: Run) -> State:
    """The state of a run that no queue holds."""
    status = reading.read_status(run.folder)
    step, starts = status.get("saved_step", 0) if status else 0, _starts(run)
    if _is_locked(run):
        return State("running", None, status.get("step", 0) if status else 0)
    if status and status["state"] == "finished" and (run.folder / "results.json").exists():
        return State("finished", 0, step)
    if starts:
        code = starts[-1].get("code", 137)  # whoever started it was killed
    elif status:
        known = status.get("code")
        code = 137 if known is None else known
    else:
        return State("waiting")
    again = code in RETRYABLE and _starts_without_progress(starts) <= MOST_RETRIES
    return State("stopped" if again else "failed", code, step)


def _starts_without_progress(starts: list[LaunchedStart]) -> int:
    """How many of the last starts ended at the same checkpoint."""
    steps = [start.get("saved_step", 0) for start in starts]
    return next((i for i, step in enumerate(reversed(steps)) if step != steps[-1]), len(steps))


def read_record(run: Run) -> Launched | None:
    """What write_record wrote; None before that. Raises StorageError."""
    return files.read_json(
        run.record, Launched, remedy="remove it, and the same command starts the run again"
    )


def _starts(run: Run) -> list[LaunchedStart]:
    record = read_record(run)
    return record["starts"] if record else []


def write_record(run: Run, **changes) -> None:
    """Replace what members/HASH.json says of the run, and of its starts where `changes` has them."""
    content: dict = {"starts": []} | (read_record(run) or {})
    content |= {
        "member": run.member,
        "seed": run.seed,
        "config": run.config,
        "overrides": run.overrides,
    }
    try:
        run.record.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(run.record, json.dumps(content | changes, indent=1) + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {run.record}: {error.strerror}") from None


def from_record(out: Path, identity: str) -> Run:
    """The run that write_record told of."""
    here = Run("", 0, "", (), out, identity)
    content = read_record(here)
    if not content:
        raise ConfigError(f"{here.record} does not exist: python -m launch.sweep writes it")
    return Run(
        content["member"],
        content["seed"],
        content["config"],
        tuple(content["overrides"]),
        out,
        identity,
    )


def begin(run: Run) -> None:
    """Note a start."""
    start = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    write_record(run, starts=[*_starts(run), start])


def end(run: Run, code: int) -> None:
    """Note how the start ended that `begin` noted: `code` as subprocess has it."""
    starts = _starts(run)
    if not starts:
        raise StorageError(f"{run.record} has lost the start that ended with code {code}")
    starts[-1]["code"] = 128 - code if code < 0 else code
    starts[-1]["saved_step"] = reading.saved_step(run.folder)
    write_record(run, starts=starts)


def last_errors(results: Results | None) -> tuple[str, str, Errors] | None:
    """(split, views, errors) of the last held-out split by its last views; None where there are none."""
    splits = results["splits"] if results else {}
    every = [
        (split, view, found) for split, views in splits.items() for view, found in views.items()
    ]
    return every[-1] if every else None


@contextlib.contextmanager
def locked(run: Run) -> Iterator[bool]:
    """Whether this process now is the one that runs it. The lock goes with the process, however that ends."""
    file = take_lock(run)
    try:
        yield file is not None
    finally:
        if file:
            file.close()


def take_lock(run: Run):
    """The open lock file, to be closed when the run is over; None if another process has it."""
    path = run.record.with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; choose another --out") from None
    for _ in range(5):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:  # maybe another launcher that only looks
            time.sleep(0.02)
    file.close()
    return None


def _is_locked(run: Run) -> bool:
    if not run.record.with_suffix(".lock").exists():
        return False
    with open(run.record.with_suffix(".lock")) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@functools.cache
def memory_settings(platforms: str) -> dict[str, str]:
    """Of launch/malloc.env those for `platforms`, as JAX_PLATFORMS names them; '' for what this machine has."""
    environment = os.environ | {"JAX_PLATFORMS": platforms}
    command = [str(ROOT / "launch" / "memory.sh")]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in said.stdout.splitlines())


def environment() -> dict[str, str]:
    """That of a run on this machine: with the memory settings of memory.sh, and one compilation cache for all."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax-cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    return cache | dict(os.environ) | memory_settings(os.environ.get("JAX_PLATFORMS", ""))
