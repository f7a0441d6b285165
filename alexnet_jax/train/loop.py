"""The training loop (§5): next batch, step, log, and at some steps evaluate and save."""

import dataclasses
from collections.abc import Callable
from typing import Any

from alexnet_jax.errors import DataError
from alexnet_jax.run import processes
from alexnet_jax.run.signals import Stop
from alexnet_jax.run.watchdog import SLOW, Watchdog
from alexnet_jax.run.workdir import RunFolder
from alexnet_jax.train.agreement import Agreement
from alexnet_jax.train.batch_source import BatchSource
from alexnet_jax.train.checkpointer import Checkpointer
from alexnet_jax.train.evaluator import Evaluator
from alexnet_jax.train.log import RunLog
from alexnet_jax.train.plan import Plan
from alexnet_jax.train.profiler import Profiler
from alexnet_jax.train.progress import Progress
from alexnet_jax.train.state import State

TrainStep = Callable[..., tuple[State, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Training:
    """The parts of a run, as setup.begin makes them."""

    plan: Plan
    batches: BatchSource
    #: Made by step.make_train_step.
    train_step: TrainStep
    progress: Progress
    evaluator: Evaluator
    checkpointer: Checkpointer
    agreement: Agreement
    profiler: Profiler
    watchdog: Watchdog
    log: RunLog
    folder: RunFolder
    #: Whether the run begins, rather than being resumed.
    is_new: bool
    #: Whether an earlier start was stopped in the evaluation of its last step.
    evaluation_due: bool


def train(run: Training, state: State) -> State:
    """Train to the last step of the plan, or until `Plan.is_stalled`, and return the final state.

    Raises:
        Stop: After a signal; the state is saved, or being saved in the background.
        DivergedError: Loss, gradient or state are not finite.
        StorageError: A checkpoint or the metrics cannot be written.
        DataError: Images cannot be read; the state is saved if possible.
    """
    state = _before_first_step(run, state)
    if run.plan.is_stalled(state.schedule):
        return state
    done, evaluation_due = int(state.step), False
    try:
        with run.batches.stream(done, run.agreement.poll) as stream, run.profiler:
            for dispatch, read in stream:
                run.watchdog.beat(SLOW if dispatch.is_first else 0)
                rates = run.plan.dispatch_rates(dispatch, state.schedule)
                batch = run.batches.place(read)

                run.profiler.before(dispatch.steps[0])
                requests = run.agreement.requests()
                state, metrics = run.train_step(state, batch, rates, **requests)
                run.profiler.after(dispatch.steps[-1], (state, metrics))

                waited, done = stream.wait_seconds, dispatch.steps.stop
                run.progress.add(dispatch, read.examples, rates, metrics, state, waited)
                run.watchdog.beat(step=True)
                run.checkpointer.check()

                error, evaluation_due = None, run.plan.is_evaluated(done)
                if evaluation_due and not run.agreement.stop:
                    with run.progress.paused(state):
                        state, error = run.evaluator.validate(state, done)
                    evaluation_due = False

                is_stalled = error is not None and run.plan.is_stalled(state.schedule)
                is_due = run.checkpointer.is_due(done, error) or run.agreement.save
                if is_due or is_stalled or run.agreement.stop:
                    _save(run, state, error, evaluation_due=evaluation_due)
                    if run.agreement.stop:
                        raise Stop
                if is_stalled:
                    run.log.say(
                        f"ends at step {done:,}: the validation error has not fallen for "
                        f"{int(state.schedule.stalled)} evaluations (config.train.patience)"
                    )
                    break
    except (Stop, DataError):
        # All processes must save together: an evaluation stops in all of them, but reading batches may fail in one.
        can_save = evaluation_due or not processes.is_distributed()
        if can_save and done > run.checkpointer.fetched_step:
            _save(run, state, evaluation_due=evaluation_due)
        raise
    return state


def _before_first_step(run: Training, state: State) -> State:
    """Repeat the evaluation in which an earlier start was stopped; save the initial state if the config asks for it."""
    if run.evaluation_due:
        step = int(state.step)
        state, error = run.evaluator.validate(state, step)
        if error is not None:
            run.checkpointer.record(step, error)
    if run.is_new and run.plan.spec.train.keep_powers_of_two:
        _save(run, state, evaluation_due=False)
    return state


def _save(run: Training, state: State, error: float | None = None, *, evaluation_due: bool) -> None:
    """Save the state; its validation `error` is None if it was not evaluated."""
    with run.progress.paused(state):
        meta = run.progress.checkpoint() | {"evaluation_due": evaluation_due}
        run.checkpointer.save(state, meta, error)
    run.agreement.saved()
