"""Whether there is a GPU for these tests, asked without JAX."""

import os
from importlib import util

from bench import hardware


def missing() -> str | None:
    """Why there is no GPU; None if there is one, or if the CPU is to stand in for it."""
    wanted = os.environ.get("ALEXNET_TEST_DEVICE")
    if wanted == "cpu":
        return None
    if wanted != "gpu":
        return "no GPU: JAX has the CPU alone in this run; `pytest tests/gpu` gives it a GPU"
    if os.environ.get("JAX_PLATFORMS"):  # then JAX itself says what is wrong
        return None
    if not any(util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return 'no GPU: JAX has no CUDA plugin here; pip install -e ".[cuda]" brings it'
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "no GPU: CUDA_VISIBLE_DEVICES hides it"
    return None if hardware.gpus() else "no GPU: nvidia-smi lists none"


def is_here() -> bool:
    return os.environ.get("ALEXNET_TEST_DEVICE") == "gpu" and not missing()
