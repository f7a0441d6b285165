"""Batches by step: what they hold follows from the step alone, so a run resumes exactly."""

import functools
import hashlib
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from alexnet_jax.errors import DataError

_POLL_SECONDS = 0.2


class Batch(NamedTuple):
    """A batch as NumPy arrays, or on the devices.

    Attributes:
        images: uint8 [b s s 3].
        indices: The examples' numbers in the split.
        epochs: How often each was used before; a batch may end one epoch and begin the next.
    """

    images: Any
    labels: Int32[np.ndarray, " b"]
    indices: Int32[np.ndarray, " b"]
    epochs: Int32[np.ndarray, " b"]


def update_batch_digest(before: str, *batch: np.ndarray) -> str:
    """Hash of which examples all batches up to this one held, in their order.

    `before` is that of the batch before, '' for the first; `batch` its labels, indices and epochs.
    """
    digest = hashlib.sha256(before.encode())
    for array in batch:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


def positions(
    step: int, *, batch_size: int, num_examples: int, seed: int, shuffle: str
) -> tuple[Int32[np.ndarray, " b"], Int32[np.ndarray, " b"]]:
    """(indices, epochs) of the batch of a step, from one endless stream of shuffled epochs.

    Every example occurs exactly once an epoch. shuffle='once' keeps epoch 0's order in all epochs, as the authors'
    program did.
    """
    indices, epochs = np.empty(batch_size, np.int32), np.empty(batch_size, np.int32)
    done = 0
    while done < batch_size:
        epoch, offset = divmod(step * batch_size + done, num_examples)
        order = _permutation(seed, 0 if shuffle == "once" else epoch, num_examples)
        part = slice(done, min(done + num_examples - offset, batch_size))
        indices[part] = order[offset : offset + part.stop - done]
        epochs[part] = epoch % 2**31
        done = part.stop
    return indices, epochs


@functools.lru_cache(maxsize=2)  # a batch can need two epochs
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    order = np.random.default_rng((seed % 2**64, epoch % 2**64)).permutation(num_examples)
    return order.astype(np.int32)


class Prefetch(Iterator[tuple[Any, Any]]):
    """Iterator of (item, make(item)) over `items`, `depth` items ahead in a thread, or at depth 0 in this one.

    What `make` raises is raised by the iterator, after the items made before. Use it as a context, or close() it.
    `poll` is called before each item, and repeatedly while waiting for one; it may raise to stop.

    Attributes:
        wait_seconds: Total time that the consumer has spent waiting.
    """

    def __init__(
        self,
        make: Callable[[Any], Any],
        items: Iterable[Any],
        depth: int,
        poll: Callable[[], None] = lambda: None,
    ):
        self._poll = poll
        self.wait_seconds = 0.0
        self._inline = ((item, make(item)) for item in items) if depth == 0 else None
        self._made: queue.Queue = queue.Queue(max(depth, 1))
        self._end = threading.Event()
        if depth:
            # The thread has no reference to `self`: it ends too when a consumer drops the iterator.
            self._thread = threading.Thread(
                target=_produce,
                args=(make, items, self._made, self._end),
                name="prefetch",
                daemon=True,
            )
            self._close = weakref.finalize(self, _stop, self._thread, self._made, self._end)
            self._thread.start()

    def __next__(self) -> tuple[Any, Any]:
        started = time.perf_counter()
        try:
            if self._end.is_set():
                raise StopIteration
            self._poll()
            if self._inline is not None:
                return next(self._inline)
            made, error = self._wait()
            if error is not None:
                self.close()
                raise error
            return made
        finally:
            self.wait_seconds += time.perf_counter() - started

    def _wait(self) -> tuple[Any, BaseException | None]:
        while True:
            try:
                return self._made.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                self._poll()
                if not self._thread.is_alive() and self._made.empty():
                    raise DataError("the thread that reads images ahead has died") from None

    def close(self) -> None:
        """End the thread and the iteration."""
        self._end.set()
        if self._inline is None:
            self._close()

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _produce(
    make: Callable[[Any], Any], items: Iterable[Any], made: queue.Queue, end: threading.Event
) -> None:
    try:
        for item in items:
            result = ((item, make(item)), None)
            if not _put(made, result, end):
                return
            del result  # else a batch more than `depth` is held
        _put(made, (None, StopIteration()), end)
    except BaseException as error:  # raised in the consumer
        _put(made, (None, error), end)


def _put(made: queue.Queue, item: Any, end: threading.Event) -> bool:
    while not end.is_set():
        try:
            made.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _stop(thread: threading.Thread, made: queue.Queue, end: threading.Event) -> None:
    end.set()
    while not made.empty():  # wakes the thread at once where it waits for room
        made.get_nowait()
    if thread is not threading.current_thread():
        thread.join(timeout=10)
