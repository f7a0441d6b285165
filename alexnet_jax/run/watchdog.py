"""Ends a run whose steps stop coming: a hung device, disk or network would hold its machine for ever."""

import collections
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SLOW = 3600.0
"""Seconds that a beat allows where a program is compiled, or a checkpoint written, before the next one."""
_HEARTBEAT = 60.0
_LEAVE_SECONDS = 5.0


class _Work:
    """Work of another thread: when it began, and the seconds that it may take."""

    def __init__(self, allow: float) -> None:
        self.begin, self.allow = time.monotonic(), allow


class Watchdog:
    """Calls `on_stall(seconds)` from a thread when no `beat` came for `limit` seconds, or other work lasts too long.

    The limit is the larger of `seconds` and 20 times the median step. `on_heartbeat` is called about once a
    minute, whatever the run is doing, by a thread of its own: it writes, and a disk that hangs must not keep the
    watching thread from its work. Use it as a context: it watches from the first beat to the end.
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

    def __exit__(self, *_) -> None:
        self._end.set()
        self._thread.join()
        self._life.join(timeout=_LEAVE_SECONDS)  # it may hang

    def beat(self, allow: float = 0.0, *, step: bool = False) -> None:
        """Something came to its end: a `step`, or anything else that shows life.

        `allow`: seconds that the next thing may take, where that is more than the limit.
        """
        now = time.monotonic()
        if step and not self._allowed:  # a step that was compiled says nothing about the others
            self._steps.append(now - self._last)
        self._last, self._allowed = now, allow

    @contextmanager
    def watching(self, allow: float) -> Iterator[None]:
        """For work of one other thread, which must end within `allow` seconds though beats go on."""
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
        """Takes no lock and touches no file: whatever hangs may hold the one and wait for the other."""
        pause = min(1.0, self._seconds / 4)
        woke = time.monotonic()
        while not self._end.wait(pause):
            now = time.monotonic()
            # Where the whole process was stopped, that is not a stall.
            stalled = self._stalled(now, slept=now - woke if now - woke > 10 * pause else 0.0)
            woke = now
            if stalled:
                self._on_stall(stalled)
                return

    def _stalled(self, now: float, slept: float = 0.0) -> float:
        """Seconds since the last sign of life, if these are too many, else 0; `slept` of them do not count."""
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
