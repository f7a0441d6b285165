"""The run folder as training writes to it, in the primary process and in the others."""

import threading
from pathlib import Path
from typing import Literal, Protocol

from alexnet_jax.errors import StorageError


class RunFolder(Protocol):
    """A run folder: `workdir.Workdir` in the primary process, `ReadOnlyFolder` in the others."""

    path: Path
    checkpoints: Path

    def write(self, name: str, content: dict) -> None: ...
    def write_bytes(self, name: str, content: bytes) -> None: ...
    def write_status(
        self, state: str, step: int, saved_step: int, *, code: int | None = None, reason: str = ""
    ) -> None: ...
    def write_heartbeat(self) -> None: ...
    def write_traceback(self, error: BaseException) -> None: ...
    def saved_step(self) -> int: ...


class ReadOnlyFolder:
    """The run folder of a process that is not the primary: all writes do nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.checkpoints = self.path / "checkpoints"

    def write(self, name: str, content: dict) -> None:
        pass

    def write_bytes(self, name: str, content: bytes) -> None:
        pass

    def write_status(
        self, state: str, step: int, saved_step: int, *, code: int | None = None, reason: str = ""
    ) -> None:
        pass

    def write_heartbeat(self) -> None:
        pass

    def write_traceback(self, error: BaseException) -> None:
        pass

    def saved_step(self) -> int:
        return 0


class RunStatus:
    """How far a run is, and its status.json; all methods may be called from any thread.

    Attributes:
        step: Number of steps made.
        saved_step: Step of the newest committed checkpoint; 0 without one.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self.step = self.saved_step = 0

    def begin(self, step: int) -> None:
        """Set the step from which this start continues; nothing is written."""
        self.step = self.saved_step = step

    def advance(self, step: int) -> None:
        """Set the number of steps made; nothing is written."""
        self.step = step

    def running(self) -> None:
        """Write that the run is at its step. Raises StorageError."""
        with self._lock:
            self._folder.write_status("running", self.step, self.saved_step)

    def saved(self, step: int) -> None:
        """Write that the checkpoint of `step` was committed. Raises StorageError."""
        with self._lock:
            self.saved_step = step
            self._folder.write_status("running", self.step, step)

    def finished(self) -> None:
        """Write that the run is complete. Raises StorageError."""
        self._folder.write_status("finished", self.step, self.saved_step, code=0)

    def ended(
        self, state: Literal["interrupted", "diverged", "failed"], code: int, reason: str
    ) -> None:
        """Write how this start ended; an error goes to log.txt only, as the disk may be the reason of the end."""
        try:
            self._folder.write_status(state, self.step, self.saved_step, code=code, reason=reason)
        except StorageError as error:
            self._folder.write_traceback(error)
