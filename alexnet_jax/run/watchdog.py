"""Ends a run that makes no progress: a hung device, disk or network would keep its machine busy forever."""

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

#: Seconds allowed until the next beat where a program is compiled or a checkpoint written.
SLOW = 3600.0
_HEARTBEAT = 60.0
_LEAVE_SECONDS = 5.0


class _Work:
    """Work of another thread: when it began, and the seconds that it may take."""

    def __init__(self, allow: float) -> None:
        self.begin, self.allow = time.monotonic(), allow


class Watchdog:
    """Calls `on_stall(seconds)` from a thread when no `beat` came for `limit` seconds, or other work takes too long.

    The limit is the larger of `seconds` and 20 times the median step. `on_heartbeat` is called about once a minute by
    another thread: it writes to the disk, and a disk that hangs must not block the watching thread. Use it as a
    context.
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
        self._life = threading.Thread(target=self._show_life, name="heartbeat", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        self._life.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._life.join(timeout=_LEAVE_SECONDS)  # it may hang

    def beat(self, allow: float = 0.0, *, step: bool = False) -> None:
        """Report progress: the end of a `step`, or of anything else.

        `allow`: seconds until the next beat, if that may take longer than the limit.
        """
        now = time.monotonic()
        if step and not self._allowed:  # a compiled step says nothing about the others
            self._steps.append(now - self._last)
        self._last, self._allowed = now, allow

    @contextmanager
    def watching(self, allow: float) -> Iterator[None]:
        """Watch work of the calling thread, which must end within `allow` seconds even if beats continue."""
        self._work = _Work(allow)
        try:
            yield
        finally:
            self._work = None

    @property
    def limit(self) -> float:
        """Seconds after which the run counts as stalled."""
        median = statistics.median(self._steps) if self._steps else 0.0
        return max(self._seconds, 20 * median, self._allowed)

    def _watch(self) -> None:
        """Watch. This takes no lock and touches no file, since what hangs may hold a lock or wait for a file."""
        pause = min(1.0, self._seconds / 4)
        woke = time.monotonic()
        while not self._end.wait(pause):
            now = time.monotonic()
            # A process that was suspended as a whole has not stalled.
            stalled = self._stalled(now, slept=now - woke if now - woke > 10 * pause else 0.0)
            woke = now
            if stalled:
                self._on_stall(stalled)
                return

    def _stalled(self, now: float, slept: float = 0.0) -> float:
        """Return the seconds since the last progress if they are too many, else 0; `slept` of them do not count."""
        work = self._work
        if slept:
            self._last = now
            if work:
                work.begin += slept
        if now - self._last > self.limit:
            return now - self._last
        return now - work.begin if work and now - work.begin > work.allow else 0.0

    def _show_life(self) -> None:
        while not self._end.wait(_HEARTBEAT):
            self._on_heartbeat()


def exit_stalled(folder: RunFolder, status: RunStatus, seconds: float) -> None:
    """Write the stacks of all threads to log.txt and end the process, after a stall of `seconds`."""
    is_primary = processes.is_primary()
    error = StalledError(
        f"no sign of life for {seconds:.0f} s at step {status.step}; "
        f"{folder.path / 'log.txt' if is_primary else 'the lines above'} says where each thread is; "
        "the same command continues from the last checkpoint"
    )

    def say() -> None:
        if not is_primary:
            faulthandler.dump_traceback()
        # Not through sys.stderr, whose lock a hanging thread may hold.
        os.write(2, f"{error.line()}\n".encode(errors="backslashreplace"))

    def record() -> None:
        if is_primary:
            with open(folder.path / "log.txt", "a") as file:
                faulthandler.dump_traceback(file)
            status.write_ended("failed", error.exit_code, str(error))

    # Either may hang: standard error if its reader does, the record if the disk does.
    threads = [threading.Thread(target=work, daemon=True) for work in (say, record)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=5)
    os._exit(error.exit_code)
