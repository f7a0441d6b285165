"""What a run says: metrics.jsonl, TensorBoard, log.txt, and lines or a progress bar for the person."""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from alexnet_jax.errors import StorageError
from alexnet_jax.run import faults
from alexnet_jax.run.reading import damaged_lines, metrics_lines
from alexnet_jax.run.schemas import Results


class Log:
    """The sinks of one run. Metrics are truth, and an error in writing them is a StorageError; TensorBoard,
    log.txt and the terminal are views of them, and stop silently where they cannot be written.
    """

    def __init__(
        self, workdir: Path, first_step: int, total_steps: int, *, unfinished: bool = False
    ) -> None:
        self._path = workdir / "metrics.jsonl"
        lines, damage = cut_back(self._path, first_step)
        self._metrics = open(self._path, "ab", buffering=0)
        self._line: dict = {}
        self._replaced_from: int | None = None
        last = lines[-1][1] if lines else ""
        if unfinished and not isinstance(last, str) and last["step"] == first_step:
            # The first step's evaluation is still to come and belongs on its line.
            self._line = last
            self._replaced_from = sum(len(text) for text, _ in lines[:-1])
        self._text = open(workdir / "log.txt", "a", encoding="utf-8", errors="backslashreplace")
        self._board = _Board(workdir / "tensorboard", first_step)
        self._bar = _Bar(first_step, total_steps) if sys.stderr.isatty() else None
        if damage:
            self.say(f"warning: {damage}")

    def say(self, text: str) -> None:
        """Lines for the person, kept in log.txt."""
        self._write(text)
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            with contextlib.suppress(OSError):  # whoever read this may be gone
                print(text, flush=True)

    def metrics(self, step: int, epoch: float, values: dict) -> None:
        """Values of `step`: all of one step share a line, which is written by `flush` or when the next begins."""
        if self._line and self._line["step"] != step:
            self.flush()
        self._line = self._line or {"step": step, "epoch": epoch, "time": time.time()}
        self._line |= values
        self._board.add(step, values)

    def flush(self) -> None:
        """Bring the metrics so far to the disk, as a checkpoint needs it. Raises StorageError."""
        if self._line:
            text = (json.dumps(self._line) + "\n").encode()
            try:
                if self._replaced_from is not None:
                    # The longer line covers the one it replaces, in one write: a kill leaves one or the other.
                    with open(self._path, "r+b", buffering=0) as file:
                        os.pwrite(file.fileno(), text, self._replaced_from)
                    self._replaced_from = None
                else:
                    self._metrics.write(text)
                os.fsync(self._metrics.fileno())
            except OSError as error:
                raise StorageError(f"cannot write {self._path}: {error.strerror}") from None
            self._line = {}
            self._board.flush()
            faults.point("train.logged")

    def progress(self, step: int, meter, batch_size: int) -> None:
        """The latest step on the bar of a terminal."""
        if self._bar and meter.recent:
            self._bar.update(step, meter.recent[-1]["loss"], meter.speed(batch_size))

    def train(self, step: int, last: int, batch_size: int, epoch: float, values: dict) -> None:
        """One line of metrics.jsonl, and a plain line where there is no bar."""
        self.metrics(step, epoch, values)
        left = (last - step) * batch_size / values["images_per_second"]
        line = (
            f"step {step:,}/{last:,}  epoch {epoch:.2f}  loss {values['train_loss']:.4f}  "
            f"error {values['train_top1_error']:.1%}  rate {values['learning_rate']:.2g}  "
            f"{values['images_per_second']:.1f} images/s  data wait {values['data_wait_fraction']:.0%}  "
            f"{duration(left)} left"
        )
        self.say(line) if self._bar is None else self._write(line)

    def evaluation(self, step: int, epoch: float, split: str, view: str, result: dict) -> None:
        """The errors of a held-out split."""
        named = {f"eval_{split}_{view}_{key}": result[key] for key in result if key != "count"}
        self.metrics(step, epoch, named)
        errors = "  ".join(
            f"{key.replace('_', ' ')} {result[key]:.2%}" for key in result if key.endswith("error")
        )
        self.say(
            f"step {step:,}  epoch {epoch:.2f}  {split} ({view}): {errors}  nll {result['nll']:.4f}"
        )

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._text.write("".join(f"{_clock()} {line}\n" for line in text.splitlines()))
            self._text.flush()

    def close(self) -> None:
        """Close every sink; the bar leaves the terminal clean. Metrics that were not flushed are lost."""
        if self._bar:
            self._bar.stop()
        for sink in (self._metrics, self._text, self._board):
            with contextlib.suppress(OSError):
                sink.close()


class Silence:
    """The log of a process that does not lead: the leader's says it all."""

    def __getattr__(self, _name: str):
        return lambda *_, **__: None


class _Board:
    """Scalars for TensorBoard, written at once.

    tensorboardX's SummaryWriter writes from a thread, and waits for it for ever once a full disk has ended it.
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
        if first_step:  # TensorBoard then forgets what a killed start wrote after this step
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._write(step=first_step + 1, session_log=start)

    def add(self, step: int, values: dict) -> None:
        for name, value in values.items():
            if not isinstance(value, str):
                self._write(step=step, summary=self._scalar(name, value))

    def _write(self, **event) -> None:
        if self._writer:
            with contextlib.suppress(OSError):
                self._writer.write_event(self._events.Event(wall_time=time.time(), **event))

    def flush(self) -> None:
        if self._writer:
            with contextlib.suppress(OSError):
                self._writer.flush()

    def close(self) -> None:
        if self._writer:
            self._writer.close()


class _Bar:
    def __init__(self, first: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.console = Console(stderr=True)
        self._progress = Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn(),
            console=self.console,
        )  # fmt: skip
        self._task = self._progress.add_task("", completed=first, total=total, text="compiling")
        self._progress.start()

    def update(self, step: int, loss: float, speed: dict) -> None:
        text = (
            f"loss {loss:.3f}  {speed['images_per_second']:.0f} images/s  "
            f"data wait {speed['data_wait_fraction']:.0%}"
        )
        self._progress.update(self._task, completed=step, text=text)

    def stop(self) -> None:
        self._progress.stop()


def cut_back(path: Path, step: int) -> tuple[list[tuple[bytes, dict[str, Any] | str]], str | None]:
    """Drop the lines of metrics.jsonl after `step`, and a last one that is torn or damaged.

    Returns the lines that stay, as metrics_lines gives them, and what to say of damage; damaged lines before others
    stay, too.
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


def summary(results: Results | dict) -> str:
    """The lines that a finished run ends with, from its results.json."""
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
    """A length of time as a person says it: 45 s, 12 min, 14.2 h, 5.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _clock() -> str:
    return time.strftime("%H:%M:%S", time.gmtime())
