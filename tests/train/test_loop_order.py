"""The loop on its own, with parts that only record what it asks of them."""

import contextlib
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from alexnet_jax.errors import DataError, StorageError
from alexnet_jax.run import processes
from alexnet_jax.run.signals import Stop
from alexnet_jax.train import loop
from alexnet_jax.train.plan import Dispatch


class State(NamedTuple):
    step: int
    schedule: Any = None


class Parts:
    """The parts of a run of six steps: evaluated after 2, 4, 6, saved after 3, 6.

    errors: validation errors by step. stop_at: a signal comes in that step; `seen`: after it, else when the next batch
    is read. stalls_at: the evaluation of that step finds that the error has not fallen for long. fails: (place, step)
    at which 'read', 'evaluate' or 'check' raises `error`.
    """

    def __init__(
        self, errors=None, stop_at=None, seen=True, fails=None, error: type = DataError, stalls_at=None,
        **training
    ):  # fmt: skip
        self.events: list[Any] = []
        self.stalls_at = stalls_at
        self.seen = seen
        self.errors, self.stop_at, self.fails, self.error = errors or {}, stop_at, fails, error
        self.fetched_step, self.saved_errors, self.stopped = 0, [1.0], False
        self.run: Any = loop.Training(
            plan=self,  # type: ignore
            batches=self,  # type: ignore
            train_step=self.train_step,
            progress=self,  # type: ignore
            evaluator=self,  # type: ignore
            checkpointer=self,  # type: ignore
            agreement=SimpleNamespace(
                poll=self.poll, requests=lambda: {"stop": self.stopped}, saved=lambda: None,
                stop=False, save=False,
            ),  # type: ignore
            profiler=contextlib.nullcontext(),  # type: ignore
            watchdog=SimpleNamespace(beat=lambda *_, **__: None),  # type: ignore
            log=SimpleNamespace(say=lambda text: self.events.append("said")),  # type: ignore
            folder=None,  # type: ignore
            **({"is_new": True, "evaluation_due": False} | training),
        )  # fmt: skip
        self.spec = SimpleNamespace(train=SimpleNamespace(keep_powers_of_two=False))
        self.run.profiler.before = self.run.profiler.after = lambda *_: None

    def fail(self, place, step):
        if self.fails == (place, step):
            raise self.error("here")

    def poll(self):
        if self.stopped and not processes.is_distributed():
            raise Stop

    # Plan
    def dispatch_rates(self, dispatch, schedule):
        return None

    def is_stalled(self, schedule):
        return schedule is not None and schedule.stalled == self.stalls_at

    def is_evaluated(self, done):
        return done % 2 == 0

    # Batches
    def stream(self, start, poll):
        parts = self

        class Stream:
            wait_seconds = 0.0

            def __enter__(self):
                return self

            def __exit__(self, *_):
                parts.events.append("closed")

            def __iter__(self):
                for step in range(start, 6):
                    poll()
                    parts.fail("read", step)
                    yield Dispatch(range(step, step + 1), False), SimpleNamespace(examples=[])

        return Stream()

    def place(self, read):
        return read

    def train_step(self, state, batch, rates, stop):
        self.events.append(("step", state.step + 1))
        if state.step + 1 == self.stop_at:
            self.stopped, self.run.agreement.stop = True, self.seen
        return state._replace(step=state.step + 1), {}

    # Progress
    def add(self, dispatch, examples, rates, metrics, state, waited):
        self.events.append(("log", state.step))

    @contextlib.contextmanager
    def paused(self, state):
        yield

    def checkpoint(self):
        return {}

    # Evaluator
    def validate(self, state, step):
        self.fail("evaluate", step)
        self.events.append(("evaluate", step))
        return state._replace(schedule=SimpleNamespace(stalled=step)), self.errors.get(step, 1.0)

    # Checkpointer
    def check(self):
        self.fail("check", self.events[-1][1])

    def is_due(self, step, error):
        return step % 3 == 0 or (error is not None and error < min(self.saved_errors))

    def save(self, state, meta, error=None):
        self.events.append(("save", state.step, meta["evaluation_due"]))
        self.fetched_step = state.step
        if error is not None:
            self.saved_errors.append(error)

    def record(self, step, error):
        self.saved_errors.append(error)


@pytest.fixture
def distributed(monkeypatch):
    monkeypatch.setattr(processes, "is_distributed", lambda: True)


def saves(parts) -> list[tuple]:
    return [event[1:] for event in parts.events if event[0] == "save"]


