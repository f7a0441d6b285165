"""The thread that writes checkpoints, the watch on it, and the copy of the state that it is given."""

import os
import threading
import time

import jax
import numpy as np
import pytest

from alexnet_jax.errors import DivergedError, StorageError
from alexnet_jax.model import mesh as parallel
from alexnet_jax.train import checkpoint, schedule
from alexnet_jax.train.checkpointer import BackgroundWriter
from alexnet_jax.train.state import State
from tests.reliability import faults


def test_one_job_at_a_time_in_the_order_in_which_they_were_given():
    writer, done, go_on = BackgroundWriter(), [], threading.Event()
    threads = set()

    def job(name, wait=None):
        threads.add(threading.current_thread())
        if wait:
            wait.wait(10)
        done.append(name)

    writer.start(lambda: job("first", go_on))
    assert writer.busy and done == []
    writer.check()  # says nothing of a job that is under way
    threading.Timer(0.1, go_on.set).start()
    writer.start(lambda: job("second"))  # waits for the first
    assert done[0] == "first"
    writer.wait()
    assert done == ["first", "second"] and not writer.busy
    assert threading.main_thread() not in threads
    writer.wait()


@pytest.mark.parametrize("call", ["check", "wait", "start"])
def test_what_a_job_raises_is_raised_once_by_the_next_call(call):
    writer = BackgroundWriter()

    def fail():
        raise StorageError("the disk")

    writer.start(fail)
    while writer.busy:
        time.sleep(0.001)
    with pytest.raises(StorageError, match="the disk"):
        getattr(writer, call)(*([lambda: None] if call == "start" else []))
    writer.check()
    writer.wait()
    assert not writer.busy


def test_a_job_is_let_go_of_when_it_has_ended():
    """It holds a whole state."""
    import gc
    import weakref

    class Held:
        pass

    held, writer = Held(), BackgroundWriter()
    gone = weakref.ref(held)
    writer.start(lambda held=held: None)
    del held
    while writer.busy:
        time.sleep(0.001)
    gc.collect()
    assert gone() is None


@pytest.fixture(params=[(1, 1), (4, 1), (2, 2)])
def state(request):
    """Whole on each of one or four devices, or split over two towers."""
    devices, towers = request.param
    mesh = parallel.device_mesh(jax.devices()[:devices], towers)
    whole = jax.NamedSharding(mesh, jax.P())
    split = jax.NamedSharding(mesh, jax.P(parallel.TOWER))
    make = jax.jit(
        lambda: (jax.numpy.int32(7), {"conv1": {"kernel": jax.numpy.arange(1e5)}}),
        out_shardings=(whole, split),
    )
    step, params = make()
    return State(step, params, {}, {}, schedule.create())


def test_the_copy_for_a_checkpoint_does_not_change_with_the_steps_after_it(state):
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    before = [np.array(leaf) for leaf in jax.tree.leaves(state.params)]
    state = step(state._replace(schedule=None))._replace(schedule=state.schedule)
    fetched = checkpoint.fetch(state)
    kernel = state.params["conv1"]["kernel"]
    places = [shard.data.unsafe_buffer_pointer() for shard in kernel.addressable_shards]
    for _ in range(3):
        state = step(state._replace(schedule=None))._replace(schedule=state.schedule)
    jax.block_until_ready(state.params)
    if kernel.is_fully_replicated:
        assert kernel.is_deleted(), "the copy keeps a step from reusing the memory of the state"
        after = state.params["conv1"]["kernel"].addressable_shards
        assert {shard.data.unsafe_buffer_pointer() for shard in after} == set(places)
    assert int(fetched.step) == 8 and isinstance(fetched.step, np.ndarray)
    assert np.array_equal(fetched.params["conv1"]["kernel"], before[0] + 1)
    assert fetched.params["conv1"]["kernel"].ctypes.data not in places


def test_a_state_that_is_not_finite_is_refused_by_the_name_of_the_array(state):
    fetched = jax.tree.map(np.array, checkpoint.fetch(state))
    checkpoint.check_finite(fetched)
    for value in (np.nan, np.inf, -np.inf):
        fetched.params["conv1"]["kernel"][77] = value
        with pytest.raises(
            DivergedError, match="params/conv1/kernel is not finite after step 7, so no"
        ):
            checkpoint.check_finite(fetched)
    fetched.params["conv1"]["kernel"][77] = 0
    checkpoint.check_finite(fetched)


def test_fault_points_act_in_the_thread_of_the_writer(monkeypatch):
    monkeypatch.setattr(checkpoint, "write_checkpoint", lambda: None)
    faults.install("save.begin:1:sleep=0.2,save.begin:1:raise=ENOSPC")
    writer = BackgroundWriter()
    writer.start(lambda: checkpoint.write_checkpoint())  # type: ignore
    assert writer.busy
    with pytest.raises(OSError, match=os.strerror(28)):
        writer.wait()
