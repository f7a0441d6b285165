"""Signals as a flag that loops poll, so that work stops only where the state can be saved."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_INSISTENT = (signal.SIGTERM, signal.SIGINT)
"""A second one of these leaves at once. The others only ever ask: launchers hand requests on with them."""
_SAME_SECONDS = 0.1
"""Schedulers signal a process and its group: what comes within this time of the first is the same request."""


class Stop(BaseException):
    """Leaves a loop that saw the flag. Not an Exception, so that no library takes it for an error of its own."""


class Signals:
    """A context in which the first signal is noted; a second SIGTERM or SIGINT leaves at once, saving nothing more.

    A signal that the process was started to ignore (nohup, a background job of a shell) stays ignored.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since: float | None = None
        self._at_once = False
        self._previous: dict = {}

    def __enter__(self) -> "Signals":
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def poll(self) -> None:
        """Raises Stop once a signal came."""
        if self.received:
            raise Stop(self.received.name)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises Stop wherever the program is: for work that leaves nothing to save."""
        self.poll()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 75 ("try again") for the signals of schedulers."""
        return 130 if self.received == signal.SIGINT else 75

    def _note(self, number: int, _frame) -> None:
        if number in _INSISTENT:
            now = time.monotonic()
            if self._since is not None and now - self._since > _SAME_SECONDS:
                os._exit(143)
            self._since = self._since or now
        if self.received:
            return
        self.received = signal.Signals(number)
        if self._at_once:
            self.poll()
