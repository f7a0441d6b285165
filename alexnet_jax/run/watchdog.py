"""Watchdog that ends a run that makes no progress, for example because a device, disk or network hangs."""

import collections
import faulthandler
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alexnet_jax.errors import StalledError
from alexnet_jax.run import processes
from alexnet_jax.run.status import RunStatus
from alexnet_jax.run.workdir import RunFolder

#: Seconds allowed until the next beat while a program is compiled or a checkpoint is written.
SLOW = 3600.0
#: Seconds between heartbeats.
_HEARTBEAT = 60.0
#: Seconds to wait for the heartbeat thread at the end.
_JOIN_SECONDS = 5.0


class _Work:
    """Start time of work in another thread, and the seconds that it may take."""

    def __init__(self, allowed: float) -> None:
        self.begin, self.allowed = time.monotonic(), allowed


class Watchdog:
    """Context manager that calls `on_stall` if the run makes no progress.

    A run has stalled if no `beat` came for `limit` seconds, or if work under `watching` takes too long.

    Args:
      seconds: Minimum of `limit`, which is at least 20 times the median step time.
      on_stall: Called from the watchdog thread with the seconds since the last progress.
      on_heartbeat: Called about once a minute from a separate thread, because it writes to the disk, and a disk that
        hangs must not block the watchdog thread.
    """

    def __init__(
        self,
        seconds: float,
        on_stall: Callable[[float], None],
        on_heartbeat: Callable[[], None],
    ) -> None:
        self._seconds, self._on_stall, self._on_heartbeat = seconds, on_stall, on_heartbeat
        self._steps: collections.deque[float] = collections.deque(maxlen=64)
        self._last = time.monotonic()
        self._allowed = SLOW
        self._work: _Work | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._heartbeat = threading.Thread(target=self._beat_heart, name="heartbeat", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        self._heartbeat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._heartbeat.join(timeout=_JOIN_SECONDS)  # its disk may hang

    def beat(self, allow: float = 0.0, *, step: bool = False) -> None:
        """Report progress.

        Args:
          allow: Seconds allowed until the next beat, if that may take longer than the limit.
          step: Whether a training step has just ended; its duration counts for the median.
        """
        now = time.monotonic()
        if step and not self._allowed:  # omit steps that include compilation
            self._steps.append(now - self._last)
        self._last, self._allowed = now, allow

    @contextmanager
    def watching(self, allow: float) -> Iterator[None]:
        """Watch work of the calling thread, which must end within `allow` seconds; beats do not extend that."""
        self._work = _Work(allow)
        try:
            yield
        finally:
            self._work = None

    @property
    def limit(self) -> float:
        """Seconds without a beat after which the run counts as stalled."""
        median = statistics.median(self._steps) if self._steps else 0.0
        return max(self._seconds, 20 * median, self._allowed)

    def _watch(self) -> None:
        """Check for stalls periodically; takes no locks and uses no files, because a hung thread may block either."""
        pause = min(1.0, self._seconds / 4)
        last_check = time.monotonic()
        while not self._end.wait(pause):
            now = time.monotonic()
            # A long gap between checks means that the whole process was suspended, which is not a stall.
            gap = now - last_check
            stalled = self._stalled(now, suspended=gap if gap > 10 * pause else 0.0)
            last_check = now
            if stalled:
                self._on_stall(stalled)
                return

    def _stalled(self, now: float, suspended: float = 0.0) -> float:
        """Return the seconds without progress if they exceed the limit, else 0; ignores `suspended` seconds."""
        work = self._work
        if suspended:
            self._last = now
            if work:
                work.begin += suspended
        if now - self._last > self.limit:
            return now - self._last
        return now - work.begin if work and now - work.begin > work.allowed else 0.0

    def _beat_heart(self) -> None:
        while not self._end.wait(_HEARTBEAT):
            self._on_heartbeat()


def exit_stalled(folder: RunFolder, status: RunStatus, seconds: float) -> None:
    """Write the stacks of all threads to log.txt and end the process, after a stall of `seconds`."""
    is_primary = processes.is_primary()
    error = StalledError(
        f"no progress for {seconds:.0f} s at step {status.step}; "
        f"{folder.path / 'log.txt' if is_primary else 'standard error'} has the stack of each thread; "
        "run the same command again to continue from the last checkpoint"
    )

    def print_error() -> None:
        if not is_primary:
            faulthandler.dump_traceback()
        # Bypass sys.stderr: a hung thread may hold its lock.
        os.write(2, f"{error.line()}\n".encode(errors="backslashreplace"))

    def write_error() -> None:
        if is_primary:
            with open(folder.path / "log.txt", "a") as file:
                faulthandler.dump_traceback(file)
            status.write_ended("failed", error.exit_code, str(error))

    # Either may hang: standard error if its reader hangs, the files if the disk hangs.
    threads = [threading.Thread(target=work, daemon=True) for work in (print_error, write_error)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=5)
    os._exit(error.exit_code)
