"""Several processes, on one host or many, as one run: who they are, and what they tell each other.

They find each other under SLURM (`srun -n`), or by JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and
JAX_PROCESS_ID. Process 0 leads: it alone owns the run folder. Their connections are neither encrypted nor
authenticated: use them inside a trusted network.
"""

import ctypes
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax import errors
from alexnet_jax.errors import AlexNetError, ConfigError, StalledError

HEARTBEAT_SECONDS = 30
"""Without a sign of life for so long, a process counts as lost."""
_CONNECT_SECONDS = 120
_LEAVE_SECONDS = 5
_LOST = b"alexnet: error[E_STALLED]: lost another process of this run, which says why; the same command continues\n"
_NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


class Place(NamedTuple):
    """This process among `count`; `coordinator` is None where SLURM says it."""

    index: int
    count: int
    coordinator: str | None = None


@functools.cache
def place() -> Place:
    """Read from the environment, without JAX. Raises ConfigError where that makes no sense."""
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
        return Place(int(index), int(count), address)
    # Of the step: a batch script without srun sees SLURM_NTASKS too, and is one process.
    count = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if count.isdigit() and int(count) > 1 and "SLURM_PROCID" in os.environ:
        return Place(int(os.environ["SLURM_PROCID"]), int(count))
    return Place(0, 1)


def leads() -> bool:
    """Whether this process owns the run folder."""
    return place().index == 0


def several() -> bool:
    return place().count > 1


def connect() -> None:
    """Meet the other processes; before anything else asks JAX for its devices. Raises ConfigError."""
    if not several():
        return
    import jax

    # Signals are ours to agree on, at a step (training.loop).
    jax.config.update("jax_enable_preemption_service", False)
    here = place()
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
            f"process {here.index} of {here.count} did not meet the others at {where}: {_line(error)}"
        ) from error
    _exit_where_jax_aborts()


def _local_device_ids() -> list[int] | None:
    """[] where this process has the node, and so all its devices, to itself; None leaves the choice to JAX.

    Under SLURM JAX takes the device numbered SLURM_LOCALID alone, also where no other process is there for the rest.
    """
    nodes = os.environ.get("SLURM_STEP_NUM_NODES")
    return [] if nodes and nodes == os.environ.get("SLURM_STEP_NUM_TASKS") else None


def _exit_where_jax_aborts() -> None:
    """With the code for a lost peer: JAX calls abort() from a thread of its own when another process dies."""

    def leave(_signal: int) -> None:
        os.write(2, _LOST)
        os._exit(StalledError.exit_code)

    global _handler  # the C library has its address
    _handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(leave)
    ctypes.CDLL(None).signal(signal.SIGABRT, _handler)


def leave_soon(code: int) -> None:
    """End with `code` in a moment, if not before: JAX waits for the others then, and they may wait for this one."""
    if several():
        timer = threading.Timer(_LEAVE_SECONDS, _leave, [code])
        timer.daemon = True
        timer.start()


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def lost_peer(error: BaseException) -> bool:
    """Whether `error` of JAX comes from a process that went away."""
    text = str(error)
    return several() and any(word in text for word in ("Gloo", "NCCL", "oordination service"))


def lead(do: Callable[[], Any]) -> Any:
    """What `do`, called by the leader alone, returns, as JSON has it; its AlexNetError is raised by all."""
    if not several():
        return do()
    answer: dict[str, Any] = {}
    if leads():
        try:
            answer = {"result": do()}
        except AlexNetError as error:
            _send(json.dumps({"error": type(error).__name__, "text": str(error)}).encode())
            raise
    answer = json.loads(_send(json.dumps(answer).encode()))
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["text"])
    return answer["result"]


def lead_arrays(do: Callable[[], Any], like: Any) -> Any:
    """A tree of NumPy arrays that `do`, called by the leader alone, returns; `like` has its shapes and types."""
    if not several():
        return do()
    import jax
    from jax.experimental import multihost_utils

    tree = do() if leads() else jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    # As bytes: JAX would round float64.
    as_bytes = jax.tree.map(lambda x: np.frombuffer(np.asarray(x).tobytes(), np.uint8), tree)
    sent = multihost_utils.broadcast_one_to_all(as_bytes)
    return jax.tree.map(
        lambda x, y: np.frombuffer(np.asarray(y).tobytes(), x.dtype).reshape(x.shape), like, sent
    )


def any_of(flag: bool) -> bool:
    """Whether `flag` is set in any process; all must ask."""
    if not several():
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.int32(flag)).any())


def check_same(what: str, fact: str) -> None:
    """Raises ConfigError in all processes unless each has the same `fact`, a text of up to 256 bytes."""
    if not several():
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
    """Device arrays as NumPy, those too that are split over processes; all must call it."""
    import jax
    from jax.experimental import multihost_utils

    def fetch(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return x
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.device_get(jax.tree.map(fetch, tree))


def to_devices(tree: Any, sharding: Any) -> Any:
    """NumPy arrays, which all processes have whole, as device arrays placed by `sharding`."""
    import jax

    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def send(x):
        return jax.make_array_from_callback(np.shape(x), sharding, lambda i: np.asarray(x)[i])

    return jax.tree.map(send, tree)


def _send(content: bytes) -> bytes:
    """The leader's `content`."""
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    mine = np.zeros(size, np.uint8)
    if leads():
        mine[:] = np.frombuffer(content, np.uint8)
    return multihost_utils.broadcast_one_to_all(mine).tobytes()


def _text(row: np.ndarray) -> str:
    return bytes(row).rstrip(b"\0").decode(errors="replace")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
