"""Running metrics of training: loss, errors, speed, and a check that they are finite."""

import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax.errors import DivergedError

#: A gradient norm of this many medians is worth a warning.
_SPIKE = 10

log = logging.getLogger(__name__)


class Read(NamedTuple):
    """A step whose metrics were read from the device."""

    #: Number of steps made, this one included.
    done: int
    #: The notes that `add` was given for the step.
    notes: Any


class Meter:
    """Sums of the metrics of steps, which are read one step late so that the host never waits for the device.

    A checkpoint keeps the sums (`saved`), so that a resumed run logs what an uninterrupted one does.

    Attributes:
        recent: Loss and gradient norm of the last steps.
        stop: Whether a process of the run asked to stop, in a step that was read.
        save: Whether one asked to save, since `clear_save`.
    """

    def __init__(self, saved: Mapping | None = None) -> None:
        self._sums = dict(saved) if saved else {"loss": 0.0, "top1_errors": 0, "steps": 0}
        self._pending: tuple[int, Mapping[str, Any], Sequence[Any]] | None = None
        self.recent: deque[dict] = deque(maxlen=20)
        self._norms: deque[float] = deque(maxlen=128)
        self._waited_total = self._paused = 0.0
        self._read_at = self._now()
        self.restart_clock()
        self.stop = self.save = False

    def add(
        self,
        step: int,
        metrics: Mapping[str, Any],
        notes: Sequence[Any] = (None,),
        waited: float = 0.0,
    ) -> list[Read]:
        """Add the steps that were just dispatched; read and return those of the dispatch before.

        Args:
            step: The first of the steps.
            metrics: Device arrays of the train step: scalars of one step, or stacked [k] of several.
            notes: One value for each step, which comes back with the Read of the step.
            waited: Seconds spent waiting for batches, in total.

        Raises:
            DivergedError: The metrics of a step that was read are not finite.
        """
        self._waited_total = waited
        previous, self._pending = self._pending, (step, metrics, notes)
        return self._read(*previous) if previous else []

    def flush(self) -> list[Read]:
        """Wait for the last dispatch and read it, unless it was read before. Raises DivergedError."""
        pending, self._pending = self._pending, None
        return self._read(*pending) if pending else []

    def _read(self, step: int, metrics: Mapping[str, Any], notes: Sequence[Any]) -> list[Read]:
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
        """The sums since the last line of the log, for a checkpoint."""
        return dict(self._sums)

    def speed(self, batch_size: int) -> dict:
        """Return images_per_second and data_wait_fraction of the steps that were read since the last reset."""
        seconds = max(self._read_at - self._clock, 1e-9)
        return {
            "images_per_second": self._timed * batch_size / seconds,
            "data_wait_fraction": min(1.0, (self._waited_total - self._waited) / seconds),
        }

    def summary(self, batch_size: int) -> dict:
        """Return the values of a line of metrics.jsonl."""
        steps = max(self._sums["steps"], 1)
        return {
            "train_loss": self._sums["loss"] / steps,
            "train_top1_error": self._sums["top1_errors"] / (steps * batch_size),
            "grad_norm": self.recent[-1]["grad_norm"],
            **self.speed(batch_size),
        }

    def reset(self) -> None:
        """Start the sums of the next line of the log, after the step that was read last."""
        self._sums = {"loss": 0.0, "top1_errors": 0, "steps": 0}
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure speed from the end of the step that was read last."""
        self._clock, self._timed, self._waited = self._read_at, 0, self._waited_total

    def clear_save(self) -> None:
        """Forget that a process asked to save."""
        self.save = False

    def _now(self) -> float:
        """Seconds of training time."""
        return time.monotonic() - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time spent inside as training time; call `flush` first, so that no step is running."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - begin
