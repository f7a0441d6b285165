"""The run folder as the process that trains writes it."""

import contextlib
import json
import os
import socket
import threading
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.errors import ConfigError, StorageError, WorkdirError
from alexnet_jax.run import ownership, reading, resume, schemas

if TYPE_CHECKING:
    from ml_collections import ConfigDict


class RunFolder:
    """The run folder as training sees it. This base class, for processes other than the primary, writes nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.checkpoints = self.path / "checkpoints"

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Replace a JSON file of the folder. Raises StorageError."""

    def write_bytes(self, name: str, content: bytes) -> None:
        """Replace a file of the folder unless it already has this content. Raises StorageError."""

    def write_status(
        self, state: str, step: int, saved_step: int, *, code: int | None = None, reason: str = ""
    ) -> None:
        """Write status.json: what the run does at `step`, or how it ended. `saved_step` is 0 without a checkpoint."""

    def write_heartbeat(self) -> None:
        """Update the heartbeat of a running status, from any thread; a full disk is left for others to report."""

    def write_traceback(self, error: BaseException) -> None:
        """Append the traceback of `error` to log.txt, if possible."""


class Workdir(RunFolder):
    """A run folder; as a context manager, the exclusive use of it.

    Args:
        overwrite: rename an existing folder to NAME.old-TIME and begin a new one; nothing is deleted.
        steal: take the folder over from a run on another host that has sent no heartbeat for a while.

    Raises, on entering the context:
        WorkdirError: another process uses the folder, or it holds something else.
        StorageError: it cannot be written.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, steal: bool = False) -> None:
        super().__init__(path)
        self.overwrites, self._steal = overwrite, steal
        self._lock: BinaryIO | None = None
        self._status: dict[str, Any] = {}
        self._status_lock = threading.Lock()

    def check(self) -> None:
        """Raise what entering the context would, before anything is written, and ConfigError for an invalid name."""
        if not files.is_utf8(self.path):
            raise ConfigError(reading.not_utf8(self.path))
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
        self._lock = ownership.acquire(self.path, steal=self._steal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock:
            self._lock.close()

    def begin(self) -> None:
        """Rename an existing folder if asked to, and remove the temporary files of a start that was killed."""
        if self.overwrites:
            old = self.path.with_name(
                f"{self.path.name}.old-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
            )
            try:
                os.rename(self.path, old)
            except OSError as error:
                raise StorageError(f"cannot rename {self.path}: {error.strerror}") from None
            self.__exit__()
            self.__enter__()
        for file in self.path.glob("*.tmp"):
            file.unlink(missing_ok=True)

    def changes(self, config: "ConfigDict", allowed: Iterable[str] = ()) -> dict[str, list[Any]]:
        """Map the keys in which `config` differs from the folder's run to [old, new].

        Raises:
            ConfigError: a key changed that the run's numbers depend on, and it is not among `allowed`.
        """
        new, allowed = configs.plain(config), list(allowed)
        known = resume.flat(configs.completed(new))
        unknown = [key for key in allowed if key not in known]
        if unknown:
            raise ConfigError(f"--override-resume={unknown[0]}: the config has no such key")
        if not (self.path / "config.json").exists():
            return {}
        return resume.check_same(reading.read_config(self.path), new, self.path, allowed)

    def adopt(
        self,
        config: "ConfigDict",
        command: str,
        changes: dict[str, list[Any]],
        init_from: str | None = None,
    ) -> None:
        """Record a start: its config, command, changes, and the weights it initializes from."""
        self._replace("config.json", configs.to_json(config))
        entry = {"time": schemas.now(), "command": command, "config_sha256": configs.digest(config)}
        entry |= {"changes": changes, "init_from": init_from}
        self._append("history.jsonl", json.dumps(entry) + "\n")

    def write(self, name: str, content: dict[str, Any]) -> None:
        self._replace(name, json.dumps(content, indent=1, sort_keys=True))

    def write_bytes(self, name: str, content: bytes) -> None:
        with contextlib.suppress(OSError):
            if (self.path / name).read_bytes() == content:
                return
        self._replace(name, content)

    def write_status(
        self, state: str, step: int, saved_step: int, *, code: int | None = None, reason: str = ""
    ) -> None:
        with self._status_lock:
            self._status = dict(
                state=state, step=step, saved=0 < saved_step == step, saved_step=saved_step, code=code,
                reason=reason, pid=os.getpid(), host=socket.gethostname(), slurm=ownership.slurm_start(),
                heartbeat=schemas.now(),
            )  # fmt: skip
            self.write("status.json", self._status)

    def write_heartbeat(self) -> None:
        with self._status_lock:
            if self._status.get("state") == "running":
                with contextlib.suppress(StorageError):
                    self.write("status.json", self._status | {"heartbeat": schemas.now()})

    def write_traceback(self, error: BaseException) -> None:
        with contextlib.suppress(StorageError):
            self._append("log.txt", "".join(traceback.format_exception(error)))

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
