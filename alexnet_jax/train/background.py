"""A background thread for writing checkpoints."""

import threading
from collections.abc import Callable


class BackgroundWriter:
    """Runs one job at a time in a thread. The next `check`, `start` or `wait` raises the error of a failed job.

    The thread is a daemon: call `wait` before the process ends.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is running."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None]) -> None:
        """Wait for the previous job, and then run `job` in the background."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="writer", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of the last job, if it has ended."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Wait until no job is running; raise the error of the last one."""
        if self._thread:
            self._thread.join()
        error, self._thread, self._error = self._error, None, None
        if error:
            raise error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # raised again by wait()
            self._error = error
