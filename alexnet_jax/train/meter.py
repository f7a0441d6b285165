"""Running metrics of training: loss, errors and speed, with a check that they are finite."""

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

#: A gradient norm above this multiple of the median is logged as a warning.
_SPIKE = 10

log = logging.getLogger(__name__)


class CompletedStep(NamedTuple):
    """A step whose metrics were fetched from the device."""

    #: Number of completed steps, including this one.
    done: int
    #: The notes that were passed to `add` for the step.
    notes: Any


class Meter:
    """Sums the metrics of steps, fetched one dispatch late so that the host does not wait for the device.

    Checkpoints include the sums (`saved`), so that a resumed run logs the same values as an uninterrupted one.

    Attributes:
        recent: Loss and gradient norm of the last steps.
        stop: Whether any process of the run requested a stop in a fetched step.
        save: Whether any process requested a checkpoint in a step fetched since `clear_save`.
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
    ) -> list[CompletedStep]:
        """Add the steps that were just dispatched; fetch and return those of the previous dispatch.

        Args:
            step: The first of the steps.
            metrics: Device arrays of the train step: scalars of one step, or stacked [k] of several.
            notes: A value for each step, returned in its CompletedStep.
            waited: Total seconds spent waiting for batches so far.

        Raises:
            DivergedError: The metrics of a fetched step are not finite.
        """
        self._waited_total = waited
        previous, self._pending = self._pending, (step, metrics, notes)
        return self._fetch(*previous) if previous else []

    def flush(self) -> list[CompletedStep]:
        """Wait for the last dispatch and fetch its metrics, if not done yet. Raises DivergedError."""
        pending, self._pending = self._pending, None
        return self._fetch(*pending) if pending else []

    def _fetch(
        self, step: int, metrics: Mapping[str, Any], notes: Sequence[Any]
    ) -> list[CompletedStep]:
        fetched = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
        self._read_at = self._now()
        return [
            self._count(step + i, {name: value[i] for name, value in fetched.items()}, note)
            for i, note in enumerate(notes)
        ]

    def _count(self, step: int, values: dict[str, Any], notes: Any) -> CompletedStep:
        loss, grad_norm = float(values["loss"]), float(values["grad_norm"])
        self.stop |= bool(values["stop"])
        self.save |= bool(values["save"])
        self.recent.append({"step": step, "loss": loss, "grad_norm": grad_norm})
        if not values["finite"]:
            quantity = "loss" if not math.isfinite(loss) else "gradient"
            raise DivergedError(
                f"the {quantity} of step {step} is not finite; the update was not applied. Lower "
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
        return CompletedStep(step + 1, notes)

    @property
    def saved(self) -> dict:
        """The sums since the last logged line, for a checkpoint."""
        return dict(self._sums)

    @property
    def seconds(self) -> float:
        """Training time of the steps fetched since the last reset."""
        return max(self._read_at - self._clock, 1e-9)

    def speed(self, batch_size: int) -> dict:
        """Return images_per_second and data_wait_fraction over the steps fetched since the last reset."""
        return {
            "images_per_second": self._timed * batch_size / self.seconds,
            "data_wait_fraction": min(1.0, (self._waited_total - self._waited) / self.seconds),
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
        """Start new sums, for the next logged line."""
        self._sums = {"loss": 0.0, "top1_errors": 0, "steps": 0}
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure speed from the end of the last fetched step on."""
        self._clock, self._timed, self._waited = self._read_at, 0, self._waited_total

    def clear_save(self) -> None:
        """Clear the request to save."""
        self.save = False

    def _now(self) -> float:
        """Return the training time in seconds, without pauses."""
        return time.monotonic() - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside the context from the training time. Call `flush` first: no step may be running."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - begin
