"""Signals as a flag that is polled, so that a run stops only where its state can be saved."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
#: A second one of these ends the process at once. SIGUSR1 and SIGUSR2 never do: launchers forward requests with them.
_INSISTENT = (signal.SIGTERM, signal.SIGINT)
#: Signals within this time of the first are the same request: schedulers signal a process and its group.
_SAME_SECONDS = 0.1


class Stop(BaseException):
    """Raised where the flag is polled. Not an Exception, so that no library handles it."""


class Signals:
    """A context in which the first signal sets a flag, and a second SIGTERM or SIGINT ends the process without a save.

    A signal that the process was started to ignore (by nohup, or as a background job of a shell) stays ignored.

    Attributes:
        received: The first signal, or None.
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

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def poll(self) -> None:
        """Raise Stop if a signal was received."""
        if self.received:
            raise Stop(self.received.name)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let signals raise Stop at once inside the context, where there is nothing to save."""
        self.poll()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 75 ("try again") after the signals of schedulers."""
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
