"""Four virtual CPU devices, one compilation cache for all runs of the tests."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Before JAX is imported anywhere.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "4"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ["MPLBACKEND"] = "Agg"
os.environ["ALEXNET_JAX_CACHE"] = tempfile.mkdtemp(prefix="alexnet-jax-tests-")
atexit.register(shutil.rmtree, os.environ["ALEXNET_JAX_CACHE"], ignore_errors=True)
