"""The environment of a command: variables, standard streams, home folder. Imports no JAX."""

import contextlib
import io
import os
import subprocess
import sys
import traceback
from pathlib import Path

from alexnet_jax import files
from alexnet_jax.errors import ConfigError, one_line

#: Values of variables that JAX takes as true.
_TRUE = ("y", "yes", "t", "true", "on", "1")
_REFUSED = {
    "JAX_ENABLE_X64": "all arithmetic here is in float32 or bfloat16",
    "JAX_DISABLE_JIT": "training and evaluation are compiled programs",
}
#: Files of JAX that read variables and look for devices: errors from there are the environment's.
_JAX_STARTS = ("/jax/_src/xla_bridge.py", "/jax/_src/config.py", "/jax/_src/cloud_tpu_init.py")
#: Where a container finds its limits.
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def open_streams() -> None:
    """Open standard streams that are closed, and let output contain any character.

    Characters that the encoding lacks are written as \\xfc or \\u2588. A closed stream (>&-) becomes /dev/null, so
    that no other file gets its descriptor.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            file = open(number, mode, closefd=False)  # noqa: SIM115 - open as long as the process
            setattr(sys, name, file)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say_error(text: str) -> None:
    """Print to standard error; failing to do so must not change an exit code or the state of a run."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def flush_streams() -> None:
    """Flush the output, and discard what cannot be written, so that Python does not exit with code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def cores() -> int:
    """Return the number of cores that this process may use: its affinity, or less by a limit of its control group."""
    limits = [len(os.sched_getaffinity(0))]
    for names in ("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"):  # versions 2, 1
        with contextlib.suppress(OSError, ValueError):  # no limit, or 'max'
            text = " ".join((_CONTROL_GROUP / name).read_text() for name in names)
            quota, period = map(int, text.split())
            limits += [-(-quota // period)] * (quota > 0)
    return max(min(limits), 1)


def check() -> None:
    """Raise ConfigError for unsuitable variables, before JAX is imported."""
    for name, why in _REFUSED.items():
        if os.environ.get(name, "").lower() in _TRUE:
            raise ConfigError(f"{name}={os.environ[name]} is set, but {why}: unset {name}")
    _check_xla_flags()
    _keep_compiled_programs()
    # Figures are drawn to files, for which no other backend is needed.
    os.environ["MPLBACKEND"] = "Agg"


def _check_xla_flags() -> None:
    """Check XLA_FLAGS in another process, as XLA aborts on an unknown flag; this takes 0.2 s."""
    if not os.environ.get("XLA_FLAGS") or "jax" in sys.modules:
        return
    code = "import jaxlib.xla_client as x; x.CompileOptions(); print('fine')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, errors="replace"
    )
    if "fine" not in done.stdout and "XLA_FLAGS" in done.stderr:
        line = next(line for line in done.stderr.splitlines() if "XLA_FLAGS" in line)
        raise ConfigError(
            f"XLA_FLAGS={os.environ['XLA_FLAGS']}: {line.rpartition('] ')[2]}; correct or unset XLA_FLAGS"
        )


def _keep_compiled_programs() -> None:
    """Have JAX keep what it compiles in the cache folder, if nothing else is set and the folder can be made."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = files.cache_folder() / "jax"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or read-only: JAX would warn at each program
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def fault(error: BaseException) -> ConfigError | None:
    """Convert an error that the environment caused; None for any other error."""
    message = one_line(error)
    if isinstance(error, RuntimeError) and "determine home directory" in message:
        return ConfigError(
            "there is no home folder: set HOME, or set ALEXNET_JAX_CACHE=FOLDER and give paths without ~"
        )
    if not isinstance(error, RuntimeError | AssertionError | ValueError):
        return None
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not frames or not frames[-1].endswith(_JAX_STARTS):
        return None
    set_here = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith(("JAX_", "CUDA_VISIBLE_", "ROCR_VISIBLE_")) and "CACHE" not in name
    ]
    settings = f" with {', '.join(set_here)}" if set_here else ""
    why = message or "there is no such device here"
    return ConfigError(
        f"JAX does not start{settings}: {why}; correct or unset these variables (JAX_PLATFORMS=cpu computes without "
        "a GPU)"
    )
