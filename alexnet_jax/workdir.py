"""The run folder: who owns it, what was run there, and how evaluation and analysis read it."""

import calendar
import contextlib
import fcntl
import json
import os
import shlex
import socket
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.errors import ConfigError, StorageError, WorkdirError
from alexnet_jax.specs import Config

if TYPE_CHECKING:
    from alexnet_jax.data.statistics import Statistics

# Keys that may change between two starts of one run: they move no parameter of it.
HARMLESS = (
    "name", "data.path", "data.threads", "data.prefetch", "data.placement", "train.max_steps", "train.log_every",
    "train.checkpoint_every", "train.keep_every", "train.stall_seconds", "train.split_towers",
    "train.keep_powers_of_two", "train.checkpoint_minutes", "train.steps_per_dispatch",
)  # fmt: skip
_TIME = "%Y-%m-%dT%H:%M:%SZ"
ALIVE_SECONDS = 300
"""A run of another host whose heartbeat is younger than this is taken for a living one."""
_SILENT_SECONDS = 100
"""The same of an earlier start of the same job of SLURM, which may live on where a node was merely cut off."""


class Run(NamedTuple):
    """A trained network as evaluation and analysis take it."""

    config: Config
    config_tree: dict
    """The same as config.json has it."""
    step: int
    params: dict
    batch_stats: dict
    statistics: "Statistics"
    class_names: tuple[str, ...]


Step = int | Literal["best"] | None
"""Which checkpoint: that of a step, the one with the lowest validation error, or the newest."""


def load(path: str | Path, step: Step = None) -> Run:
    """The newest checkpoint of a run folder, the one that `step` says, or a .safetensors file of alexnet_jax.weights.

    Arrays are NumPy. Raises StorageError, and ConfigError where no checkpoint has a validation error.
    """
    if Path(path).suffix == ".safetensors":
        from alexnet_jax import weights

        if step is not None:
            raise ConfigError(f"{path} is one set of weights: it has no other steps")
        return weights.load(path)
    tree = _read_config(Path(path))
    if not files.is_utf8(Path(path).absolute()):
        raise StorageError(_not_utf8(Path(path).absolute()))
    from alexnet_jax.training import checkpoint

    folder, spec = Path(path).absolute() / "checkpoints", configs.parse(tree)
    found = checkpoint.latest(folder, _best(path, spec) if step == "best" else step)
    if found is None:
        raise StorageError(
            f"no checkpoint in {folder}: train first with python -m alexnet_jax.main --workdir {path}"
        )
    step, meta = found
    variables = checkpoint.load_variables(folder, step)
    spec = configs.with_classes(spec, len(meta["class_names"]))
    return Run(spec, tree, step, variables["params"], variables["batch_stats"],
               checkpoint.load_statistics(folder, step), tuple(meta["class_names"]))  # fmt: skip


def _best(path: str | Path, spec: Config) -> int:
    """The step of the checkpoint with the lowest validation error. Raises ConfigError."""
    from alexnet_jax.training import checkpoint

    steps = checkpoint.committed_steps(Path(path) / "checkpoints")
    errors = validation_errors(path, spec)
    best = checkpoint.best_step({step: errors[step] for step in steps if step in errors})
    if best is None:
        raise ConfigError(
            f"no checkpoint of {path} has a validation error, so none is the best: leave --step out for the newest"
        )
    return best


def load_config(path: str | Path) -> Config:
    """The checked config a run folder was trained with, with the classes that were counted. Raises StorageError."""
    spec = configs.parse(_read_config(Path(path)))
    if spec.model.num_classes is None:
        from alexnet_jax.training import checkpoint

        if found := checkpoint.latest(Path(path).absolute() / "checkpoints"):
            return configs.with_classes(spec, len(found[1]["class_names"]))
    return spec


def identity(config) -> str:
    """SHA-256 of all of a config (a ConfigDict) that moves the numbers of its run, its length included."""
    tree = json.loads(configs.to_json(config))
    for key in set(HARMLESS) - {"train.max_steps"}:
        section, _, name = key.rpartition(".")
        (tree[section] if section else tree).pop(name, None)
    return configs.digest(tree)


