"""Sums and speed between two lines of the log, of steps that are read one step late."""

import numpy as np
import pytest

from alexnet_jax.errors import DivergedError
from alexnet_jax.train import meter as meters
from alexnet_jax.train.meter import CompletedStep, Meter


def metrics(**changes):
    values = dict(loss=1.0, grad_norm=1.0, top1_errors=0, finite=True, stop=False, save=False)
    return {name: np.asarray(value) for name, value in (values | changes).items()}


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(meters, "time", clock)
    return clock


def test_a_step_is_read_when_the_next_one_was_dispatched_and_returned_with_its_notes():
    meter = Meter()
    assert meter.add(0, metrics(), ["zero"]) == []
    assert meter.add(1, metrics(), ["one"]) == [CompletedStep(1, "zero")]
    assert meter.flush() == [CompletedStep(2, "one")]
    assert meter.flush() == []


def test_steps_of_one_dispatch_are_counted_one_after_the_other():
    meter = Meter()
    stacked = metrics(loss=np.array([1.0, 2.0]), top1_errors=np.array([3, 4]),
                      grad_norm=np.ones(2), finite=np.array([True, True]))  # fmt: skip
    stacked |= {name: np.array([False, False]) for name in ("stop", "save")}
    assert meter.add(5, stacked, ["five", "six"]) == []
    assert meter.flush() == [CompletedStep(6, "five"), CompletedStep(7, "six")]
    assert meter.saved == {"loss": 3.0, "top1_errors": 7, "steps": 2}
    assert [row["step"] for row in meter.recent] == [5, 6]
    meter.add(7, stacked | {"finite": np.array([True, False])}, ["seven", "eight"])
    with pytest.raises(DivergedError, match="step 8"):
        meter.flush()


def test_sums_hold_exactly_the_steps_that_were_read():
    meter = Meter()
    for step in range(5):
        reads = meter.add(step, metrics(loss=float(step), top1_errors=step))
        if reads and reads[0].done == 3:
            assert meter.saved == {"loss": 3.0, "top1_errors": 3, "steps": 3}
            assert meter.summary(4)["train_loss"] == 1.0
            assert meter.summary(4)["train_top1_error"] == 0.25
            meter.reset()
    assert meter.saved == {"loss": 3.0, "top1_errors": 3, "steps": 1}
    meter.flush()
    assert meter.saved == {"loss": 7.0, "top1_errors": 7, "steps": 2}
    assert Meter(meter.saved).saved == meter.saved


@pytest.mark.parametrize("name", ["stop", "save"])
def test_requests_are_known_one_step_late(name):
    meter = Meter()
    meter.add(0, metrics(**{name: True}))
    assert not getattr(meter, name)
    meter.add(1, metrics())
    assert getattr(meter, name)


def test_all_training_time_is_counted_once_and_no_pause(clock):
    """Images over the seconds of each line: together they are the time that training took, however late a read is."""
    meter, lines, begin, paused, last = Meter(), [], clock.now, 0.0, 0.0
    for step in range(24):
        clock.now += 2.0  # waits for the step before
        reads = meter.add(step, metrics())
        if step in (9, 19):
            clock.now += 2.0
            reads += meter.flush()
        for read in reads:
            if read.done % 4 == 0:
                lines.append(4 * 8 / meter.speed(8)["images_per_second"])
                last = clock.now - paused
                clock.now += 0.5  # the log is written, while the device is at the next step
                meter.reset()
        if step in (9, 19):
            with meter.paused():
                clock.now += 100.0
                paused += 100.0
    assert len(lines) == 5
    assert sum(lines) == pytest.approx(last - begin)


def test_the_share_of_waiting_is_of_the_same_seconds(clock):
    meter = Meter()
    for step in range(9):
        clock.now += 2.0
        reads = meter.add(step, metrics(), waited=0.5 * (step + 1))
        if reads and reads[0].done % 4 == 0:
            assert meter.speed(8)["data_wait_fraction"] == pytest.approx(0.25)
            meter.reset()
