import functools
import gc
import itertools
import threading
import time
import types

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.pipeline import batches, image_files
from alexnet_jax.data.sources import folder

positions = functools.partial(
    batches.positions, batch_size=4, num_examples=10, seed=3, shuffle="epoch"
)


def stream(steps, **changes):
    parts = [positions(step, **changes) for step in range(steps)]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def test_every_example_comes_once_an_epoch():
    indices, epochs = stream(15)
    assert epochs.tolist() == sorted(epochs.tolist()) and np.bincount(epochs).tolist() == [10] * 6
    orders = indices.reshape(6, 10)
    assert (np.sort(orders) == np.arange(10)).all()
    assert len({tuple(order) for order in orders}) == 6


def test_a_batch_may_straddle_epochs():
    _, epochs = positions(2)
    assert epochs.tolist() == [0, 0, 1, 1]


def test_once_keeps_the_order_of_epoch_zero():
    shuffled, _ = stream(15)
    indices, epochs = stream(15, shuffle="once")
    assert (indices.reshape(6, 10) == shuffled[:10]).all()
    assert np.bincount(epochs).tolist() == [10] * 6


def test_a_step_gives_its_batch_whatever_came_before():
    forward = [positions(step) for step in range(20)]
    for step in (19, 0, 7, 19, 3):
        for now, then in zip(positions(step), forward[step], strict=True):
            assert np.array_equal(now, then)


def test_the_stream_does_not_depend_on_the_batch_size_but_on_the_seed():
    indices, _ = stream(15)
    assert np.array_equal(stream(4, batch_size=15)[0], indices)
    assert np.array_equal(stream(2, batch_size=30)[0], indices)
    assert not np.array_equal(stream(15, seed=4)[0], indices)


def test_the_permutations_are_pinned():
    """A change here would silently change the order of runs that are resumed."""
    indices, _ = positions(0, batch_size=10)
    assert indices.tolist() == np.random.default_rng((3, 0)).permutation(10).tolist()
    assert indices.dtype == np.int32


def test_huge_steps_and_any_seed_are_fine():
    for step, seed in ((10**12, 0), (2**62, 2**70), (5, -1)):
        indices, _ = batches.positions(
            step, batch_size=10, num_examples=10, seed=seed, shuffle="epoch"
        )
        assert sorted(indices) == list(range(10))


def prefetch_threads():
    return [t for t in threading.enumerate() if t.name == "prefetch"]


@pytest.mark.fault("D1")
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_prefetching_gives_the_steps_in_order(depth):
    with batches.Prefetch(lambda step: step * step, range(5, 12), depth) as made:
        assert list(made) == [(step, step * step) for step in range(5, 12)]
        assert list(made) == []
    assert not prefetch_threads()


def test_prefetching_stays_depth_ahead():
    made = []
    with batches.Prefetch(made.append, itertools.count(), 2) as ahead:
        next(ahead)
        deadline = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        # one taken, two in the queue, one made and waiting for room
        assert len(made) == 4


@pytest.mark.parametrize("depth", [0, 2])
def test_an_exception_reaches_the_consumer_after_the_steps_before_it(depth):
    def make(step):
        if step == 3:
            raise KeyError("three")
        return step

    with batches.Prefetch(make, itertools.count(), depth) as made:
        assert [step for step, _ in itertools.islice(made, 3)] == [0, 1, 2]
        with pytest.raises(KeyError, match="three"):
            next(made)
        with pytest.raises(StopIteration):
            next(made)
    assert not prefetch_threads()


def test_closing_ends_the_thread_and_the_iterator():
    made = batches.Prefetch(lambda step: step, itertools.count(), 2)
    next(made)
    made.close()
    made.close()
    assert not prefetch_threads()
    with pytest.raises(StopIteration):
        next(made)


def test_dropping_the_iterator_ends_the_thread():
    made = batches.Prefetch(lambda step: np.zeros(10), itertools.count(), 2)
    next(made)
    del made
    gc.collect()
    assert not prefetch_threads()


def test_the_time_spent_waiting_is_counted(monkeypatch):
    """By a clock that only the maker turns, once the consumer has looked at it, which then waits."""
    now, waiting = [0.0], threading.Event()

    def clock() -> float:
        if threading.current_thread() is threading.main_thread():
            waiting.set()
        return now[0]

    def slow(step):
        waiting.wait(60)
        waiting.clear()
        now[0] += 1

    monkeypatch.setattr(batches, "time", types.SimpleNamespace(perf_counter=clock))
    with batches.Prefetch(slow, range(3), 1) as made:
        list(made)
        assert 1 <= made.wait_seconds <= 3
    with batches.Prefetch(lambda step: step, range(3), 3) as made:
        list(made)
        assert made.wait_seconds == 0


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """A folder of 36 JPEG files of many sizes, in three classes."""
    root, generator = tmp_path_factory.mktemp("jpegs"), np.random.default_rng(0)
    for i in range(36):
        folder = root / "train" / f"class{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        size = tuple(int(side) for side in generator.integers(20, 90, 2))
        Image.fromarray(pixels).resize(size).save(folder / f"{i:02}.jpg", quality=80)
    return root


@pytest.mark.fault("D1")
def test_neither_threads_nor_prefetching_nor_the_cache_change_a_byte(jpegs, data_spec, monkeypatch):
    def stream(threads, depth):
        spec = data_spec("folder", jpegs, threads=threads, image_size=24)
        split = folder.load(spec).splits["train"]

        def make(step):
            places = batches.positions(
                step, batch_size=14, num_examples=len(split.labels), seed=5, shuffle="epoch"
            )
            return split.images[places[0]], split.labels[places[0]], *places

        with batches.Prefetch(make, range(1, 8), depth) as made:
            return [tuple(part.tobytes() for part in batch) for _, batch in made]

    cached = stream(1, 0)
    assert len(cached) == 7 and len({images for images, *_ in cached}) == 7
    monkeypatch.setattr(image_files, "CACHE_LIMIT_BYTES", 0)  # each batch decodes its own
    for threads in (1, 2, 4):
        for depth in (0, 1, 4):
            assert stream(threads, depth) == cached
