"""What happened since the last line of the log: losses, errors, speed, and a watch on their being finite."""

import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax.errors import DivergedError

_SPIKE = 10
"""A gradient this many times the median is worth a warning."""

log = logging.getLogger(__name__)


class Read(NamedTuple):
    """A step whose metrics were read."""

    done: int
    """Steps made with it."""
    notes: Any
    """What `add` was given with it."""


class Meter:
    """Adds up the metrics of steps, read one step late so that the device is never waited for.

    Sums survive a restart through `saved`, so that a resumed run logs what an uninterrupted one does. Set `waited`
    to the total time spent waiting for batches.
    """

    def __init__(self, saved: Mapping | None = None) -> None:
        self._sums = dict(saved) if saved else {"loss": 0.0, "top1_errors": 0, "steps": 0}
        self._pending: tuple[int, dict, Sequence[Any]] | None = None
        self.recent: deque[dict] = deque(maxlen=20)
        self._norms: deque[float] = deque(maxlen=128)
        self.waited = self._paused = 0.0
        self._read_at = self._now()
        self.restart_clock()
        self.stop = self.save = False
        """Whether a process of the run asked to stop, or to save, in a step that was read."""

    def add(self, step: int, metrics: dict, notes: Sequence[Any] = (None,)) -> list[Read]:
        """Take the metrics (device arrays) of what was just dispatched: `step`, or as many from it on as `notes` has,
        stacked [k]. The steps of the dispatch before, which are read now.

        Raises DivergedError if the metrics of one of those were not finite.
        """
        previous, self._pending = self._pending, (step, metrics, notes)
        return self._read(*previous) if previous else []

    def flush(self) -> list[Read]:
        """Wait for the latest dispatch and count it, unless it was read before. Raises DivergedError."""
        pending, self._pending = self._pending, None
        return self._read(*pending) if pending else []

    def _read(self, step: int, metrics: dict, notes: Sequence[Any]) -> list[Read]:
        fetched = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
        self._read_at = self._now()
        return [
            self._count(step + i, {name: value[i] for name, value in fetched.items()}, note)
            for i, note in enumerate(notes)
        ]

    def _count(self, step: int, values: dict, notes: Any) -> Read:
        loss, grad_norm = float(values["loss"]), float(values["grad_norm"])
        self.stop |= bool(values["stop"])
        self.save |= bool(values["save"])
        self.recent.append({"step": step, "loss": loss, "grad_norm": grad_norm})
        if not values["finite"]:
            what = "loss" if not math.isfinite(loss) else "gradient"
            raise DivergedError(
                f"the {what} of step {step} is not finite; the update was not made. Lower "
                "config.schedule.weights.learning_rate, or see diverged.json in the run folder"
            )
        if len(self._norms) >= 16:
            median = statistics.median(self._norms)
            if grad_norm > _SPIKE * median:
                log.warning("step %d: the gradient's norm is %.3g, %.0f times the median of the last %d steps",
                            step, grad_norm, grad_norm / max(median, 1e-30), len(self._norms))  # fmt: skip
        self._norms.append(grad_norm)
        self._sums["loss"] += loss
        self._sums["top1_errors"] += int(values["top1_errors"])
        self._sums["steps"] += 1
        self._timed += 1
        return Read(step + 1, notes)

    @property
    def saved(self) -> dict:
        """The sums, for a checkpoint."""
        return dict(self._sums)

    def speed(self, batch_size: int) -> dict:
        """images_per_second and data_wait_fraction of the steps that were read since the last reset."""
        seconds = max(self._read_at - self._clock, 1e-9)
        return {
            "images_per_second": self._timed * batch_size / seconds,
            "data_wait_fraction": min(1.0, (self.waited - self._waited) / seconds),
        }

    def summary(self, batch_size: int) -> dict:
        """The values of a line of metrics.jsonl, of the steps that were read."""
        steps = max(self._sums["steps"], 1)
        return {
            "train_loss": self._sums["loss"] / steps,
            "train_top1_error": self._sums["top1_errors"] / (steps * batch_size),
            "grad_norm": self.recent[-1]["grad_norm"],
            **self.speed(batch_size),
        }

    def reset(self) -> None:
        """Begin a new interval after the step that was read last."""
        self._sums = {"loss": 0.0, "top1_errors": 0, "steps": 0}
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure speed from the end of the step that was read last."""
        self._clock, self._timed, self._waited = self._read_at, 0, self.waited

    def _now(self) -> float:
        """Seconds of training time."""
        return time.monotonic() - self._paused

    @contextmanager
    def paused(self):
        """Time spent inside (evaluation, saving) is not training time; `flush` first, so that no step is under way."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - begin
