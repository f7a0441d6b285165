"""The progress of a run, as status.json records it."""

import threading
from typing import Literal

from alexnet_jax.errors import StorageError
from alexnet_jax.run.workdir import RunFolder


class RunStatus:
    """The progress of a run, written to status.json. All methods are thread-safe.

    Attributes:
        step: Number of completed training steps.
        saved_step: Step of the newest committed checkpoint; 0 if there is none.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self.step = self.saved_step = 0

    def begin(self, step: int) -> None:
        """Set the step at which this start begins, without writing."""
        self.step = self.saved_step = step

    def advance(self, step: int) -> None:
        """Set the number of completed steps, without writing."""
        self.step = step

    def write_running(self) -> None:
        """Write the state "running" with the current step. Raises StorageError."""
        with self._lock:
            self._folder.write_status("running", self.step, self.saved_step)

    def write_saved(self, step: int) -> None:
        """Write that the checkpoint of `step` is committed. Raises StorageError."""
        with self._lock:
            self.saved_step = step
            self._folder.write_status("running", self.step, step)

    def write_finished(self) -> None:
        """Write that the run is complete. Raises StorageError."""
        self._folder.write_status("finished", self.step, self.saved_step, code=0)

    def write_ended(
        self, state: Literal["interrupted", "diverged", "failed"], code: int, reason: str
    ) -> None:
        """Write why this start ended; never raises StorageError.

        A failing disk may be why the run ended, so an error in writing status.json is only logged to log.txt.
        """
        try:
            self._folder.write_status(state, self.step, self.saved_step, code=code, reason=reason)
        except StorageError as error:
            self._folder.write_traceback(error)
