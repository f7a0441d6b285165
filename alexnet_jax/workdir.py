"""The run folder: who owns it, what was run there, and how evaluation and analysis read it."""

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from alexnet_jax import config as configs
from alexnet_jax.errors import ConfigError, StorageError, WorkdirError
from alexnet_jax.specs import Config

if TYPE_CHECKING:
    from alexnet_jax.data.statistics import Statistics

# Keys that may change between two starts of one run: they move no number of it.
HARMLESS = (
    "name", "data.path", "data.threads", "data.prefetch", "train.max_steps", "train.log_every",
    "train.checkpoint_every", "train.keep_every",
)  # fmt: skip


class Run(NamedTuple):
    """A trained network as evaluation and analysis take it."""

    config: Config
    step: int
    params: dict
    batch_stats: dict
    statistics: "Statistics"
    class_names: tuple[str, ...]


def load(path: str | Path, step: int | None = None) -> Run:
    """The newest checkpoint of a run folder, or that of `step`; arrays are NumPy. Raises StorageError."""
    from alexnet_jax.training import checkpoint

    folder = Path(path).absolute() / "checkpoints"
    found = checkpoint.latest(folder, step)
    if found is None:
        raise StorageError(
            f"no checkpoint in {folder}: train first with python -m alexnet_jax.main --workdir {path}"
        )
    step, meta = found
    variables = checkpoint.load_variables(folder, step)
    spec = configs.with_classes(load_config(path), len(meta["class_names"]))
    return Run(spec, step, variables["params"], variables["batch_stats"],
               checkpoint.load_statistics(folder, step), tuple(meta["class_names"]))  # fmt: skip


def load_params(path: str | Path, step: int | None = None) -> dict:
    """The parameters of a run folder as nested dicts of NumPy arrays: {'conv1': {'kernel': ..., 'bias': ...}, ...}."""
    return load(path, step).params


def load_config(path: str | Path) -> Config:
    """The checked config a run folder was trained with. Raises StorageError."""
    return configs.parse(_read_config(Path(path)))


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


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` so that a reader, or a crash, sees the old text or the new one whole."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


class Workdir:
    """Exclusive use of a run folder, for as long as the context lasts.

    Raises WorkdirError if another process has it or if it holds something else, StorageError if it cannot be
    written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.checkpoints = self.path / "checkpoints"
        self._lock = None

    def check(self) -> None:
        """Refuse a folder that is not ours, before anything is written."""
        if self.path.is_dir():
            names = {p.name for p in self.path.iterdir()} - {".lock", "config.json.tmp"}
            if names and "config.json" not in names:
                raise WorkdirError(f"{self.path} holds files but no run; choose another --workdir")
        elif self.path.exists():
            raise WorkdirError(f"{self.path} is not a folder; choose another --workdir")

    def __enter__(self) -> "Workdir":
        self.check()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Closed in __exit__: the lock lasts as long as the file is open.
            self._lock = open(self.path / ".lock", "w")
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise WorkdirError(
                f"{self.path} is in use by {_owner(self.path)}; wait for it or stop it"
            ) from None
        return self

    def __exit__(self, *_) -> None:
        if self._lock:
            self._lock.close()

    def adopt(self, config, command: str) -> None:
        """Record `config` (a ConfigDict), or check that it continues what the folder holds.

        Raises ConfigError with the differences if it does not.
        """
        file = self.path / "config.json"
        if file.exists():
            check_same(_read_config(self.path), json.loads(configs.to_json(config)), self.path)
        self._replace("config.json", configs.to_json(config))
        with open(self.path / "history.jsonl", "a", encoding="utf-8") as history:
            entry = {"time": _now(), "command": command, "config_sha256": configs.digest(config)}
            history.write(json.dumps(entry) + "\n")

    def write(self, name: str, content: dict) -> None:
        """Replace a JSON file of the folder."""
        self._replace(name, json.dumps(content, indent=1, sort_keys=True))

    def write_status(
        self, state: str, step: int, *, saved: bool, code: int | None = None, reason: str = ""
    ) -> None:
        """status.json: what the run is doing, or how it ended."""
        self.write("status.json", dict(
            state=state, step=step, saved=saved, code=code, reason=reason, pid=os.getpid(),
            host=socket.gethostname(), heartbeat=_now(),
        ))  # fmt: skip

    def status(self) -> dict | None:
        """What status.json says; None before the first run."""
        return _read_json(self.path / "status.json")

    def finished(self, last_step: int) -> dict | None:
        """results.json, if the run that this folder holds reached `last_step`."""
        results = _read_json(self.path / "results.json")
        return results if results and results["step"] >= last_step else None

    def _replace(self, name: str, text: str) -> None:
        try:
            write_atomically(self.path / name, text)
        except OSError as error:
            raise StorageError(f"cannot write {self.path / name}: {error.strerror}") from None


def check_same(old: dict, new: dict, where: Path) -> None:
    """Raises ConfigError naming each key in which a run would change, unless it is a harmless one."""
    a, b = _flat(old), _flat(new)
    changed = [k for k in sorted({*a, *b}) if a.get(k) != b.get(k) and k not in HARMLESS]
    if changed:
        differences = ", ".join(f"{k}: {a.get(k)!r} -> {b.get(k)!r}" for k in changed[:6])
        more = f" and {len(changed) - 6} more" if len(changed) > 6 else ""
        raise ConfigError(
            f"{where} holds a run with another config ({differences}{more}); choose another --workdir"
        )


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


def _owner(path: Path) -> str:
    status = _read_json(path / "status.json") or {}
    return f"process {status.get('pid', '?')} on {status.get('host', '?')}"


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
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
