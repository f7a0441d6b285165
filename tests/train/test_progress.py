"""When a run says how long it will take."""

from types import SimpleNamespace

import numpy as np
import pytest

from alexnet_jax import config
from alexnet_jax.run.status import RunStatus
from alexnet_jax.run.workdir import RunFolder
from alexnet_jax.train import meter as meters
from alexnet_jax.train import schedule
from alexnet_jax.train.log import RunLog
from alexnet_jax.train.meter import Meter
from alexnet_jax.train.plan import Dispatch, Plan
from alexnet_jax.train.progress import Progress


@pytest.mark.parametrize("seconds, after", [(0.5, 4), (6.0, 2)])
def test_the_remaining_time_is_said_after_a_few_steps_or_seconds(
    seconds, after, tmp_path, monkeypatch
):
    """The first step, which is compiled, counts for neither."""
    now, said, done = 0.0, [], 0
    monkeypatch.setattr(meters, "time", SimpleNamespace(monotonic=lambda: now))

    class Log(RunLog):
        def say(self, text):
            said.append((done, text))

    plan = Plan(config.parse(config.load("tests/tiny.py", [])), 382)
    split = SimpleNamespace(labels=np.zeros(382, np.int32))
    progress = Progress(
        plan, split, Meter(), Log(), RunStatus(RunFolder(tmp_path)), lambda state: [], None
    )  # type: ignore
    state = SimpleNamespace(schedule=schedule.create())
    for step in range(7):
        now += 100.0 if step == 1 else seconds
        # Adding a step reads the one before.
        done = step
        metrics = dict(loss=2.0, grad_norm=1.0, top1_errors=9, finite=True, stop=False, save=False)
        example = (np.zeros(32, np.int32), np.arange(32), np.zeros(32, np.int64))
        progress.add(
            Dispatch(range(step, step + 1), step == 0), [example],
            plan.rates(step, state.schedule), metrics, state, 0.0,
        )  # type: ignore # fmt: skip
    ((at, text),) = said
    assert at == after
    assert text.startswith("about ") and text.endswith(f" at {32 / seconds:,.1f} images/s")
