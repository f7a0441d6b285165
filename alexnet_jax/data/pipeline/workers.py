"""Processes that decode images into memory that they share with this one.

Threads wait for each other at Python's global lock when there are many. The processes are new interpreters, because
JAX does not allow forks, and do not import JAX. They end when the socket to this process closes, however it ends; the
shared memory has no name that could be left behind.
"""

import contextlib
import functools
import logging
import mmap
import os
import queue
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from alexnet_jax.cli import environment
from alexnet_jax.data.pipeline import images
from alexnet_jax.data.pipeline.images import Job
from alexnet_jax.errors import DataError, OutOfMemoryError
from alexnet_jax.specs import Exif

#: Maximum number of processes that are started unless config.data.workers asks for more.
MOST_BY_DEFAULT = 32
#: Signals that terminals and schedulers send to a whole group; this process decides when the others end.
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
#: Without these, BLAS would start a thread per core in each process.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_EXIT_SECONDS = 10.0

log = logging.getLogger(__name__)


def default() -> int:
    """Return the number of processes for this machine: one per core, and 0 for a single core."""
    cores = environment.cores()
    return min(cores, MOST_BY_DEFAULT) if cores > 1 else 0


class Block(NamedTuple):
    """Bytes of the shared memory."""

    nbytes: int
    offset: int

    def mapped(self, file: int) -> mmap.mmap:
        """Map these bytes of `file`."""
        return mmap.mmap(file, self.nbytes, offset=self.offset)


class _Memory:
    """An unnamed file in memory, divided into blocks that are used again when their arrays are gone."""

    def __init__(self) -> None:
        try:
            self.file = os.memfd_create("alexnet-images")
        except (AttributeError, OSError):  # not Linux, or forbidden in this container
            with tempfile.TemporaryFile(buffering=0) as file:
                self.file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.file)
        self._size, self._lock = 0, threading.Lock()
        self._free: list[tuple[Block, mmap.mmap]] = []

    def empty(self, shape: tuple[int, ...]) -> tuple[UInt8[np.ndarray, "..."], Block]:
        """Return an array and its block. The block is free again when the array and its views are deleted."""
        nbytes = max(int(np.prod(shape)), 1)
        with self._lock:
            fitting = [free for free in self._free if free[0].nbytes >= nbytes]
            if fitting:
                found = min(fitting, key=lambda free: free[0])
                self._free.remove(found)
            else:
                found = self._grow(-(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE)
        array = np.ndarray(shape, np.uint8, buffer=found[1])
        weakref.finalize(array, self._free.append, found).atexit = False
        return array, found[0]

    def _grow(self, nbytes: int) -> tuple[Block, mmap.mmap]:
        block = Block(nbytes, self._size)
        # A full disk then raises OSError here instead of killing a process that writes with SIGBUS.
        os.posix_fallocate(self.file, block.offset, block.nbytes)
        self._size += block.nbytes
        return block, block.mapped(self.file)


class _Worker(NamedTuple):
    process: subprocess.Popen
    connection: Connection


class Threads:
    """Threads that decode.

    Attributes:
        count: Their number.
        threads: The threads in which `decode` should be called.
    """

    #: Number of images from which a call of `decode` is worth while.
    fewest = 1

    def __init__(self, count: int) -> None:
        self.count = count
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="decode")

    def empty(self, shape: tuple[int, ...]) -> tuple[UInt8[np.ndarray, "..."], Block | None]:
        """Return an array to decode into, and where other processes find it."""
        return np.empty(shape, np.uint8), None

    def decode(
        self, jobs: list[Job], out: UInt8[np.ndarray, "n s s 3"], block: Block | None, exif: Exif
    ) -> list[tuple[int, str]]:
        """Decode as `images.decode_all` does. `out` and `block` come from `empty`."""
        return images.decode_all(jobs, out, exif)


