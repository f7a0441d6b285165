"""How far a run is, and its status.json."""

import threading
from typing import Literal

from alexnet_jax.errors import StorageError
from alexnet_jax.run.workdir import RunFolder


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
