"""The log of a run: the metrics and their writers, log.txt, and what is printed."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.errors import one_line
from alexnet_jax.run.schemas import Results
from alexnet_jax.train.meter import Meter
from alexnet_jax.train.terminal import progress_bar
from alexnet_jax.train.writers import WRITERS, JsonLines, MetricsWriter


class RunLog:
    """The log as training sees it. This base class, for processes other than the primary, writes nothing."""

    def say(self, text: str) -> None:
        """Print lines, and write them to log.txt."""

    def train(self, step: int, batch_size: int, epoch: float, values: dict[str, Any]) -> None:
        """Log the metrics of the steps up to `step`; printed where there is no progress bar."""

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
    """Writes the log of a run that begins, or continues, after `first_step` and ends with `last_step`.

    A resumed run depends on metrics.jsonl, so an error in writing it is a StorageError. Errors of the other writers are
    printed once, and those of log.txt and the terminal are ignored.
    """

    def __init__(
        self,
        workdir: Path,
        first_step: int,
        last_step: int,
        *,
        unfinished: bool = False,
        writers: Sequence[str] = ("tensorboard",),
    ) -> None:
        """Open all writers. `unfinished`: the evaluation of `first_step` is still to come."""
        self._file = JsonLines(workdir / "metrics.jsonl", first_step, reopen_last_line=unfinished)
        #: The metrics of a step that are not yet written.
        self._row: dict[str, Any] = self._file.reopened
        self._text = open(  # noqa: SIM115
            workdir / "log.txt", "a", encoding="utf-8", errors="backslashreplace"
        )
        self._last = last_step
        self._bar = progress_bar(first_step, last_step)
        if self._file.damage:
            self.say(f"warning: {self._file.damage}")
        self._writers: dict[str, MetricsWriter] = {}
        self._failed: set[str] = set()
        next_step = first_step if self._row else first_step + 1
        for name in writers:
            with self._reported(name):
                self._writers[name] = WRITERS[name](workdir, next_step)

    def say(self, text: str) -> None:
        self._write(text)
        if self._bar:
            self._bar.print(text)
        else:
            with contextlib.suppress(OSError):  # the reader of a pipe may be gone
                print(text, flush=True)

    def metrics(self, step: int, epoch: float, values: dict[str, Any]) -> None:
        """Add values to the row of `step`, which is written when it is complete."""
        if self._row and self._row["step"] != step:
            self.flush()
        self._row = self._row or {"step": step, "epoch": epoch, "time": time.time()}
        self._row |= values

    def flush(self) -> None:
        if not self._row:
            return
        self._file.write(self._row)
        for name, writer in self._writers.items():
            with self._reported(name):
                writer.write(self._row)
        self._row = {}

    def progress(self, step: int, meter: Meter, batch_size: int) -> None:
        if self._bar and meter.recent:
            speed = meter.speed(batch_size)
            self._bar.update(
                step,
                f"loss {meter.recent[-1]['loss']:.3f}  {speed['images_per_second']:.0f} images/s  "
                f"data wait {speed['data_wait_fraction']:.0%}",
            )

    def train(self, step: int, batch_size: int, epoch: float, values: dict[str, Any]) -> None:
        self.metrics(step, epoch, values)
        left = (self._last - step) * batch_size / values["images_per_second"]
        line = (
            f"step {step:,}/{self._last:,}  epoch {epoch:.2f}  loss {values['train_loss']:.4f}  "
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
        for name, writer in self._writers.items():
            with self._reported(name):
                writer.close()
        for sink in (self._file, self._text):
            with contextlib.suppress(OSError):
                sink.close()

    @contextlib.contextmanager
    def _reported(self, name: str) -> Iterator[None]:
        """Print the first error of the writer `name`, and continue."""
        try:
            yield
        except Exception as error:
            if name not in self._failed:
                self._failed.add(name)
                self.say(f"warning: no metrics could be written to {name}: {one_line(error)}")

    def _write(self, text: str) -> None:
        clock = time.strftime("%H:%M:%S", time.gmtime())
        with contextlib.suppress(OSError):
            self._text.write("".join(f"{clock} {line}\n" for line in text.splitlines()))
            self._text.flush()


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
