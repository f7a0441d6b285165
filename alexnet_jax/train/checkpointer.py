"""When a run saves a checkpoint, which checkpoints it keeps, and the background thread that writes them."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import AlexNetError
from alexnet_jax.inference import checkpoints
from alexnet_jax.run import processes
from alexnet_jax.run.signals import Stop
from alexnet_jax.run.status import RunStatus
from alexnet_jax.run.watchdog import SLOW, Watchdog
from alexnet_jax.run.workdir import RunFolder
from alexnet_jax.specs import TrainSpec
from alexnet_jax.train import checkpoint, retention
from alexnet_jax.train.plan import Plan
from alexnet_jax.train.state import State

#: Seconds that a checkpoint may take to be written before the run counts as stalled.
WRITE_SECONDS = SLOW


class Checkpointer:
    """Saves the checkpoints of a run: the state is copied to the host, and a background thread writes it.

    Args:
        statistics: Input statistics, part of each checkpoint.
        about: Entries of meta.json that all checkpoints of the run have.
        errors: Validation errors of the steps that have a checkpoint.
    """

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        status: RunStatus,
        watchdog: Watchdog,
        statistics: Statistics,
        about: Mapping[str, Any],
        errors: Mapping[int, float],
    ) -> None:
        self._plan, self._folder, self._status, self._watchdog = plan, folder, status, watchdog
        self._statistics, self._about, self._errors = statistics, about, dict(errors)
        self._writer = BackgroundWriter()
        self._fetched_step, self._fetched_at = status.step, time.monotonic()

    @property
    def fetched_step(self) -> int:
        """Step of the newest checkpoint; its write may not have ended."""
        return self._fetched_step

    def is_due(self, step: int, error: float | None) -> bool:
        """Whether to save after `step`: by the plan, or because its validation `error` is the lowest so far."""
        is_best = error is not None and error < min(self._errors.values(), default=math.inf)
        return is_best or self._plan.is_saved(step)

    def is_time(self) -> bool:
        """Whether `train.checkpoint_minutes` have passed since the last save, and no checkpoint is being written."""
        seconds = 60 * self._plan.spec.train.checkpoint_minutes
        return 0 < seconds <= time.monotonic() - self._fetched_at and not self._writer.busy

    def save(self, state: State, meta: Mapping[str, Any], error: float | None = None) -> None:
        """Wait until the previous checkpoint is committed, copy the state to the host, and start to write it.

        Args:
            meta: Entries of meta.json beside `about`.
            error: The validation error of the state, if it was evaluated.

        Raises:
            DivergedError: The state is not finite.
            StorageError: The previous checkpoint could not be written.
        """
        self.wait()
        fetched = checkpoint.fetch(state)
        checkpoint.check_finite(fetched)
        step = self._fetched_step = int(fetched.step)
        self._fetched_at = time.monotonic()
        if error is not None:
            self._errors[step] = error
        if processes.is_primary():
            content = {**self._about, **meta}
            self._writer.start(partial(self.commit, fetched, content, dict(self._errors)))
        else:
            self._status.write_saved(step)
        self._watchdog.beat()

    def commit(self, state: State, meta: Mapping[str, Any], errors: Mapping[int, float]) -> None:
        """Write and commit a checkpoint, update status.json, and then delete old ones; runs in the writer's thread."""
        with self._watchdog.watching(WRITE_SECONDS):
            checkpoint.save(self._folder.checkpoints, state, self._statistics, meta)
            self._status.write_saved(int(state.step))
            delete_old(self._folder, self._plan.spec.train, errors)

    def record(self, step: int, error: float) -> None:
        """Take note of the validation error of a step that has a checkpoint."""
        self._errors[step] = error

    def best(self) -> tuple[int, float] | None:
        """Return step and validation error of the best checkpoint in the run folder, if any was evaluated."""
        steps = checkpoints.committed_steps(self._folder.checkpoints)
        step = checkpoints.best_step(steps, self._errors)
        return None if step is None else (step, self._errors[step])

    def better_than(self, step: int) -> int | None:
        """Return the best checkpoint if its validation error is below that of `step`, else None."""
        best = self.best()
        return best[0] if best and best[1] < self._errors.get(step, math.inf) else None

    def check(self) -> None:
        """Raise the StorageError of the last checkpoint, if its write has ended."""
        self._writer.check()

    def wait(self) -> None:
        """Wait until the last checkpoint is committed. Raises its StorageError."""
        self._watchdog.beat(WRITE_SECONDS)
        self._writer.wait()
        self._watchdog.beat()

    def close(self, cause: BaseException) -> AlexNetError | None:
        """Wait for the last checkpoint when the run ends by `cause`.

        Its error is raised if the run was merely told to stop, and otherwise returned.
        """
        try:
            self.wait()
        except AlexNetError as error:
            if isinstance(cause, Stop):
                raise
            return error
        return None


def delete_old(folder: RunFolder, policy: TrainSpec, errors: Mapping[int, float]) -> None:
    """Delete the checkpoints that `policy` does not keep; the one with the lowest of the validation `errors` stays."""
    steps = checkpoints.committed_steps(folder.checkpoints)
    best = checkpoints.best_step(steps, errors)
    kept = retention.kept_steps(steps, best, policy.keep_every, policy.keep_powers_of_two)
    retention.prune(folder.checkpoints, kept)


class BackgroundWriter:
    """Runs one job at a time in a thread; an error of a job is raised by the next `check`, `start` or `wait`.

    The thread is a daemon: call `wait` before the process ends.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is running."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None]) -> None:
        """Wait for the previous job, and run `job` in the background."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(job,), name="writer", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of the last job, if it has ended."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Wait until no job is running; raise the error of the last one."""
        if self._thread:
            self._thread.join()
        error, self._thread, self._error = self._error, None, None
        if error:
            raise error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # raised in the thread that waits
            self._error = error
