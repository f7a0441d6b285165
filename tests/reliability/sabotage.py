"""Ways to break a start: negative controls, which the comparison of runs must detect, and other faults."""

import numpy as np


def lose_data_position() -> None:
    """A resumed run begins with the first batch again."""
    from alexnet_jax.train import checkpoint
    from alexnet_jax.train.plan import Plan

    positions, restored, restore = Plan.positions, [0], checkpoint.restore

    def record(folder, step, like):
        restored.append(step)
        return restore(folder, step, like)

    checkpoint.restore = record
    Plan.positions = lambda self, step: positions(self, step - restored[-1])


def lose_random_streams() -> None:
    """A resumed run draws other dropout masks and crops."""
    from alexnet_jax.train import step

    stream = step.stream
    step.stream = lambda seed, name: stream(seed + 1, name)


def lose_momentum() -> None:
    """A resumed run begins with zero momentum."""
    _restore_with(lambda state, like: state._replace(opt_state=like.opt_state))


def lose_best_metric() -> None:
    """A resumed run does not know the best validation error so far."""
    _restore_with(lambda state, like: state._replace(schedule=like.schedule))


def lose_commit_check() -> None:
    """Damaged checkpoints are taken for good ones."""
    import json

    from alexnet_jax.inference import checkpoints

    def verify(folder, step):
        return json.loads((folder / str(step) / "meta.json").read_text())

    checkpoints.verify = verify


def _restore_with(change) -> None:
    from alexnet_jax.train import checkpoint

    restore = checkpoint.restore
    checkpoint.restore = lambda folder, step, like: change(restore(folder, step, like), like)


def not_finite_at_17() -> None:
    """The images of step 17 hold infinities."""
    from alexnet_jax.train.plan import Plan

    rates = Plan.rates

    def infinite(self, step, state):
        found = rates(self, step, state)
        return found._replace(color_std=np.float32(np.inf)) if step == 17 else found

    Plan.rates = infinite


def retry_at_once() -> None:
    """No pauses between attempts to save."""
    from alexnet_jax.train import checkpoint

    checkpoint.RETRY_SECONDS = (0.0, 0.0, 0.0)


def kill_reader() -> None:
    """The threads that read ahead end without a word."""
    import itertools

    from alexnet_jax.data.pipeline import batches

    items = itertools.count()

    def silent(ahead, item, end, put=batches._put):
        return next(items) < 20 and put(ahead, item, end)

    batches._put = silent


def clock_goes_back() -> None:
    """The clock jumps a day back at every look."""
    import time

    now = time.time
    jumps = iter(range(10**9))
    time.time = lambda: now() - 86400 * next(jumps)


def other_images() -> None:
    """This process finds other images than the others do."""
    from alexnet_jax.data import sources

    opened = sources.open_dataset
    sources.open_dataset = lambda *arguments: opened(*arguments)._replace(fingerprint="else")


def old_fingerprint() -> None:
    """Checkpoints have the fingerprint that an earlier version gave to the images."""
    from alexnet_jax.train import setup

    about = setup._common_meta
    setup._common_meta = lambda *arguments: about(*arguments) | {"dataset": "0123456789abcdef" * 4}


def impatient_with_writes() -> None:
    """A checkpoint may take three seconds."""
    from alexnet_jax.train import checkpointer

    checkpointer.WRITE_SECONDS = 3.0
