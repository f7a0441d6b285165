"""The states of runs as a table, which a terminal keeps up to date."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from alexnet_jax.errors import StorageError
from alexnet_jax.run import reading

from . import runs
from .runs import Run

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLUMNS = ("member", "seed", "state", "code", "step", "error", "folder")
NUMERIC = ("seed", "code", "step", "error")
STYLES = {"finished": "green", "running": "cyan", "stopped": "yellow", "failed": "red"}
#: Width of the table where the output is no terminal.
WIDTH = 160
REFRESH_SECONDS = 1.0


def table(every: list[Run], states: Mapping[str, runs.State] | None = None) -> "Table":
    """Build a table with a row for each run.

    Args:
      states: States by identity, where they are known; others are read from disk.
    """
    from rich.table import Table

    shown = Table()
    for name in COLUMNS:
        shown.add_column(name, no_wrap=True, justify="right" if name in NUMERIC else "left")
    for run in every:
        state = (states or {}).get(run.identity) or runs.state(run)
        code = "" if state.code is None else str(state.code)
        shown.add_row(run.member, str(run.seed), state.name, code, f"{state.step:,}" if state.step else "",
                      _error(run), run.identity, style=STYLES.get(state.name))  # fmt: skip
    return shown


def console() -> "Console":
    """Standard output, with a fixed width if it is no terminal."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=WIDTH)


class Live:
    """A context that shows the table until it ends; without a terminal, a line for each start and end."""

    def __init__(self, every: list[Run]) -> None:
        self._every, self._console = every, console()
        self._live = None
        self._next = 0.0

    def __enter__(self) -> "Live":
        if self._console.is_terminal:
            from rich.live import Live as RichLive

            # auto_refresh would use a thread, and forking with threads is unsafe.
            self._live = RichLive(table(self._every), console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.update(table(self._every), refresh=True)
            self._live.stop()
        else:
            self._console.print(table(self._every))

    def refresh(self) -> None:
        """Update the table, at most once in REFRESH_SECONDS."""
        if self._live and time.monotonic() >= self._next:
            self._live.update(table(self._every), refresh=True)
            self._next = time.monotonic() + REFRESH_SECONDS

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(text, highlight=False)

    def started(self, run: Run) -> None:
        """Report a start."""
        if not self._live:
            self.say(f"started {run.member} seed {run.seed} in {run.folder}")

    def ended(self, run: Run) -> None:
        """Report an end, with the last line of the output if the run is not finished."""
        state = runs.state(run)
        if state.name != "finished":
            self.say(
                f"{run.member} seed {run.seed} {state.name}, code {state.code}: {_last_line(run)}"
            )
        elif not self._live:
            self.say(f"finished {run.member} seed {run.seed}: error {_error(run)}")


def _error(run: Run) -> str:
    """The final top-1 error on the last held-out split with its last views; '' before that."""
    try:
        last = runs.last_errors(reading.read_results(run.folder))
        return f"{100 * last[2]['top1_error']:.2f} %" if last else ""
    except StorageError:
        return ""


def _last_line(run: Run) -> str:
    try:
        lines = run.output.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
