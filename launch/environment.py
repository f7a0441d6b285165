"""The environment of a run on this machine: memory settings and a shared compilation cache."""

import functools
import os
import subprocess
from pathlib import Path

from .runs import IMPORT_ROOT, ROOT


@functools.cache
def memory_settings(platforms: str) -> dict[str, str]:
    """The variables of malloc.env for `platforms`, as JAX_PLATFORMS names them; '' for those of this machine."""
    done = subprocess.run(
        ["bash", str(Path(__file__).parent / "memory.sh")], env=os.environ | {"JAX_PLATFORMS": platforms},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def environment() -> dict[str, str]:
    """This environment with memory settings, a compilation cache unless one is set, and the package on the path."""
    cache = ROOT / ".jax-cache" if ROOT == IMPORT_ROOT else Path.home() / ".cache/alexnet_jax/jax"
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    path = os.pathsep.join(filter(None, (str(IMPORT_ROOT), os.environ.get("PYTHONPATH"))))
    memory = memory_settings(os.environ.get("JAX_PLATFORMS", ""))
    return defaults | dict(os.environ) | memory | {"PYTHONPATH": path}
