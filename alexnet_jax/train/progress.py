"""The progress of training: metrics of the steps, their digest and time, and the lines of the log about them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax.data.pipeline import batches
from alexnet_jax.data.pipeline.splits import Split
from alexnet_jax.run.status import RunStatus
from alexnet_jax.train.diagnosis import PlateauDetector
from alexnet_jax.train.log import RunLog, duration
from alexnet_jax.train.meter import CompletedStep, Meter
from alexnet_jax.train.plan import Dispatch, Plan
from alexnet_jax.train.schedule import Rates, ScheduleState
from alexnet_jax.train.state import State

#: Steps of a start, or else seconds since its first, after which its remaining time is estimated.
_ESTIMATE_AFTER, _ESTIMATE_SECONDS = 4, 5.0

SignalReport = Callable[[State], list[dict]]
Examples = Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]


class _Notes(NamedTuple):
    """Values of a step for its line of metrics.jsonl, which is written once its metrics are read."""

    learning_rate: float
    batch_digest: str
    #: Whether the dispatch was compiled, so that its time says nothing about other steps.
    is_first: bool


class Progress:
    """Follows the steps of a run from one start, the first or a resumption, to its end.

    Args:
        split: The training images, of which only the labels are used.
        meter: Sums of the metrics, restored from a checkpoint in a resumed run.
        signal_report: Makes the report of diagnosis.signal_report.
        detector: Finds a loss that stays at ln(classes); None for a loss without that plateau.
        batch_digest: Digest of all batches before this start.
        seconds: Wall time of earlier starts.
    """

    def __init__(
        self,
        plan: Plan,
        split: Split,
        meter: Meter,
        log: RunLog,
        status: RunStatus,
        signal_report: SignalReport,
        detector: PlateauDetector | None,
        batch_digest: str = "",
        seconds: float = 0.0,
    ) -> None:
        self._plan, self._meter, self._log, self._status = plan, meter, log, status
        self._signal_report, self._detector = signal_report, detector
        self._split, self._batch_digest = split, batch_digest
        self._schedule: ScheduleState | None = None
        self._start, self._is_estimated = status.step, False
        self._earlier_seconds, self._begin = seconds, time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time spent on the run, earlier starts included."""
        return self._earlier_seconds + time.monotonic() - self._begin

    def add(
        self,
        dispatch: Dispatch,
        examples: Examples,
        rates: Rates,
        metrics: dict[str, Any],
        state: State,
        waited: float,
    ) -> None:
        """Add the steps that were just dispatched, and log those of the previous dispatch.

        Args:
            examples: (labels, indices, epochs) of each step.
            rates: The learning rates that the train step was given.
            metrics: The metrics that it returned, on the devices; `state` likewise.
            waited: Seconds spent waiting for batches, in total.

        Raises:
            DivergedError: A step that was read is not finite.
        """
        self._schedule = state.schedule
        notes = []
        for example, rate in zip(examples, np.atleast_1d(rates.weights), strict=True):
            self._batch_digest = batches.update_batch_digest(self._batch_digest, *example)
            notes.append(_Notes(float(rate), self._batch_digest, dispatch.is_first))
        completed = self._meter.add(dispatch.steps.start, metrics, notes, waited)
        self._status.advance(dispatch.steps.stop)
        self._log_steps(completed, state)
        self._log.progress(dispatch.steps.stop, self._meter, self._plan.batch_size)

    @contextmanager
    def paused(self, state: State) -> Iterator[None]:
        """Fetch and log all steps so far, and do not count the time spent inside as training time.

        Raises DivergedError.
        """
        self._schedule = state.schedule
        self._log_steps(self._meter.flush(), state)
        with self._meter.paused():
            yield

    def checkpoint(self) -> dict[str, Any]:
        """Flush the log, and return the entries of meta.json from which a resumed run continues."""
        self._log.flush()
        return {
            "meter": self._meter.saved,
            "batch_hash": self._batch_digest,
            "seconds": self.seconds,
        }

    def divergence(self) -> dict[str, Any] | None:
        """Return the content of diverged.json: the examples of the step that was read last, and the last metrics.

        None if no step was read.
        """
        if not self._meter.recent or self._schedule is None:
            return None
        step = self._meter.recent[-1]["step"]
        indices, epochs = self._plan.positions(step)
        labels = self._split.labels[indices]
        return {
            "step": step,
            "batch_hash": batches.update_batch_digest("", labels, indices, epochs),
            "indices": indices.tolist(),
            "epochs": epochs.tolist(),
            "learning_rate": float(self._plan.rates(step, self._schedule).weights),
            "recent": list(self._meter.recent),
        }

    def _log_steps(self, completed: list[CompletedStep], state: State) -> None:
        """Log the completed steps; `state` may be that of a later step."""
        for step in completed:
            notes: _Notes = step.notes
            is_time = (
                step.done >= self._start + _ESTIMATE_AFTER
                or self._meter.seconds >= _ESTIMATE_SECONDS
            )
            if is_time and not notes.is_first and not self._is_estimated:
                self._is_estimated = True
                self._say_estimate(step.done)
            if self._plan.is_logged(step.done):
                self._log_line(step.done, notes, state)
            if notes.is_first:
                self._meter.restart_clock()

    def _log_line(self, done: int, notes: _Notes, state: State) -> None:
        plan = self._plan
        values = {"learning_rate": notes.learning_rate, **self._meter.summary(plan.batch_size)}
        values["batch_hash"] = notes.batch_digest
        self._log.train(done, plan.batch_size, plan.epoch(done), values)
        self._status.write_running()
        self._meter.reset()
        if self._detector:
            report = partial(self._signal_report, state)
            if text := self._detector.feed(done, values["train_loss"], report):
                self._log.say(text)

    def _say_estimate(self, done: int) -> None:
        speed = self._meter.speed(self._plan.batch_size)["images_per_second"]
        seconds = (self._plan.last_step - done) * self._plan.batch_size / speed
        self._log.say(
            f"about {duration(seconds)} of training on this {jax.default_backend()}, at {speed:,.1f} images/s"
        )
