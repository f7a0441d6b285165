"""A run of a sweep: its command, folder and state, all read from disk.

DIR/HASH/ is the run folder. HASH depends on the settings that affect its results, so that a run that two sweeps have in
common is trained once.
DIR/members/ has, for each run, HASH.json (its command and the exit code of each start), HASH.out (its output) and
HASH.lock (held by the process that executes it).
"""

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ml_collections import ConfigDict

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.config.find import ROOT
from alexnet_jax.errors import ConfigError, StorageError
from alexnet_jax.run import reading, resume, schemas
from alexnet_jax.run.schemas import Errors, Launched, LaunchedStart, Results

#: Exit codes after which another start may succeed: stopped and saved, stalled, killed, signaled at its start, crashed.
RETRYABLE = (75, 8, 137, 138, 139)
#: Maximum number of retries without a new checkpoint.
MAX_RETRIES = 3


class Run(NamedTuple):
    """A member of a sweep with one seed."""

    member: str
    seed: int
    #: The argument of --config.
    config: str
    #: --config.key=value arguments, with those for seed and data.
    overrides: tuple[str, ...]
    out: Path
    identity: str

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out / self.identity

    @property
    def record(self) -> Path:
        """The file with its command and starts."""
        return self.out / "members" / f"{self.identity}.json"

    @property
    def output(self) -> Path:
        """The file with the standard output and error of its processes."""
        return self.record.with_suffix(".out")

    @property
    def command(self) -> list[str]:
        """The training command, for the environment of environment.py."""
        # -P: the working folder has modules whose names could hide others.
        program = [sys.executable, "-P", "-m", "alexnet_jax.main"]
        return [*program, "--config", self.config, "--workdir", str(self.folder), *self.overrides]


class State(NamedTuple):
    """The state of a run."""

    #: waiting, running, queued, finished, stopped (another start may succeed) or failed.
    name: str
    #: Exit code of the last start; 128 + n for signal n.
    code: int | None = None
    step: int = 0


def run(member: str, config: str, overrides: dict[str, Any], seed: int, out: Path) -> Run:
    """The run of a member of a sweep. A config that cannot be loaded fails only when the run is started."""
    arguments = tuple(
        f"--config.{key}={value}" for key, value in (overrides | {"seed": seed}).items()
    )
    return Run(member, seed, config, arguments, out, _identity(config, arguments))


def _identity(config: str, arguments: tuple[str, ...]) -> str:
    try:
        digest = resume.identity(load_config(config, arguments))
    except ConfigError:
        digest = hashlib.sha256(repr((config, arguments)).encode()).hexdigest()
    return digest[:16]


def load_config(config: str, overrides: tuple[str, ...]) -> ConfigDict:
    """Load the configuration of a run, whose config is below the root. Raises ConfigError."""
    with contextlib.chdir(ROOT):
        return configs.load(config, list(overrides))


def state(run: Run) -> State:
    """Read the state of a run that is not in a SLURM queue."""
    status = reading.read_status(run.folder)
    step, starts = status.get("saved_step", 0) if status else 0, _starts(run)
    if files.is_locked(_lock_path(run)):
        return State("running", None, status.get("step", 0) if status else 0)
    if status and status["state"] == "finished" and (run.folder / "results.json").exists():
        return State("finished", 0, step)
    if starts:
        code = starts[-1].get("code", 137)  # its launcher was killed
    elif status:
        known = status.get("code")
        code = 137 if known is None else known
    else:
        return State("waiting")
    again = code in RETRYABLE and _starts_without_progress(starts) <= MAX_RETRIES
    return State("stopped" if again else "failed", code, step)


def _starts_without_progress(starts: list[LaunchedStart]) -> int:
    """Count the most recent starts that ended at the same checkpoint."""
    steps = [start.get("saved_step", 0) for start in starts]
    return next((i for i, step in enumerate(reversed(steps)) if step != steps[-1]), len(steps))


def read_record(run: Run) -> Launched | None:
    """Read members/HASH.json; None if there is none. Raises StorageError."""
    return files.read_json(
        run.record, Launched, remedy="remove it, and the same command starts the run again"
    )


def _starts(run: Run) -> list[LaunchedStart]:
    record = read_record(run)
    return record["starts"] if record else []


def write_record(run: Run, **changes: Any) -> None:
    """Update members/HASH.json with `run` and `changes`. Raises StorageError."""
    content: dict[str, Any] = {"starts": []} | (read_record(run) or {})
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
    """Read a run from its record. Raises ConfigError if there is none."""
    here = Run("", 0, "", (), out, identity)
    content = read_record(here)
    if not content:
        raise ConfigError(f"{here.record} does not exist: alexnet sweep writes it")
    return Run(
        content["member"],
        content["seed"],
        content["config"],
        tuple(content["overrides"]),
        out,
        identity,
    )


def begin(run: Run) -> None:
    """Record a start."""
    start = {"time": schemas.now()}
    write_record(run, starts=[*_starts(run), start])


def end(run: Run, code: int) -> None:
    """Record the end of the last start; `code` is subprocess's return code, -n for signal n."""
    starts = _starts(run)
    if not starts:
        raise StorageError(f"{run.record} has lost the start that ended with code {code}")
    starts[-1]["code"] = 128 - code if code < 0 else code
    starts[-1]["saved_step"] = reading.saved_step(run.folder)
    write_record(run, starts=starts)


def last_errors(results: Results | None) -> tuple[str, str, Errors] | None:
    """(split, views, errors) of the last held-out split with its last views; None without results."""
    splits = results["splits"] if results else {}
    all_errors = [
        (split, view, found) for split, views in splits.items() for view, found in views.items()
    ]
    return all_errors[-1] if all_errors else None


@contextlib.contextmanager
def locked(run: Run) -> Iterator[bool]:
    """Try to lock a run until the context or the process ends, and yield whether it is locked."""
    file = take_lock(run)
    try:
        yield file is not None
    finally:
        if file:
            file.close()


def take_lock(run: Run) -> BinaryIO | None:
    """Lock a run.

    Returns:
        The open lock file, to be closed at the end of the run; None if another process holds the lock.

    Raises:
        StorageError: The lock file cannot be written.
    """
    path = _lock_path(run)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(5):
            if lock := files.lock(path):
                return lock
            time.sleep(0.02)  # another launcher may hold it for a moment to read the state
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; choose another --out") from None
    return None


def _lock_path(run: Run) -> Path:
    return run.record.with_suffix(".lock")
