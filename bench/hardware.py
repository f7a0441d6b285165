"""What a measurement ran on."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """The processor, as it names itself."""
    models = _values("/proc/cpuinfo", "model name")
    return models[0] if models else platform.processor() or platform.machine()


def hardware() -> dict:
    """Processor, cores that this process may use, bytes of memory."""
    total = _values("/proc/meminfo", "MemTotal")
    return {
        "machine": machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(total[0].split()[0]) * 1024 if total else None,
    }


def peak_bytes() -> int:
    """The most memory that this process has held in RAM so far."""
    return int(_values("/proc/self/status", "VmHWM")[0].split()[0]) * 1024


def _values(file: str, key: str) -> list[str]:
    path = Path(file)
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
