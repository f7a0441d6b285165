"""A table of the states of runs, updated in place on a terminal."""

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
#: Width of the table if the output is not a terminal.
WIDTH = 160
REFRESH_SECONDS = 1.0


def table(all_runs: list[Run], states: Mapping[str, runs.State] | None = None) -> "Table":
    """Build a table with a row for each run.

    Args:
      states: Known states by run identity; the others are read from disk.
    """
    from rich.table import Table

    built = Table()
    for name in COLUMNS:
        built.add_column(name, no_wrap=True, justify="right" if name in NUMERIC else "left")
    for run in all_runs:
        state = (states or {}).get(run.identity) or runs.state(run)
        code = "" if state.code is None else str(state.code)
        built.add_row(run.member, str(run.seed), state.name, code, f"{state.step:,}" if state.step else "",
                      _error(run), run.identity, style=STYLES.get(state.name))  # fmt: skip
    return built


def console() -> "Console":
    """Return a console for standard output, with a fixed width if that is not a terminal."""
    from rich.console import Console

    default = Console()
    return default if default.is_terminal else Console(width=WIDTH)


class Live:
    """Context manager that shows the table of all runs.

    On a terminal the table is updated in place. Otherwise each run that starts or ends prints a line, and the table
    is printed once, at exit.
    """

    def __init__(self, all_runs: list[Run]) -> None:
        self._runs, self._console = all_runs, console()
        self._live = None
        self._next_refresh = 0.0

    def __enter__(self) -> "Live":
        if self._console.is_terminal:
            from rich.live import Live as RichLive

            # auto_refresh would start a thread, and forking a process with threads is unsafe.
            self._live = RichLive(table(self._runs), console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.update(table(self._runs), refresh=True)
            self._live.stop()
        else:
            self._console.print(table(self._runs))

    def refresh(self) -> None:
        """Update the table on a terminal, at most once per REFRESH_SECONDS."""
        if self._live and time.monotonic() >= self._next_refresh:
            self._live.update(table(self._runs), refresh=True)
            self._next_refresh = time.monotonic() + REFRESH_SECONDS

    def print_line(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(text, highlight=False)

    def report_start(self, run: Run) -> None:
        """Report that a run has started, unless the table shows it."""
        if not self._live:
            self.print_line(f"started {run.member} seed {run.seed} in {run.folder}")

    def report_end(self, run: Run) -> None:
        """Report that a run has ended, with the last line of its output if it did not finish."""
        state = runs.state(run)
        if state.name != "finished":
            self.print_line(
                f"{run.member} seed {run.seed} {state.name}, code {state.code}: {_last_line(run)}"
            )
        elif not self._live:
            self.print_line(f"finished {run.member} seed {run.seed}: error {_error(run)}")


def _error(run: Run) -> str:
    """Format the final top-1 error on the last held-out split with its last views; '' if there is no result."""
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
