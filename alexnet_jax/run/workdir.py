"""The run folder: who owns it, what was run there, and how evaluation and analysis read it."""

import bisect
import contextlib
import fcntl
import json
import logging
import os
import shlex
import socket
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.errors import ConfigError, StorageError, WorkdirError, listed
from alexnet_jax.run import schemas
from alexnet_jax.run.schemas import Environment, Metrics, Results, Start, Status
from alexnet_jax.specs import Config

if TYPE_CHECKING:
    pass

# Keys that may change between two starts of one run: they move no parameter of it.
HARMLESS = (
    "name", "data.path", "data.threads", "data.prefetch", "data.placement", "train.max_steps", "train.log_every",
    "train.checkpoint_every", "train.keep_every", "train.stall_seconds", "train.split_towers",
    "train.keep_powers_of_two", "train.checkpoint_minutes", "train.steps_per_dispatch",
)  # fmt: skip
ALIVE_SECONDS = 300
"""A run of another host whose heartbeat is younger than this is taken for a living one."""
_SILENT_SECONDS = 100
"""The same of an earlier start of the same job of SLURM, which may live on where a node was merely cut off."""
log = logging.getLogger(__name__)


def identity(config) -> str:
    """SHA-256 of all of a config (a ConfigDict) that moves the numbers of its run, its length included."""
    tree = json.loads(configs.to_json(config))
    for key in set(HARMLESS) - {"train.max_steps"}:
        section, _, name = key.rpartition(".")
        (tree[section] if section else tree).pop(name, None)
    return configs.digest(tree)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a run folder's metrics.jsonl, in the order of their steps.

    A last one cut short (by a kill, or still being written) is left out, and so are damaged ones, which a warning
    names. Raises WorkdirError without metrics.jsonl.
    """
    file = Path(path) / "metrics.jsonl"
    if not file.exists():
        raise WorkdirError(f"cannot read {file}: --workdir must be a run folder")
    lines = metrics_lines(file)
    if warning := damaged_lines(file, lines):
        log.warning("%s", warning)
    return [line for _, line in lines if not isinstance(line, str)]


def metrics_lines(file: Path) -> list[tuple[bytes, dict[str, Any] | str]]:
    """Each line of a metrics.jsonl, and its values or what is wrong with it. Raises WorkdirError.

    Steps never fall from line to line: of those that do, as few as possible count as damaged.
    """
    lines: list[tuple[bytes, Any]] = [
        (text, _with_numbers(line))
        for text, line in files.read_json_lines(file, Metrics, error=WorkdirError)
    ]
    whole = [i for i, (_, line) in enumerate(lines) if not isinstance(line, str)]
    rising = _longest_rise([lines[i][1]["step"] for i in whole])
    for i in set(whole) - {whole[j] for j in rising}:
        lines[i] = lines[i][0], f"its step {lines[i][1]['step']} is not between its neighbors'"
    return lines


def _with_numbers(line: Any) -> Any:
    """A line of metrics.jsonl, or what is wrong with the errors that it has."""
    if not isinstance(line, str):
        for key, value in line.items():
            measured = key.startswith(("eval_", "train_"))
            if measured and (isinstance(value, bool) or not isinstance(value, int | float)):
                return f"{key} is no number"
            if measured and "epoch" not in line:
                return f"it has {key} and no epoch"
    return line


def _longest_rise(numbers: list[int]) -> list[int]:
    """The places of a longest sequence among `numbers` that does not fall."""
    ends, places, before = [], [], []
    for i, number in enumerate(numbers):
        length = bisect.bisect_right(ends, number)
        ends[length : length + 1], places[length : length + 1] = [number], [i]
        before.append(places[length - 1] if length else None)
    found, last = [], places[-1] if places else None
    while last is not None:
        found.append(last)
        last = before[last]
    return found[::-1]


def damaged_lines(file: Path, lines: list[tuple[bytes, Any]]) -> str | None:
    """What to say of the damaged ones among the lines of a file, but for a last one cut off; None if there are none."""
    if lines and not lines[-1][0].endswith(b"\n"):
        lines = lines[:-1]
    wrong = [(number, line) for number, (_, line) in enumerate(lines, 1) if isinstance(line, str)]
    if not wrong:
        return None
    shown = listed([f"line {number} ({fault})" for number, fault in wrong], 3)
    return f"{file} is damaged and was read without {shown}"


def validation_errors(path: str | Path, spec: Config) -> dict[int, float]:
    """Step -> top-1 error (fraction) of each evaluation of 'val' in metrics.jsonl of a run folder of `spec`."""
    key = f"eval_val_{spec.evaluation.views}_top1_error"
    if not (Path(path) / "metrics.jsonl").exists():
        return {}
    return {line["step"]: line[key] for line in read_metrics(path) if key in line}


def history(path: str | Path) -> list[Start]:
    """Every start of a run folder, the first first.

    A line cut short by a kill is left out, a damaged one too, with a warning; without history.jsonl there are none.
    """
    file = Path(path) / "history.jsonl"
    if not file.is_file():
        return []
    lines = files.read_json_lines(file, Start)
    if warning := damaged_lines(file, lines):
        log.warning("%s", warning)
    return [line for _, line in lines if not isinstance(line, str)]


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
            raise ConfigError(not_utf8(self.path))
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
            self._lock = open(self.path / ".lock", "a")
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
        status = self.status()
        if status is None or status["state"] != "running" or status["host"] == socket.gethostname():
            return
        if _is_earlier_start(status.get("slurm"), _slurm_start()):
            time.sleep(min(max(0.0, _SILENT_SECONDS - _age(status)), _SILENT_SECONDS))
            if self.status() == status:
                return
        age = _age(status)
        if age < -ALIVE_SECONDS and not self._steal:
            raise WorkdirError(
                f"{self.path} is in use by {_owner(self.path)}, or its status.json is damaged: the heartbeat "
                f"{status['heartbeat']} is still to come; set the clocks right, or --steal takes it over"
            )
        if abs(age) < ALIVE_SECONDS:
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
        return check_same(read_config(self.path), new, self.path, allowed)

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

    def status(self) -> Status | None:
        """What status.json says; None before the first run, and where it is damaged."""
        try:
            return files.read_json(self.path / "status.json", Status)
        except StorageError:
            return None

    def saved_step(self) -> int:
        """The newest checkpoint as status.json tells of it; 0 where it tells of none."""
        status = self.status()
        return status.get("saved_step", 0) if status else 0

    def environment(self) -> Environment | None:
        """run.json of the start before; None before the first. Raises StorageError."""
        return files.read_json(
            self.path / "run.json", Environment, remedy="remove it: the next start writes it"
        )

    def results(self) -> Results | None:
        """results.json; None before the end of the run. Raises StorageError."""
        return files.read_json(
            self.path / "results.json",
            Results,
            remedy="remove it: the next start makes it from the last checkpoint",
        )

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


def read_config(path: Path) -> dict[str, Any]:
    """What config.json of a run folder says, unchecked but for being an object. Raises StorageError."""
    remedy = "meta.json of a checkpoint has a copy, as its config"
    content = files.read_json(path / "config.json", dict[str, Any], remedy=remedy)
    if content is None:
        raise StorageError(f"{path} is not a run folder: it has no config.json")
    return content


def not_utf8(path: Path) -> str:
    return (
        f"the name of the run folder {os.fsencode(path)!r} is not UTF-8 text in this locale, which checkpoints need: "
        "choose another --workdir, or set PYTHONUTF8=1 if the name is UTF-8"
    )


def _owner(path: Path) -> str:
    status = Workdir(path).status()
    return f"process {status.get('pid', '?')} on {status['host']}" if status else "another process"


def _slurm_start() -> list[int] | None:
    """Job of SLURM and how often it was put back into the queue; None outside SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    return [int(job), int(os.environ.get("SLURM_RESTART_COUNT", 0))] if job else None


def _is_earlier_start(one: list[int] | None, now: list[int] | None) -> bool:
    """Whether `one` is a start of this job from which SLURM put it back into the queue: it should be over."""
    return bool(one and now and one[0] == now[0] and one[1] < now[1])


def _age(status: Status) -> float:
    """Seconds since the heartbeat."""
    return time.time() - schemas.seconds(status["heartbeat"])


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
    return time.strftime(schemas.TIME, time.gmtime())
