"""Runs and their states, as a table that a terminal keeps up to date."""

import time

from alexnet_jax.errors import StorageError
from alexnet_jax.run import reading
from launch import runs
from launch.runs import Run

_SECONDS = 1.0
STYLES = {"finished": "green", "running": "cyan", "stopped": "yellow", "failed": "red"}


def table(every: list[Run], states=None):
    """A rich Table: one row a run. `states`: identity -> State, where it is known."""
    from rich.table import Table

    shown = Table()
    for name in ("member", "seed", "state", "code", "step", "error", "folder"):
        shown.add_column(
            name,
            no_wrap=True,
            justify="right" if name in ("seed", "code", "step", "error") else "left",
        )
    for run in every:
        state = (states or {}).get(run.identity) or runs.state(run)
        code = "" if state.code is None else str(state.code)
        shown.add_row(run.member, str(run.seed), state.name, code, f"{state.step:,}" if state.step else "",
                      _error(run), run.identity, style=STYLES.get(state.name))  # fmt: skip
    return shown


def console():
    """Standard output; as wide as the table needs where that is no terminal."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=160)


class Live:
    """A context that shows the table until it ends; without a terminal, a line for each start and end."""

    def __init__(self, every: list[Run]) -> None:
        self._every, self._console = every, console()
        self._live = None
        self._next = 0.0

    def __enter__(self) -> "Live":
        if self._console.is_terminal:
            from rich.live import Live as RichLive

            # Its own thread would make starting processes unsafe.
            self._live = RichLive(table(self._every), console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self._live.update(table(self._every), refresh=True)
            self._live.stop()
        else:
            self._console.print(table(self._every))

    def refresh(self) -> None:
        if self._live and time.monotonic() >= self._next:
            self._live.update(table(self._every), refresh=True)
            self._next = time.monotonic() + _SECONDS

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def started(self, run: Run) -> None:
        if not self._live:
            self.say(f"started {run.member} seed {run.seed} in {run.folder}")

    def ended(self, run: Run) -> None:
        state = runs.state(run)
        if state.name != "finished":
            self.say(
                f"{run.member} seed {run.seed} {state.name}, code {state.code}: {_last_line(run)}"
            )
        elif not self._live:
            self.say(f"finished {run.member} seed {run.seed}: error {_error(run)}")


def _error(run: Run) -> str:
    """The top-1 error of the last held-out split, of its last views; of training while it runs."""
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
