"""Description of the hardware and versions for measurements, and a lock on the device."""

import contextlib
import fcntl
import functools
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

#: Packages whose versions affect measurements.
PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "flax", "optax", "torch", "triton")
PACKAGES += ("nvidia-cudnn-cu13", "nvidia-cublas")


def machine() -> str:
    """Return the model name of the processor."""
    models = _values("/proc/cpuinfo", "model name")
    return models[0] if models else platform.processor() or platform.machine()


def hardware() -> dict[str, Any]:
    """Describe the processor, the cores available to this process, the memory, and the GPUs if any."""
    total = _values("/proc/meminfo", "MemTotal")
    facts: dict[str, Any] = {
        "machine": machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(total[0].split()[0]) * 1024 if total else None,
    }
    return facts | ({"gpus": gpus()} if gpus() else {})


@functools.cache
def gpus() -> list[dict[str, Any]]:
    """Return `name`, `driver` and `memory_bytes` of each GPU that nvidia-smi lists."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total"]
    try:
        done = subprocess.run(
            [*command, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") == 2]
    return [
        {"name": name, "driver": driver, "memory_bytes": int(mib) << 20}
        for name, driver, mib in rows
        if mib.isdigit()
    ]


@functools.cache
def device() -> str:
    """Return 'cuda' if JAX finds a GPU, otherwise 'cpu'.

    Starts JAX in a subprocess, because a process that has used a GPU does not release all of its memory.
    """
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu") or not gpus():
        return "cpu"
    done = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.default_backend())"],
        capture_output=True, text=True, timeout=300,
        env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )  # fmt: skip
    return "cuda" if done.stdout.split()[-1:] in (["gpu"], ["cuda"]) else "cpu"


def device_name() -> str:
    """Return the model name of JAX's default device: of the GPU, or of the processor."""
    import jax

    return machine() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed PACKAGES."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@contextlib.contextmanager
def device_lock(device: str) -> Iterator[None]:
    """Hold a lock on the GPU, so that only one process at a time measures or autotunes on it; no-op for "cpu"."""
    if device == "cpu":
        yield
        return
    path = Path(tempfile.gettempdir()) / f"alexnet-jax-device-{os.getuid()}.lock"
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def peak_bytes() -> int:
    """Return the peak resident memory of this process."""
    return int(_values("/proc/self/status", "VmHWM")[0].split()[0]) * 1024


def _values(file: str, key: str) -> list[str]:
    """Return the values of the lines `key: value` of a file in /proc."""
    path = Path(file)
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
