"""Environment variables of a run: memory settings and PYTHONPATH."""

import functools
import os
import subprocess
from pathlib import Path

from alexnet_jax.config import find


@functools.cache
def memory_settings(platforms: str) -> dict[str, str]:
    """Return the variables of malloc.env for `platforms`, a value of JAX_PLATFORMS; '' selects this machine's."""
    done = subprocess.run(
        ["bash", str(Path(__file__).parent / "memory.sh")], env=os.environ | {"JAX_PLATFORMS": platforms},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def environment() -> dict[str, str]:
    """Return this process's environment plus memory settings and the package on PYTHONPATH."""
    memory = memory_settings(os.environ.get("JAX_PLATFORMS", ""))
    return dict(os.environ) | memory | {"PYTHONPATH": find.python_path()}
