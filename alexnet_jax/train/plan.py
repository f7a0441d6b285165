"""What happens at which step: batches, learning rates, lines of the log, evaluations, checkpoints."""

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from alexnet_jax import specs
from alexnet_jax.data.pipeline import batches
from alexnet_jax.errors import ConfigError
from alexnet_jax.specs import Config
from alexnet_jax.train import retention, schedule
from alexnet_jax.train.schedule import Rates, ScheduleState


class Dispatch(NamedTuple):
    """Steps that are sent to the devices in one call."""

    steps: range
    #: Whether this is the first dispatch of its length in this process, and so compiled.
    is_first: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of a run of `spec` on `examples` training images, numbered from 0."""

    spec: Config
    examples: int

    @property
    def batch_size(self) -> int:
        return self.spec.train.batch_size

    @property
    def last_step(self) -> int:
        """The number of steps of the whole run. Raises ConfigError."""
        train = self.spec.train
        steps = min(self._scheduled_steps, train.max_steps or self._scheduled_steps)
        if steps > specs.MOST_STEPS:
            raise ConfigError(
                f"config.train.epochs={train.epochs:g} of {self.examples:,} images is {steps:,} steps, more than "
                f"{specs.MOST_STEPS:,}; train.max_steps can limit them"
            )
        return steps

    @property
    def _scheduled_steps(self) -> int:
        """The number of steps without the limit of train.max_steps, over which the learning rate falls."""
        train = self.spec.train
        return max(math.ceil(train.epochs * self.examples / train.batch_size), train.min_steps or 0)

    @property
    def total_epochs(self) -> float:
        """The epochs over which the learning rate falls: train.epochs, or those of train.min_steps."""
        return max(self.spec.train.epochs, self.epoch(self.spec.train.min_steps or 0))

    @property
    def evaluate_every(self) -> int:
        """Steps between two evaluations; train.min_steps makes them longer, as it makes the run."""
        epochs = self.spec.evaluation.every_epochs * self.total_epochs / self.spec.train.epochs
        return max(1, round(epochs * self.examples / self.batch_size))

    def epoch(self, step: int) -> float:
        """Return the passes over the training images made in `step` steps."""
        return step * self.batch_size / self.examples

    def positions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices and epochs [b] of the examples of a step."""
        return batches.positions(
            step, batch_size=self.batch_size, num_examples=self.examples, seed=self.spec.seed,
            shuffle=self.spec.data.shuffle,
        )  # fmt: skip

    def rates(self, step: int, state: ScheduleState) -> Rates:
        """Return the learning rates of a step."""
        return schedule.rates(self.spec, self.epoch(step), state, self.total_epochs)

    def dispatch_rates(self, dispatch: Dispatch, state: ScheduleState) -> Rates:
        """Return the learning rates of a dispatch as the train step takes them: stacked [k] for several steps."""
        each = [self.rates(step, state) for step in dispatch.steps]
        if self.spec.train.steps_per_dispatch == 1:
            return each[0]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *each)

    def is_logged(self, done: int) -> bool:
        """Whether metrics are logged after `done` steps."""
        return done % self.spec.train.log_every == 0

    def is_evaluated(self, done: int) -> bool:
        """Whether the held-out images are evaluated after `done` steps."""
        return done == self.last_step or done % self.evaluate_every == 0

    def is_stalled(self, state: ScheduleState) -> bool:
        """Whether the run ends before its last step, because of train.patience."""
        patience = self.spec.train.patience
        if patience is None or schedule.can_drop(self.spec.schedule.weights, state):
            return False
        return int(state.stalled) * self.evaluate_every >= patience * self.last_step

    def is_saved(self, done: int) -> bool:
        """Whether a checkpoint is due after `done` steps, whatever the time and the validation error."""
        train = self.spec.train
        is_power = train.keep_powers_of_two and retention.is_power_of_two(done)
        return done == self.last_step or done % train.checkpoint_every == 0 or is_power

    def dispatches(self, start: int) -> Iterator[Dispatch]:
        """Yield all steps from `start` on, up to `train.steps_per_dispatch` at once.

        A dispatch ends after a step at which something is due.
        """
        count, lengths, step = self.spec.train.steps_per_dispatch, set[int](), start
        while step < self.last_step:
            is_free = all(not self._is_due(done) for done in range(step + 1, step + count))
            length = count if is_free and step + count <= self.last_step else 1
            yield Dispatch(range(step, step + length), length not in lengths)
            lengths.add(length)
            step += length

    def _is_due(self, done: int) -> bool:
        return self.is_logged(done) or self.is_evaluated(done) or self.is_saved(done)
