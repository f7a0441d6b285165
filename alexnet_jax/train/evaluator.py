"""Evaluation of the held-out images during and after training."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.data import sources
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.inference import metrics, predictions
from alexnet_jax.inference.predict_step import make_eval_step
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.run.watchdog import SLOW, Watchdog
from alexnet_jax.train import schedule
from alexnet_jax.train.agreement import Agreement
from alexnet_jax.train.checkpointer import Checkpointer
from alexnet_jax.train.log import RunLog
from alexnet_jax.train.plan import Plan
from alexnet_jax.train.state import State


class Evaluator:
    """Evaluates states on the held-out splits.

    Only 'val' decides on the plateau schedule and the best checkpoint; the errors on 'test' are only reported.
    """

    def __init__(
        self,
        plan: Plan,
        model: AlexNet,
        mesh: Mesh,
        dataset: sources.Dataset,
        statistics: Statistics,
        agreement: Agreement,
        checkpointer: Checkpointer,
        watchdog: Watchdog,
        log: RunLog,
    ) -> None:
        self._plan, self._model, self._mesh = plan, model, mesh
        self._dataset, self._statistics = dataset, statistics
        self._agreement, self._checkpointer = agreement, checkpointer
        self._watchdog, self._log = watchdog, log
        self._steps: dict[str, Callable[..., jax.Array]] = {}
        self._last: tuple[tuple[int, str, str], np.ndarray] | None = None

    @property
    def held_out(self) -> list[str]:
        """Names of the splits that are evaluated."""
        return [name for name in ("val", "test") if name in self._dataset.splits]

    def labels(self, name: str) -> np.ndarray:
        """Return the labels of a split."""
        return self._dataset.splits[name].labels

    def validate(self, state: State, step: int) -> tuple[State, float | None]:
        """Evaluate a held-out split, log its errors, and update the plateau schedule.

        Returns the state with the new schedule, and the top-1 error if the split is 'val'. Raises Stop and DataError.
        """
        if not self.held_out:
            return state, None
        name, spec = self.held_out[0], self._plan.spec
        view = spec.evaluation.views
        probabilities = self.probabilities(state, step, name, view)
        result = metrics.summarize(probabilities, self.labels(name))
        self._log.evaluation(step, self._plan.epoch(step), name, view, result)
        if name != "val":
            return state, None
        error, count = result["top1_error"], result["count"]
        # Not at a last step between two evaluations: a run of more epochs would not update the schedule there.
        if step % self._plan.evaluate_every == 0:
            updated = schedule.update(
                spec.schedule.weights, state.schedule, round(error * count), count,
                stops_early=spec.train.patience is not None,
            )  # fmt: skip
            state = state._replace(schedule=updated)
        return state, error

    def final(self, state: State, step: int) -> dict[str, dict[str, np.ndarray]]:
        """Compute the class probabilities of all held-out splits, by split and views. Raises Stop and DataError."""
        views = self._plan.spec.evaluation.final_views
        return {
            name: {view: self.probabilities(state, step, name, view) for view in views}
            for name in self.held_out
        }

    def probabilities(self, state: State, step: int, name: str, view: str) -> np.ndarray:
        """Return the class probabilities [n classes] of a split. The last result is cached."""
        key = (step, name, view)
        if self._last and self._last[0] == key:
            return self._last[1]
        predict = predictions.predictor(
            self._eval_step(view), state.params, state.batch_stats, self._mesh
        )
        size = predictions.batch_size(self._plan.spec, view, self._mesh)
        self._watchdog.beat(SLOW)
        poll = self._agreement.evaluation_poll()

        def watched(images: Any, indices: np.ndarray) -> jax.Array | np.ndarray:
            batch = predict(images, indices)
            self._watchdog.beat()
            return batch

        probabilities = predictions.predict_split(
            watched, self._dataset.splits[name], size, lambda: self.before_batch(poll)
        )
        self._last = key, probabilities
        return probabilities

    def before_batch(self, poll: Callable[[], None]) -> None:
        """Raise the error of a checkpoint being written, or Stop after a signal."""
        self._checkpointer.check()
        poll()

    def _eval_step(self, view: str) -> Callable[..., jax.Array]:
        if view not in self._steps:
            self._steps[view] = make_eval_step(
                self._plan.spec, self._model, self._statistics, self._mesh, view
            )
        return self._steps[view]