def test_a_step_is_logged_then_evaluated_then_saved():
    parts = Parts()
    assert loop.train(parts.run, State(0)).step == 6
    assert parts.events == [
        ("step", 1), ("log", 1),
        ("step", 2), ("log", 2), ("evaluate", 2),
        ("step", 3), ("log", 3), ("save", 3, False),
        ("step", 4), ("log", 4), ("evaluate", 4),
        ("step", 5), ("log", 5),
        ("step", 6), ("log", 6), ("evaluate", 6), ("save", 6, False), "closed",
    ]  # fmt: skip


def test_a_run_goes_on_from_the_step_of_its_state():
    parts = Parts(is_new=False)
    loop.train(parts.run, State(5))
    assert [event for event in parts.events if event[0] == "step"] == [("step", 6)]


def test_the_lowest_validation_error_so_far_is_saved():
    parts = Parts(errors={2: 0.5, 4: 0.6, 6: 0.4})
    loop.train(parts.run, State(0))
    assert [step for step, _ in saves(parts)] == [2, 3, 6]


def test_a_run_whose_error_has_stalled_is_saved_and_ends():
    parts = Parts(stalls_at=4)
    assert loop.train(parts.run, State(0)).step == 4
    assert parts.events[-4:] == [("evaluate", 4), ("save", 4, False), "said", "closed"]


def test_a_stalled_run_that_goes_on_makes_no_step():
    parts = Parts(stalls_at=4, is_new=False)
    assert loop.train(parts.run, State(4, SimpleNamespace(stalled=4))).step == 4
    assert parts.events == []


def test_an_evaluation_that_was_stopped_is_made_first():
    parts = Parts(errors={2: 0.1, 4: 0.2}, is_new=False, evaluation_due=True)
    loop.train(parts.run, State(2))
    assert parts.events[:2] == [("evaluate", 2), ("step", 3)]
    assert [step for step, _ in saves(parts)] == [3, 6], "step 4 is not better than step 2"


@pytest.mark.parametrize(("is_new", "first"), [(True, ("save", 0, False)), (False, ("step", 1))])
def test_a_new_run_saves_its_initial_state_where_powers_of_two_are_kept(is_new, first):
    parts = Parts(is_new=is_new)
    parts.spec.train.keep_powers_of_two = True
    loop.train(parts.run, State(0))
    assert parts.events[0] == first


@pytest.mark.parametrize(("step", "evaluation_due"), [(1, False), (2, True), (3, False)])
def test_a_signal_saves_once_and_puts_the_evaluation_off(step, evaluation_due):
    parts = Parts(stop_at=step)
    with pytest.raises(Stop):
        loop.train(parts.run, State(0))
    assert parts.events[-2:] == [("save", step, evaluation_due), "closed"]
    assert len(saves(parts)) == 1


def test_a_signal_that_is_seen_when_the_next_batch_is_read_saves_the_step_before():
    parts = Parts(stop_at=1, seen=False)
    with pytest.raises(Stop):
        loop.train(parts.run, State(0))
    assert saves(parts) == [(1, False)]


@pytest.mark.parametrize("error", [Stop, DataError])
def test_an_evaluation_that_is_interrupted_is_saved_as_due(error):
    parts = Parts(fails=("evaluate", 4), error=error)
    with pytest.raises(error):
        loop.train(parts.run, State(0))
    assert saves(parts) == [(3, False), (4, True)]


def test_images_that_cannot_be_read_cost_no_step():
    parts = Parts(fails=("read", 4))
    with pytest.raises(DataError):
        loop.train(parts.run, State(0))
    assert saves(parts) == [(3, False), (4, False)]


def test_images_that_cannot_be_read_after_a_save_are_not_saved_again():
    parts = Parts(fails=("read", 3))
    with pytest.raises(DataError):
        loop.train(parts.run, State(0))
    assert saves(parts) == [(3, False)]


def test_a_process_that_cannot_read_does_not_save_alone(distributed):
    parts = Parts(fails=("read", 4))
    with pytest.raises(DataError):
        loop.train(parts.run, State(0))
    assert saves(parts) == [(3, False)]


def test_all_processes_save_when_an_evaluation_is_stopped(distributed):
    parts = Parts(fails=("evaluate", 4), error=Stop)
    with pytest.raises(Stop):
        loop.train(parts.run, State(0))
    assert saves(parts) == [(3, False), (4, True)]


def test_a_checkpoint_that_could_not_be_written_ends_the_run_after_the_step():
    parts = Parts(fails=("check", 5), error=StorageError)
    with pytest.raises(StorageError):
        loop.train(parts.run, State(0))
    assert parts.events[-2:] == [("log", 5), "closed"]
