"""Training batches, whose examples depend on the step only, so that a resumed run gets the same batches."""

import functools
import hashlib
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32

from alexnet_jax.errors import DataError

_POLL_SECONDS = 0.2


class Batch(NamedTuple):
    """A batch as NumPy arrays, or on the devices.

    Attributes:
        images: uint8 [b s s 3].
        indices: Positions of the examples in the split.
        epochs: The epoch of each example; a batch may contain the end of one epoch and the start of the next.
    """

    images: Any
    labels: Int32[np.ndarray, " b"]
    indices: Int32[np.ndarray, " b"]
    epochs: Int32[np.ndarray, " b"]


def update_batch_digest(previous: str, *batch: np.ndarray) -> str:
    """Update a running hash of the examples of all batches, in order.

    Args:
        previous: The digest after the previous batch; '' before the first.
        batch: The labels, indices and epochs of a batch.
    """
    digest = hashlib.sha256(previous.encode())
    for array in batch:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:32]


def positions(
    step: int, *, batch_size: int, num_examples: int, seed: int, shuffle: str
) -> tuple[Int32[np.ndarray, " b"], Int32[np.ndarray, " b"]]:
    """Return the indices and epochs of the batch of a step, from an endless stream of shuffled epochs.

    Every example occurs once per epoch. shuffle='once' repeats the order of epoch 0, as the authors' program does.
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


@functools.lru_cache(maxsize=2)  # a batch can span two epochs
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    order = np.random.default_rng((seed % 2**64, epoch % 2**64)).permutation(num_examples)
    return order.astype(np.int32)


class Prefetch(Iterator[tuple[Any, Any]]):
    """Iterator over (item, make(item)) that prepares up to `depth` items ahead in background threads.

    Two are made at a time, so that nothing waits for the last image of a batch. The iterator raises an exception of
    `make` after the items before it. Use it as a context, or call `close`. `poll` is called before each item and
    repeatedly while waiting for one; its exceptions are passed on.

    Attributes:
        wait_seconds: Total time that the consumer has waited.
    """

    def __init__(
        self,
        make: Callable[[Any], Any],
        items: Iterable[Any],
        depth: int,
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        self._poll = poll
        self.wait_seconds = 0.0
        self._inline = ((item, make(item)) for item in items) if depth == 0 else None
        self._ahead: queue.Queue[tuple[Any, Future]] = queue.Queue(depth + 1)
        self._end = threading.Event()
        if depth:
            # The threads do not refer to `self`, so that they end when the consumer drops the iterator.
            arguments = (make, iter(items), threading.Lock(), self._ahead, self._end)
            self._threads = [
                threading.Thread(target=_produce, args=arguments, name="prefetch", daemon=True)
                for _ in range(2)
            ]
            self._close = weakref.finalize(self, _stop, self._threads, self._ahead, self._end)
            for thread in self._threads:
                thread.start()

    def __next__(self) -> tuple[Any, Any]:
        started = time.perf_counter()
        try:
            if self._end.is_set():
                raise StopIteration
            self._poll()
            if self._inline is not None:
                return next(self._inline)
            item, future = self._take()
            while not wait([future], _POLL_SECONDS).done:
                self._poll()
            if error := future.exception():
                self.close()
                raise error
            return item, future.result()
        finally:
            self.wait_seconds += time.perf_counter() - started

    def _take(self) -> tuple[Any, Future]:
        while True:
            try:
                return self._ahead.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                self._poll()
                if not any(thread.is_alive() for thread in self._threads) and self._ahead.empty():
                    raise DataError("the thread that reads images ahead has died") from None

    def close(self) -> None:
        """End the threads and the iteration."""
        self._end.set()
        if self._inline is None:
            self._close()

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _produce(
    make: Callable[[Any], Any],
    items: Iterator[Any],
    lock: threading.Lock,
    ahead: queue.Queue,
    end: threading.Event,
) -> None:
    """Make items until they end or one fails; the queue holds them in order while they are made."""
    while not end.is_set():
        future = Future()
        with lock:  # one thread at a time takes an item and waits for room
            try:
                item = next(items)
            except BaseException as error:  # StopIteration too; raised again by the consumer
                item = None
                future.set_exception(error)
            if not _put(ahead, (item, future), end):
                return
        if future.done():
            return
        try:
            future.set_result(make(item))
        except BaseException as error:
            future.set_exception(error)
            return
        del future  # so that the consumer frees the batch


def _put(ahead: queue.Queue, item: Any, end: threading.Event) -> bool:
    while not end.is_set():
        try:
            ahead.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _stop(threads: list[threading.Thread], ahead: queue.Queue, end: threading.Event) -> None:
    end.set()
    while not ahead.empty():  # so that a thread waiting for room continues at once
        ahead.get_nowait()
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(timeout=10)
