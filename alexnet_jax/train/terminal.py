"""The progress bar of training, in a terminal and in a notebook."""

import html
import importlib
import sys
import time
from typing import Any, Protocol

#: Seconds between two updates of the bar of a notebook, each of which is a message to the browser.
NOTEBOOK_SECONDS = 0.5


class Bar(Protocol):
    """A progress bar over the steps of training."""

    def print(self, text: str) -> None:
        """Print lines that stay."""

    def update(self, step: int, text: str) -> None:
        """Show that `step` steps are done, and a text beside the bar."""

    def stop(self) -> None:
        """Show the last update, and end the bar."""


def progress_bar(first: int, total: int) -> Bar | None:
    """Return a bar that begins at step `first` of `total`; None if neither a terminal nor a notebook shows it."""
    if (display := _notebook_display()) is not None:
        return NotebookBar(first, total, display)
    return TerminalBar(first, total) if sys.stderr.isatty() else None


def _notebook_display() -> Any:
    """Return IPython.display if this process is the kernel of a notebook, else None."""
    ipython = sys.modules.get("IPython")  # a kernel has imported it
    shell = ipython and ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    return importlib.import_module("IPython.display")


class TerminalBar:
    """A progress bar on standard error."""

    def __init__(self, first: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True)
        self._progress = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn(),
            console=self._console,
        )  # fmt: skip
        self._task = self._progress.add_task("", completed=first, total=total, text="compiling")
        self._progress.start()

    def print(self, text: str) -> None:
        """Print lines above the bar."""
        self._console.print(text, markup=False, highlight=False)

    def update(self, step: int, text: str) -> None:
        self._progress.update(self._task, completed=step, text=text)

    def stop(self) -> None:
        self._progress.stop()


class NotebookBar:
    """A progress bar in the output of a cell, replaced in place; `display` is IPython.display."""

    def __init__(self, first: int, total: int, display: Any) -> None:
        self._html, self._total = display.HTML, total
        self._step, self._text, self._shown = first, "compiling", time.monotonic()
        self._handle = display.display(self._content(), display_id=True)

    def print(self, text: str) -> None:
        """Print lines below the bar."""
        print(text, flush=True)

    def update(self, step: int, text: str) -> None:
        self._step, self._text = step, text
        if time.monotonic() - self._shown >= NOTEBOOK_SECONDS:
            self._show()

    def stop(self) -> None:
        self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        self._handle.update(self._content())

    def _content(self) -> Any:
        count = f"{self._step:,}/{self._total:,}"
        return self._html(
            f'<progress value="{self._step}" max="{self._total}" style="width:16em"></progress> '
            f"{count} &ensp;{html.escape(self._text)}"
        )
