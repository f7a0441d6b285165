"""Signal handling of worker processes, and a progress bar."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator

_LOG_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1


def leave_signals_to_the_parent() -> None:
    """Initialize a worker process: ignore Ctrl-C, and (on Linux) end when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # the parent died before the call above
        os._exit(1)


@contextlib.contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Context with a function advance(images), which updates a progress bar on standard error.

    If standard error is not a terminal, it prints a line per minute to standard output instead.
    """
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]:,.0f} images/s"),
        progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    console = Console(stderr=True)
    started = reported = time.monotonic()
    done = 0
    with progress.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, rate=0.0)

        def advance(count: int) -> None:
            nonlocal done, reported
            done += count
            now = time.monotonic()
            rate = done / max(now - started, 1e-9)
            bar.update(task, advance=count, rate=rate)
            if bar.disable and now - reported > _LOG_SECONDS:
                reported = now
                print(f"{done:,} of {total:,} images, {rate:,.0f} images/s", flush=True)

        yield advance