def read_metrics(path: str | Path) -> list[dict]:
    """The lines of a run folder's metrics.jsonl; a last one cut short (by a kill, or still being written) is left out.

    Raises WorkdirError without metrics.jsonl, and for a damaged line before the last.
    """
    file = Path(path) / "metrics.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        raise WorkdirError(f"cannot read {file}: --workdir must be a run folder") from None
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines) - 1:
                raise WorkdirError(
                    f"{file}: line {number + 1} is damaged; delete it and draw again"
                ) from None
    return rows


def validation_errors(path: str | Path, spec: Config) -> dict[int, float]:
    """Step -> top-1 error (fraction) of each evaluation of 'val' in metrics.jsonl of a run folder of `spec`."""
    key = f"eval_val_{spec.evaluation.views}_top1_error"
    if not (Path(path) / "metrics.jsonl").exists():
        return {}
    return {line["step"]: line[key] for line in read_metrics(path) if key in line}


def history(path: str | Path) -> list[dict]:
    """Every start of a run folder, the first first: {"time", "command", "config_sha256", "changes", "init_from"}.

    A line cut short by a kill is left out; without history.jsonl there are none.
    """
    starts = []
    with contextlib.suppress(OSError):
        for line in (Path(path) / "history.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                starts.append(json.loads(line))
    return starts


def begun_from(path: str | Path) -> str | None:
    """The weights with which a run folder was begun (--init-from); None if they were random."""
    return next((start.get("init_from") for start in history(path)), None)


class Workdir:
    """Exclusive use of a run folder, for as long as the context lasts.

    overwrite: rename a folder that is already there to NAME.old-TIME and begin a new one; nothing is deleted.
    steal: take the folder over from a run of another host that has shown no life for ALIVE_SECONDS.
    Raises WorkdirError if another process has it or if it holds something else, StorageError if it cannot be
    written.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, steal: bool = False) -> None:
        self.path = Path(path).absolute()
        self.checkpoints = self.path / "checkpoints"
        self.overwrites, self._steal = overwrite, steal
        self._lock = None
        self._status: dict = {}
        self._writing = threading.Lock()

    def check(self) -> None:
        """What __enter__ would refuse, found before anything is written. Raises ConfigError for an impossible name."""
        if not files.is_utf8(self.path):
            raise ConfigError(_not_utf8(self.path))
        if self.path.is_dir():
            names = {p.name for p in self.path.iterdir()} - {".lock", "config.json.tmp"}
            if names and "config.json" not in names and not self.overwrites:
                raise WorkdirError(
                    f"{self.path} holds files but no run; choose another --workdir, or --overwrite to rename it"
                )
        elif os.path.lexists(self.path):
            raise WorkdirError(f"{self.path} is not a folder; choose another --workdir")
        existing = files.existing_parent(self.path)
        if not os.access(existing, os.W_OK | os.X_OK):
            raise StorageError(f"cannot write to {existing}; choose another --workdir")
        if (self.path / ".lock").exists():
            with self:
                pass

    def __enter__(self) -> "Workdir":
        self._acquire()
        return self

    def __exit__(self, *_) -> None:
        if self._lock:
            self._lock.close()

    def _acquire(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Closed in __exit__: the lock lasts as long as the file is open. "a": not a byte of it changes.
            self._lock = open(self.path / ".lock", "a")  # noqa: SIM115
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise WorkdirError(
                f"{self.path} is in use by {_owner(self.path)}; wait for it or stop it"
            ) from None
        try:
            self._refuse_other_host()
        except WorkdirError:
            self._lock.close()
            raise

    def _refuse_other_host(self) -> None:
        """File locks may not reach other hosts: there the heartbeat in status.json decides."""
        status = self.status() or {}
        if status.get("state") != "running" or status["host"] == socket.gethostname():
            return
        if _is_earlier_start(status.get("slurm"), _slurm_start()):
            time.sleep(max(0.0, _SILENT_SECONDS - _age(status)))
            if self.status() == status:
                return
        age = _age(status)
        if age < ALIVE_SECONDS:
            raise WorkdirError(
                f"{self.path} is in use by {_owner(self.path)}, alive {max(age, 0):.0f} s ago; "
                f"wait for it or stop it (a killed one counts as dead after {ALIVE_SECONDS} s)"
            )
        if not self._steal:
            raise WorkdirError(
                f"{self.path} was in use by {_owner(self.path)}, which has shown no life for {age:.0f} s; "
                "--steal takes it over"
            )

    def begin(self) -> None:
        """Put aside what --overwrite is to put aside, and remove what a killed start left half written."""
        if self.overwrites:
            old = self.path.with_name(
                f"{self.path.name}.old-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
            )
            try:
                os.rename(self.path, old)
            except OSError as error:
                raise StorageError(f"cannot rename {self.path}: {error.strerror}") from None
            self.__exit__()
            self._acquire()
        for file in self.path.glob("*.tmp"):
            file.unlink(missing_ok=True)

    def changes(self, config, allowed: Iterable[str] = ()) -> dict:
        """{key: [old, new]} between the config of the run in the folder and `config` (a ConfigDict).

        Raises ConfigError if a key changed that moves the numbers of the run, unless it is `allowed`.
        """
        new = json.loads(configs.to_json(config))
        unknown = [key for key in allowed if key not in _flat(configs.completed(new))]
        if unknown:
            raise ConfigError(f"--override-resume={unknown[0]}: the config has no such key")
        if not (self.path / "config.json").exists():
            return {}
        return check_same(_read_config(self.path), new, self.path, allowed)

    def adopt(self, config, command: str, changes: dict, init_from: str | None = None) -> None:
        """Record `config` (a ConfigDict), the command that brought it, and the weights it asked to begin with."""
        self._replace("config.json", configs.to_json(config))
        entry = {"time": _now(), "command": command, "config_sha256": configs.digest(config)}
        entry |= {"changes": changes, "init_from": init_from}
        self._append("history.jsonl", json.dumps(entry) + "\n")

    def write(self, name: str, content: dict) -> None:
        """Replace a JSON file of the folder."""
        self._replace(name, json.dumps(content, indent=1, sort_keys=True))

    def write_bytes(self, name: str, content: bytes) -> None:
        """Replace a file of the folder, where it has other content."""
        with contextlib.suppress(OSError):
            if (self.path / name).read_bytes() == content:
                return
        self._replace(name, content)

    def write_status(
        self, state: str, step: int, saved_step: int, *, code: int | None = None, reason: str = ""
    ) -> None:
        """status.json: what the run is doing at `step`, or how it ended; `saved_step` is 0 with no checkpoint."""
        with self._writing:
            self._status = dict(
                state=state, step=step, saved=0 < saved_step == step, saved_step=saved_step, code=code,
                reason=reason, pid=os.getpid(), host=socket.gethostname(), slurm=_slurm_start(), heartbeat=_now(),
            )  # fmt: skip
            self.write("status.json", self._status)

    def write_heartbeat(self) -> None:
        """Show that the run lives, from any thread; a disk that refuses is left for the next checkpoint to report."""
        with self._writing:
            if self._status.get("state") == "running":
                with contextlib.suppress(StorageError):
                    self.write("status.json", self._status | {"heartbeat": _now()})

    def write_traceback(self, error: BaseException) -> None:
        """Append the traceback of `error` to log.txt; best effort."""
        with contextlib.suppress(StorageError):
            self._append("log.txt", "".join(traceback.format_exception(error)))

    def status(self) -> dict | None:
        """What status.json says; None before the first run, and where it is damaged."""
        try:
            return _read_json(self.path / "status.json")
        except StorageError:
            return None

    def environment(self) -> dict | None:
        """run.json of the start before; None before the first."""
        return _read_json(self.path / "run.json")

    def finished(self, last_step: int) -> dict | None:
        """results.json, if the run that this folder holds reached `last_step` and its checkpoint is intact."""
        from alexnet_jax.training import checkpoint

        results = _read_json(self.path / "results.json")
        if not results or results["step"] < last_step:
            return None
        found = checkpoint.latest(self.checkpoints)
        return results if found and found[0] >= last_step else None

    def _replace(self, name: str, content: str | bytes) -> None:
        try:
            files.write_atomically(self.path / name, content)
        except OSError as error:
            raise StorageError(f"cannot write {self.path / name}: {error.strerror}") from None

    def _append(self, name: str, text: str) -> None:
        try:
            with open(self.path / name, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError as error:
            raise StorageError(f"cannot write {self.path / name}: {error.strerror}") from None


class Bystander:
    """The run folder of a process that does not lead, which writes nothing there."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.checkpoints = self.path / "checkpoints"

    def __getattr__(self, name: str):
        if not name.startswith("write"):
            raise AttributeError(name)
        return lambda *_, **__: None


def check_same(old: dict, new: dict, where: Path, allowed: Iterable[str] = ()) -> dict:
    """{key: [old, new]} of what changed between two configs; a key that one does not list has its default there.

    Raises ConfigError naming each key that moves the numbers of a run, unless it is among `allowed`.
    """
    changes = differences(old, new)
    refused = [k for k in changes if k not in HARMLESS and k not in allowed]
    if refused:
        said = ", ".join("{}: {!r} -> {!r}".format(k, *changes[k]) for k in refused[:6])
        more = f" and {len(refused) - 6} more" if len(refused) > 6 else ""
        plain = all(isinstance(changes[k][0], bool | int | float | str) for k in refused[:6])
        kept = " ".join(shlex.quote(f"--config.{k}={changes[k][0]}") for k in refused[:6])
        keep = f"keep what the run has with {kept}, " if plain else ""
        raise ConfigError(
            f"{where} holds a run with another config ({said}{more}); choose another --workdir, {keep}or "
            f"allow it with {' '.join('--override-resume=' + k for k in refused[:6])}"
        )
    return changes


def differences(old: dict, new: dict) -> dict[str, list]:
    """{key: [old, new]} of what differs between two configs; a key that one does not list has its default there."""
    a, b = (_flat(configs.completed(tree)) for tree in (old, new))
    return {k: [a.get(k), b.get(k)] for k in sorted({*a, *b}) if a.get(k) != b.get(k)}


def _read_config(path: Path) -> dict:
    content = _read_json(path / "config.json")
    if content is None:
        raise StorageError(f"{path} is not a run folder: it has no config.json")
    return content


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read {path}: {error}") from None


def _not_utf8(path: Path) -> str:
    return (
        f"the name of the run folder {os.fsencode(path)!r} is not UTF-8 text in this locale, which checkpoints need: "
        "choose another --workdir, or set PYTHONUTF8=1 if the name is UTF-8"
    )


def _owner(path: Path) -> str:
    try:
        status = _read_json(path / "status.json") or {}
    except StorageError:
        status = {}
    return f"process {status.get('pid', '?')} on {status.get('host', '?')}"


def _slurm_start() -> list[int] | None:
    """Job of SLURM and how often it was put back into the queue; None outside SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    return [int(job), int(os.environ.get("SLURM_RESTART_COUNT", 0))] if job else None


def _is_earlier_start(one: list[int] | None, now: list[int] | None) -> bool:
    """Whether `one` is a start of this job from which SLURM put it back into the queue: it should be over."""
    return bool(one and now and one[0] == now[0] and one[1] < now[1])


def _age(status: dict) -> float:
    """Seconds since the heartbeat."""
    return time.time() - calendar.timegm(time.strptime(status["heartbeat"], _TIME))


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, dict) and value
            else {prefix + key: value}
        )
    return flat


def _now() -> str:
    return time.strftime(_TIME, time.gmtime())