class Workers(Threads):
    """Processes that decode, with one thread each that waits for it."""

    fewest = 8

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._memory = _Memory()
        self._starting: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._lock = threading.Lock()
        try:
            while len(self._starting) < count:
                self._starting.append(_start(self._memory.file))
        except OSError as error:
            log.warning(
                "only %d of %d processes that decode images can be started (%s): threads decode, too",
                len(self._starting),
                count,
                error.strerror,
            )
        weakref.finalize(self, _stop, self.threads, list(self._starting))

    def empty(self, shape: tuple[int, ...]) -> tuple[UInt8[np.ndarray, "..."], Block | None]:
        return self._memory.empty(shape)

    def decode(
        self, jobs: list[Job], out: UInt8[np.ndarray, "n s s 3"], block: Block | None, exif: Exif
    ) -> list[tuple[int, str]]:
        """Decode in a process if one is idle, else in this thread.

        Raises:
            OutOfMemoryError: The process was killed, most likely for lack of memory.
            DataError: The process ended for another reason.
        """
        worker = self._ready() if jobs else None
        if worker is None:  # all that are not busy are still starting
            return images.decode_all(jobs, out, exif)
        try:
            worker.connection.send((block, out.shape, exif, jobs))
            answer = worker.connection.recv()
        except (EOFError, OSError):
            if _shared.get(self.count) is self:
                del _shared[self.count]
            raise _died(worker, jobs) from None
        self._idle.put(worker)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _ready(self) -> _Worker | None:
        """Return an idle process, or None."""
        with self._lock:
            for worker in [one for one in self._starting if one.connection.poll()]:
                self._starting.remove(worker)
                try:
                    worker.connection.recv()
                    self._idle.put(worker)
                except (EOFError, OSError):
                    log.warning(
                        "a process that decodes images does not start (exit code %s): decoding in a thread instead",
                        worker.process.wait(),
                    )
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        return None


_shared: "weakref.WeakValueDictionary[int, Workers]" = weakref.WeakValueDictionary()
_lock = threading.Lock()


def shared(count: int) -> Workers:
    """Return the `count` processes of this program, started if nothing holds them now.

    There are fewer if the limit of open files is low: each has a socket here, and its thread may open an image.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = count if limit == resource.RLIM_INFINITY else max(limit // 4, 1)
    if count > most:
        log.warning(
            "%d instead of %d processes decode images, as ulimit -n allows only %d open files",
            most, count, limit,
        )  # fmt: skip
        count = most
    with _lock:
        found = _shared.get(count)
        if found is None:
            found = _shared[count] = Workers(count)
        return found


def _start(memory: int) -> _Worker:
    """Start a process; it sends None when it is ready."""
    ours, theirs = Pipe()
    # Not by multiprocessing, which would import the main module of the program again.
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; from alexnet_jax.data.pipeline import workers; "
        f"workers.serve({theirs.fileno()}, {memory})"
    )
    with theirs, _blocked(_SIGNALS):  # until the process ignores them
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), memory),
            env=os.environ | _ONE_THREAD,
        )
    return _Worker(process, ours)


@contextlib.contextmanager
def _blocked(signals: set[signal.Signals]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stop(threads: ThreadPoolExecutor, workers: list[_Worker]) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.wait()
        worker.connection.close()


def _died(worker: _Worker, jobs: list[Job]) -> DataError | OutOfMemoryError:
    try:
        code = worker.process.wait(timeout=_EXIT_SECONDS)
    except subprocess.TimeoutExpired:  # it has closed its socket only
        worker.process.kill()
        code = worker.process.wait()
    if code == -signal.SIGKILL:
        return OutOfMemoryError(
            "a process that decodes images was killed, most likely for lack of memory: run the same command again "
            "with fewer, --config.data.workers=N (0: none)"
        )
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    titles = [job.name or str(job.source) for job in (jobs[0], jobs[-1])]
    return DataError(
        f"a process that decodes images ended {how} at one of {len(jobs)} images, {titles[0]} to {titles[1]}: "
        "alexnet doctor PATH finds damaged images; --config.data.workers=0 decodes without processes"
    )


def serve(connection: int, memory: int) -> None:
    """Decode what arrives at the socket `connection` until it is closed; the main function of a process."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    images.load_libraries()
    mapped = functools.cache(lambda block: block.mapped(memory))
    with Connection(connection) as parent, contextlib.suppress(EOFError, ConnectionError):
        parent.send(None)
        while True:
            block, shape, exif, jobs = parent.recv()
            out = np.ndarray(shape, np.uint8, buffer=mapped(block))
            try:
                answer = images.decode_all(jobs, out, exif)
            except Exception as error:  # raised again where the images are needed
                answer = error
            parent.send(answer)
