"""Signals as a flag that loops poll, so that work stops only where the state can be saved."""

import os
import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Stop(Exception):
    """Raised by a loop that saw the flag, to leave an evaluation that can be repeated."""


class Signals:
    """A context in which the first signal is only noted; a second one leaves at once, saving nothing more."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict = {}

    def __enter__(self) -> "Signals":
        self._previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def poll(self) -> None:
        """Raises Stop once a signal came."""
        if self.received:
            raise Stop(self.received.name)

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 75 ("try again") for the signals of schedulers."""
        return 130 if self.received == signal.SIGINT else 75

    def _note(self, number: int, _frame) -> None:
        if self.received:
            os._exit(143)
        self.received = signal.Signals(number)
