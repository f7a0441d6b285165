"""One thread that writes while training goes on."""

import threading
from collections.abc import Callable


class BackgroundWriter:
    """Runs jobs one at a time in a thread. What a job raises is raised here by the next `check`, `start` or `wait`.

    The thread ends with the process: `wait` before that.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None]) -> None:
        """Run `job` in the background, after the one before has ended."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="writer", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what the last job raised, if it has ended."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Return when no job is under way; raise what the last one raised."""
        if self._thread:
            self._thread.join()
        error, self._thread, self._error = self._error, None, None
        if error:
            raise error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # raised in the thread that waits
            self._error = error
