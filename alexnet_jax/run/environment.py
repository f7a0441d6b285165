"""The environment of a run, as run.json records it: what its numbers depend on besides the config."""

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.run import schemas
from alexnet_jax.specs import Config

#: Keys of run.json that must not change for a resumed run to be bit for bit the same.
_DECISIVE = ("platform", "devices", "split_towers", "split_dense", "cores", "processor", "python", "versions", "commit",
             "numerics")  # fmt: skip


def describe(spec: Config) -> dict[str, Any]:
    """Return the content of run.json: command, versions, devices and arithmetic."""
    import platform

    import flax
    import jax
    import numpy
    import optax

    return {
        "time": schemas.now(),
        "command": sys.argv,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "devices": [str(device) for device in jax.devices()],
        "processes": jax.process_count(),
        "split_towers": spec.train.split_towers,
        "split_dense": spec.train.split_dense,
        "platform": jax.default_backend(),
        "numerics": numerics(spec, jax.devices()[0]),
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "versions": {module.__name__: module.__version__ for module in (jax, flax, optax, numpy)},
    }


def numerics(spec: Config, device: Any) -> dict[str, Any]:
    """Describe the arithmetic on `device`: compute type, precision of float32 products, determinism, kernel forms."""
    from alexnet_jax.kernels import forms

    highest = spec.train.matmul_precision == "highest"
    # From compute capability 8.0 on, float32 products run on tensor cores in TF32 unless told otherwise.
    capability = float(getattr(device, "compute_capability", 0) or 0)
    return {
        "compute_dtype": spec.model.compute_dtype,
        "float32_products": "tf32" if capability >= 8 and not highest else "float32",
        "deterministic": device.platform == "cpu" or spec.train.deterministic,
        "forms": dataclasses.asdict(forms.choose(device.platform)),
    }


def changes(earlier: Mapping[str, Any] | None, current: Mapping[str, Any]) -> list[str]:
    """Return a note on the changes since an earlier start after which results agree only up to rounding, if any."""
    changed = [
        f"{key}: {earlier[key]} -> {current[key]}"
        for key in _DECISIVE
        if earlier and earlier.get(key, current[key]) != current[key]
    ]
    if not changed:
        return []
    return ["not bit for bit the same run, but equal up to rounding: " + "; ".join(changed)]


def _git(*arguments: str) -> str:
    """Return the output of git for this repository; empty without git or a repository."""
    import subprocess

    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent
        )
    except OSError:
        return ""
    return done.stdout.strip()
