"""The log of a run: metrics.jsonl, TensorBoard, log.txt, and the terminal."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.errors import StorageError
from alexnet_jax.run.reading import damaged_lines, metrics_lines
from alexnet_jax.run.schemas import Results
from alexnet_jax.train.meter import Meter


class RunLog:
    """The log as training sees it. This base class, for processes other than the primary, writes nothing."""

    def say(self, text: str) -> None:
        """Print lines, and write them to log.txt."""

    def train(
        self, step: int, last: int, batch_size: int, epoch: float, values: dict[str, Any]
    ) -> None:
        """Log the metrics of the steps up to `step` of `last`; printed where there is no progress bar."""

    def evaluation(
        self, step: int, epoch: float, split: str, view: str, result: Mapping[str, Any]
    ) -> None:
        """Log the errors of a held-out split."""

    def progress(self, step: int, meter: Meter, batch_size: int) -> None:
        """Show the last step on the progress bar, if there is one."""

    def flush(self) -> None:
        """Write the metrics so far to the disk, as a checkpoint requires. Raises StorageError."""

    def close(self) -> None:
        """Close all sinks and clear the progress bar; metrics that were not flushed are dropped."""


class Log(RunLog):
    """Writes the log of a run that begins, or continues, after `first_step`.

    A resumed run depends on metrics.jsonl, so an error in writing it is a StorageError. Errors of TensorBoard, log.txt
    and the terminal are ignored.
    """

    def __init__(
        self, workdir: Path, first_step: int, total_steps: int, *, unfinished: bool = False
    ) -> None:
        """Open all sinks. `unfinished`: the evaluation of `first_step` is still to come."""
        self._metrics = MetricsFile(
            workdir / "metrics.jsonl", first_step, reopen_last_line=unfinished
        )
        self._text = open(  # noqa: SIM115
            workdir / "log.txt", "a", encoding="utf-8", errors="backslashreplace"
        )
        self._board = TensorBoard(workdir / "tensorboard", first_step)
        self._bar = ProgressBar(first_step, total_steps) if sys.stderr.isatty() else None
        if self._metrics.damage:
            self.say(f"warning: {self._metrics.damage}")

    def say(self, text: str) -> None:
        self._write(text)
        if self._bar:
            self._bar.print(text)
        else:
            with contextlib.suppress(OSError):  # the reader of a pipe may be gone
                print(text, flush=True)

    def metrics(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        """Add values to the line of `step` in metrics.jsonl, and to TensorBoard."""
        if self._metrics.step not in (None, step):
            self.flush()
        self._metrics.add(step, epoch, values)
        self._board.add(step, values)

    def flush(self) -> None:
        if self._metrics.step is not None:
            self._metrics.write_line()
            self._board.flush()

    def progress(self, step: int, meter: Meter, batch_size: int) -> None:
        if self._bar and meter.recent:
            self._bar.update(step, meter.recent[-1]["loss"], meter.speed(batch_size))

    def train(
        self, step: int, last: int, batch_size: int, epoch: float, values: dict[str, Any]
    ) -> None:
        self.metrics(step, epoch, values)
        left = (last - step) * batch_size / values["images_per_second"]
        line = (
            f"step {step:,}/{last:,}  epoch {epoch:.2f}  loss {values['train_loss']:.4f}  "
            f"error {values['train_top1_error']:.1%}  rate {values['learning_rate']:.2g}  "
            f"{values['images_per_second']:.1f} images/s  data wait {values['data_wait_fraction']:.0%}  "
            f"{duration(left)} left"
        )
        self.say(line) if self._bar is None else self._write(line)

    def evaluation(
        self, step: int, epoch: float, split: str, view: str, result: Mapping[str, Any]
    ) -> None:
        named = {f"eval_{split}_{view}_{key}": result[key] for key in result if key != "count"}
        self.metrics(step, epoch, named)
        errors = "  ".join(
            f"{key.replace('_', ' ')} {result[key]:.2%}" for key in result if key.endswith("error")
        )
        self.say(
            f"step {step:,}  epoch {epoch:.2f}  {split} ({view}): {errors}  nll {result['nll']:.4f}"
        )

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
        for sink in (self._metrics, self._text, self._board):
            with contextlib.suppress(OSError):
                sink.close()

    def _write(self, text: str) -> None:
        clock = time.strftime("%H:%M:%S", time.gmtime())
        with contextlib.suppress(OSError):
            self._text.write("".join(f"{clock} {line}\n" for line in text.splitlines()))
            self._text.flush()


class MetricsFile:
    """metrics.jsonl, which has one line for each step with metrics.

    Opening it removes the lines after `first_step`. `reopen_last_line`: a line of `first_step` takes further values.
    """

    def __init__(self, path: Path, first_step: int, *, reopen_last_line: bool = False) -> None:
        self._path = path
        lines, self.damage = cut_back(path, first_step)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._line: dict[str, Any] = {}
        self._replace_from: int | None = None
        last = lines[-1][1] if lines else ""
        if reopen_last_line and not isinstance(last, str) and last["step"] == first_step:
            self._line = last
            self._replace_from = sum(len(text) for text, _ in lines[:-1])

    @property
    def step(self) -> int | None:
        """The step of the line that is not yet written; None if there is no such line."""
        return self._line.get("step")

    def add(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        """Add values to the line of `step`."""
        self._line = self._line or {"step": step, "epoch": epoch, "time": time.time()}
        self._line |= values

    def write_line(self) -> None:
        """Write the line and flush it to the disk. Raises StorageError."""
        text = (json.dumps(self._line) + "\n").encode()
        try:
            if self._replace_from is None:
                self._file.write(text)
            else:
                # One write over the old, shorter line: after a kill the file has either the old or the new one.
                with open(self._path, "r+b", buffering=0) as file:
                    os.pwrite(file.fileno(), text, self._replace_from)
                self._replace_from = None
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}") from None
        self._line = {}

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars for TensorBoard; errors in writing them are ignored.

    tensorboardX's SummaryWriter is not used: its thread ends on a full disk, and `close` then waits for it forever.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        self._events: Any = event_pb2
        self._scalar, self._writer = scalar, None
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"))
        if first_step:  # makes TensorBoard drop what a killed start wrote after this step
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._write(step=first_step + 1, session_log=start)

    def add(self, step: int, values: dict[str, Any]) -> None:
        """Write the numbers among `values`."""
        for name, value in values.items():
            if not isinstance(value, str):
                self._write(step=step, summary=self._scalar(name, value))

    def flush(self) -> None:
        if self._writer:
            with contextlib.suppress(OSError):
                self._writer.flush()

    def close(self) -> None:
        if self._writer:
            self._writer.close()

    def _write(self, **event: Any) -> None:
        if self._writer:
            with contextlib.suppress(OSError):
                self._writer.write_event(self._events.Event(wall_time=time.time(), **event))


class ProgressBar:
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

    def update(self, step: int, loss: float, speed: dict[str, float]) -> None:
        text = (
            f"loss {loss:.3f}  {speed['images_per_second']:.0f} images/s  "
            f"data wait {speed['data_wait_fraction']:.0%}"
        )
        self._progress.update(self._task, completed=step, text=text)

    def stop(self) -> None:
        self._progress.stop()


def cut_back(path: Path, step: int) -> tuple[list[tuple[bytes, dict[str, Any] | str]], str | None]:
    """Remove the lines of metrics.jsonl after `step`, and a last line that is torn or damaged.

    Returns the remaining lines, as `metrics_lines` does, and a description of damaged ones among them.
    """
    lines = metrics_lines(path)
    damage = damaged_lines(path, lines)
    later = (
        i for i, (_, line) in enumerate(lines) if not isinstance(line, str) and line["step"] > step
    )
    kept = lines[: next(later, len(lines))]
    if kept and len(kept) == len(lines) and isinstance(kept[-1][1], str):
        kept.pop()  # torn by a crash
    if len(kept) < len(lines):
        os.truncate(path, sum(len(text) for text, _ in kept))
    return kept, damage


def summary(results: Results | dict[str, Any]) -> str:
    """Format results.json as the last lines of a finished run."""
    lines = [
        f"{results['config']}: step {results['step']:,}, epoch {results['epoch']:.1f}, {duration(results['seconds'])}"
    ]
    for split, views in results["splits"].items():
        for view, errors in views.items():
            top5 = f", top-5 error {errors['top5_error']:.2%}" if "top5_error" in errors else ""
            lines.append(
                f"  {split} ({view}): accuracy {1 - errors['top1_error']:.2%}, top-1 error "
                f"{errors['top1_error']:.2%}{top5}, nll {errors['nll']:.3f}, {errors['count']:,} images"
            )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Format a length of time: 45 s, 12 min, 14.2 h, 5.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
