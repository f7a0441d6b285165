"""Distributed runs: the processes of one run, on one host or many, and how they exchange data.

Processes find each other under SLURM (`srun -n`), or by JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and
JAX_PROCESS_ID. Process 0 is the primary: only it writes to the run folder. Connections are neither encrypted nor
authenticated: use them inside a trusted network.
"""

import ctypes
import dataclasses
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from alexnet_jax import errors
from alexnet_jax.errors import AlexNetError, ConfigError, StalledError, one_line

#: A process without a heartbeat for this long counts as lost.
HEARTBEAT_SECONDS = 30
_CONNECT_SECONDS = 120
_LEAVE_SECONDS = 5
_LOST = (
    b"alexnet: error[E_STALLED]: lost another process of this run, whose output says why; "
    b"the same command continues\n"
)
_NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


@dataclasses.dataclass(frozen=True)
class Process:
    """This process: its index, and the number of processes of the run."""

    index: int
    count: int
    #: HOST:PORT, or None if SLURM provides it.
    coordinator: str | None = None


@functools.cache
def process() -> Process:
    """Return this process as the environment describes it, without importing JAX. Raises ConfigError."""
    set_here = [name for name in _NAMES if os.environ.get(name)]
    if set_here:
        if len(set_here) < len(_NAMES):
            missing = ", ".join(sorted(set(_NAMES) - set(set_here)))
            raise ConfigError(f"{set_here[0]} is set, but not {missing}: set all three, or none")
        address, count, index = (os.environ[name] for name in _NAMES)
        if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
            raise ConfigError(
                f"JAX_PROCESS_ID={index} must be below JAX_NUM_PROCESSES={count}, both whole numbers"
            )
        return Process(int(index), int(count), address)
    # Not SLURM_NTASKS: a batch script without srun has it too, and is one process.
    count = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if count.isdigit() and int(count) > 1 and "SLURM_PROCID" in os.environ:
        return Process(int(os.environ["SLURM_PROCID"]), int(count))
    return Process(0, 1)


def is_primary() -> bool:
    """Whether this process owns the run folder."""
    return process().index == 0


def is_distributed() -> bool:
    """Whether the run has more than one process."""
    return process().count > 1


def connect() -> None:
    """Connect to the other processes. Call it before JAX initializes its devices. Raises ConfigError."""
    if not is_distributed():
        return
    import jax

    # The processes agree on signals in a step (train/agreement.py).
    jax.config.update("jax_enable_preemption_service", False)
    here = process()
    try:
        jax.distributed.initialize(
            here.coordinator,
            here.count if here.coordinator else None,
            here.index if here.coordinator else None,
            local_device_ids=_local_device_ids(),
            initialization_timeout=_CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        where = here.coordinator or "the coordinator that SLURM names"
        raise ConfigError(
            f"process {here.index} of {here.count} cannot connect to the others at {where}: {one_line(error)[:200]}"
        ) from error
    _exit_where_jax_aborts()


def _local_device_ids() -> list[int] | None:
    """Return [] (all devices) if this process is alone on its node, else None, which leaves the choice to JAX.

    Under SLURM, JAX takes only the device numbered SLURM_LOCALID, even if no other process uses the rest.
    """
    nodes = os.environ.get("SLURM_STEP_NUM_NODES")
    return [] if nodes and nodes == os.environ.get("SLURM_STEP_NUM_TASKS") else None


def _exit_where_jax_aborts() -> None:
    """Turn SIGABRT into the exit code for a lost process: JAX calls abort() when another process dies."""

    def leave(_signal: int) -> None:
        os.write(2, _LOST)
        os._exit(StalledError.exit_code)

    global _handler  # must not be freed, because the C library has its address
    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(leave)
    ctypes.CDLL(None).signal(signal.SIGABRT, _handler)


def leave_soon(code: int) -> None:
    """Exit with `code` after at most a few seconds: JAX may wait for processes that wait for this one."""
    if is_distributed():
        timer = threading.Timer(_LEAVE_SECONDS, _leave, [code])
        timer.daemon = True
        timer.start()


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def lost_peer(error: BaseException) -> bool:
    """Whether JAX raised `error` because another process ended."""
    text = str(error)
    return is_distributed() and any(
        word in text for word in ("Gloo", "NCCL", "oordination service")
    )


def run_on_primary(function: Callable[[], Any]) -> Any:
    """Call `function` in the primary process, and return its result, sent as JSON, in all processes.

    An AlexNetError of `function` is raised in all processes.
    """
    if not is_distributed():
        return function()
    message: dict[str, Any] = {}
    if is_primary():
        try:
            message = {"result": function()}
        except AlexNetError as error:
            _broadcast(json.dumps({"error": type(error).__name__, "text": str(error)}).encode())
            raise
    message = json.loads(_broadcast(json.dumps(message).encode()))
    if "error" in message:
        raise getattr(errors, message["error"])(message["text"])
    return message["result"]


def arrays_from_primary(function: Callable[[], Any], like: Any) -> Any:
    """Call `function` in the primary process, and return its tree of NumPy arrays in all processes.

    `like` is a tree with the shapes and types of the result.
    """
    if not is_distributed():
        return function()
    import jax
    from jax.experimental import multihost_utils

    tree = function() if is_primary() else jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    # Sent as bytes, because JAX would round float64.
    as_bytes = jax.tree.map(lambda x: np.frombuffer(np.asarray(x).tobytes(), np.uint8), tree)
    sent = multihost_utils.broadcast_one_to_all(as_bytes)
    return jax.tree.map(
        lambda x, y: np.frombuffer(np.asarray(y).tobytes(), x.dtype).reshape(x.shape), like, sent
    )


def check_same(what: str, fact: str) -> None:
    """Raise ConfigError in all processes unless `fact`, up to 256 bytes of text, is the same in each."""
    if not is_distributed():
        return
    from jax.experimental import multihost_utils

    mine = np.frombuffer(fact.encode()[:256].ljust(256, b"\0"), np.uint8)
    first, *others = map(_text, multihost_utils.process_allgather(mine))
    for number, other in enumerate(others, 1):
        if other != first:
            raise ConfigError(
                f"process {number} has another {what} than process 0: {other}, not {first}"
            )


def to_host(tree: Any) -> Any:
    """Fetch a tree of device arrays, which may be sharded over processes. All processes must call it."""
    import jax
    from jax.experimental import multihost_utils

    def fetch(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return x
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.device_get(jax.tree.map(fetch, tree))


def to_devices(tree: Any, sharding: Any) -> Any:
    """Place a tree of NumPy arrays on the devices of `sharding`. Every process has the whole arrays."""
    import jax

    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def send(x):
        return jax.make_array_from_callback(np.shape(x), sharding, lambda i: np.asarray(x)[i])

    return jax.tree.map(send, tree)


def _broadcast(content: bytes) -> bytes:
    """Return the `content` of the primary process in all processes."""
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    mine = np.zeros(size, np.uint8)
    if is_primary():
        mine[:] = np.frombuffer(content, np.uint8)
    return multihost_utils.broadcast_one_to_all(mine).tobytes()


def _text(row: np.ndarray) -> str:
    return bytes(row).rstrip(b"\0").decode(errors="replace")
