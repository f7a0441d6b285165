"""Environment variables of a run: memory settings, and a compilation cache that all runs share."""

import functools
import os
import subprocess
from pathlib import Path

from alexnet_jax.config.find import IMPORT_ROOT, ROOT


@functools.cache
def memory_settings(platforms: str) -> dict[str, str]:
    """Return the variables of malloc.env for `platforms`, a value of JAX_PLATFORMS; '' selects this machine's."""
    done = subprocess.run(
        ["bash", str(Path(__file__).parent / "memory.sh")], env=os.environ | {"JAX_PLATFORMS": platforms},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def environment() -> dict[str, str]:
    """Return this process's environment plus memory settings, a compilation cache and the package on PYTHONPATH.

    Variables for the compilation cache that are already set are kept.
    """
    cache = ROOT / ".jax-cache" if ROOT == IMPORT_ROOT else Path.home() / ".cache/alexnet_jax/jax"
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    path = os.pathsep.join(filter(None, (str(IMPORT_ROOT), os.environ.get("PYTHONPATH"))))
    memory = memory_settings(os.environ.get("JAX_PLATFORMS", ""))
    return defaults | dict(os.environ) | memory | {"PYTHONPATH": path}
