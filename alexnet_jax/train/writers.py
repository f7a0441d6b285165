"""Writers of metrics: metrics.jsonl, TensorBoard and CSV. `Log` gives every row of metrics to each of them.

To add one, write a class like TensorBoard here and add it to WRITERS (docs/extending.md).
"""

import csv
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from alexnet_jax.errors import StorageError
from alexnet_jax.run.reading import damaged_lines, metrics_lines, read_metrics

#: The metrics of a step: "step", "epoch", "time" (seconds since 1970), and names with numbers or text.
Row = Mapping[str, Any]


class MetricsWriter(Protocol):
    """A sink of metrics, made by `WRITERS[name](workdir, next_step)`.

    A resumed run may write steps from `next_step` on again. An error of a writer is printed once, and training
    continues.
    """

    def write(self, row: Row) -> None:
        """Write the metrics of one step so that they survive a crash of the process; steps increase."""

    def close(self) -> None:
        """Close the sink."""


class JsonLines:
    """metrics.jsonl, which has one line for each step with metrics, and from which a resumed run continues.

    Opening it removes the lines after `first_step`. `reopen_last_line`: a line of `first_step` takes further values.
    """

    def __init__(self, path: Path, first_step: int, *, reopen_last_line: bool = False) -> None:
        self._path = path
        lines, self.damage = cut_back(path, first_step)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._replace_from: int | None = None
        #: The last row if it takes further values; the row with all of them then replaces it.
        self.reopened: dict[str, Any] = {}
        last = lines[-1][1] if lines else ""
        if reopen_last_line and not isinstance(last, str) and last["step"] == first_step:
            self.reopened = last
            self._replace_from = sum(len(text) for text, _ in lines[:-1])

    def write(self, row: Row) -> None:
        """Write the row and flush it to the disk. Raises StorageError."""
        text = (json.dumps(row) + "\n").encode()
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

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars for TensorBoard, in tensorboard/.

    tensorboardX's SummaryWriter is not used: its thread ends on a full disk, and `close` then waits for it forever.
    """

    def __init__(self, workdir: Path, next_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        folder = workdir / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._events: Any = event_pb2
        self._scalar, self._writer = scalar, EventsWriter(str(folder / "events"))
        if next_step > 1:  # makes TensorBoard drop what a killed start wrote
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            self._add(time.time(), step=next_step, session_log=start)

    def write(self, row: Row) -> None:
        when = row.get("time", time.time())  # a reopened row may come from another program
        for name, value in row.items():
            if name not in ("step", "epoch", "time") and not isinstance(value, str):
                summary = self._scalar(name, value)
                self._add(when, step=row["step"], summary=summary)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _add(self, wall_time: float, **event: Any) -> None:
        self._writer.write_event(self._events.Event(wall_time=wall_time, **event))


class Csv:
    """metrics.csv, which has a line for each step and a column for each metric.

    It is written anew from metrics.jsonl at each start, so the two agree after any crash.
    """

    def __init__(self, workdir: Path, next_step: int) -> None:
        self._columns: list[str] = []
        self._file = open(workdir / "metrics.csv", "w+", newline="", encoding="utf-8")  # noqa: SIM115
        rows = read_metrics(workdir, missing_ok=True)
        self._write_all([row for row in rows if row["step"] < next_step])

    def write(self, row: Row) -> None:
        if row.keys() <= set(self._columns):
            csv.DictWriter(self._file, self._columns).writerow(row)
            self._file.flush()
        else:
            self._file.seek(0)
            self._write_all([*csv.DictReader(self._file), row])

    def close(self) -> None:
        self._file.close()

    def _write_all(self, rows: Sequence[Row]) -> None:
        """Replace the content of the file by a header of all names and the rows."""
        self._columns = list(dict.fromkeys(name for row in rows for name in row))
        self._file.seek(0)
        self._file.truncate()
        table = csv.DictWriter(self._file, self._columns)
        table.writeheader()
        table.writerows(rows)
        self._file.flush()


#: The values of `config.train.writers`. metrics.jsonl is always written.
WRITERS: dict[str, Callable[[Path, int], MetricsWriter]] = {
    "tensorboard": TensorBoard,
    "csv": Csv,
}


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
