"""Starts of the training command, each in a process that is forked from one with all libraries imported.

After its imports a start does what `python -m alexnet_jax.main` does; this saves about three seconds for each.
`python -m tests.reliability.starter` is the server: a line of JSON orders a start, and it answers with its process id.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = ("alexnet_jax.main", "alexnet_jax.train.report", "alexnet_jax.train.setup", "orbax.checkpoint",
            "tensorboardX.event_file_writer", "tensorboardX.summary", "matplotlib.figure",
            "matplotlib.backends.backend_agg")  # fmt: skip


def killed_once_saved(point: str) -> str:
    """A fault: a kill at `point` when the checkpoint that is being written there has been committed."""
    return f"{point}:sleep=1,{point}:kill"


def make_bare(replace: Callable[[Any, str, Any], None]) -> None:
    """Have runs draw no figures and measure no signal, which take a third of the time of a short one.

    replace: `setattr`, or that of a pytest.MonkeyPatch.
    """
    from alexnet_jax import main
    from alexnet_jax.train import diagnosis

    for module, name in ((main, "_draw_figures"), (diagnosis, "signal_report")):
        replace(module, name, lambda *_: [])


class Outcome(NamedTuple):
    code: int
    """Exit code; negative: the signal that ended the process."""
    out: str
    err: str
    seconds: float


class Starter:
    """Use it as a context; `run` and `start` take the arguments of the training command.

    bare: Whether runs are those of `make_bare`.
    """

    def __init__(self, *, bare: bool = False) -> None:
        self._bare = bare

    def __enter__(self) -> "Starter":
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.starter"], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
        )  # fmt: skip
        return self

    def __exit__(self, *_) -> None:
        with self._server:
            assert self._server.stdin is not None
            self._server.stdin.close()

    def run(self, workdir: Path, *arguments: str, timeout: float = 120, **options) -> Outcome:
        """A start from its beginning to its end. Options: those of `start`."""
        return self.start(workdir, *arguments, **options).wait(timeout)

    def start(
        self,
        workdir: Path,
        *arguments: str,
        config="tests/tiny.py",
        fault="",
        sabotage="",
        devices=1,
        **environment: str,
    ) -> "Start":
        """Start without waiting. fault: a plan of faults.py; sabotage: a function of sabotage.py to call first."""
        environment = {"ALEXNET_FAULT": fault, "JAX_NUM_CPU_DEVICES": str(devices)} | environment
        scratch = workdir.with_name(f"start-{time.monotonic_ns()}")
        order = {
            "arguments": ["--config", config, "--workdir", str(workdir), *arguments],
            "environment": environment, "sabotage": sabotage, "scratch": str(scratch), "bare": self._bare,
        }  # fmt: skip
        server = self._server
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        return Start(int(server.stdout.readline()), scratch)


class Start:
    """A process that was started."""

    def __init__(self, pid: int, scratch: Path) -> None:
        self.pid, self._scratch, self._begin = pid, scratch, time.monotonic()

    @property
    def out(self) -> str:
        """What it said so far on standard output."""
        path = self._scratch.with_suffix(".out")
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def wait_for(self, text: str, timeout: float = 60) -> None:
        """Until `text` was said on standard output. Raises TimeoutError."""
        end = time.monotonic() + timeout
        while text not in self.out:
            if time.monotonic() > end or self._scratch.with_suffix(".code").exists():
                raise TimeoutError(f"{text!r} was not said: {self.out}")
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, timeout: float = 120) -> Outcome:
        """Its end. A process that does not end is killed, and TimeoutError raised."""
        end = time.monotonic() + timeout
        code = self._scratch.with_suffix(".code")
        while not code.exists():
            if time.monotonic() > end:
                self.signal(signal.SIGKILL)
                raise TimeoutError(f"{self.out}\n{self._scratch.with_suffix('.err').read_text()}")
            time.sleep(0.01)
        seconds = time.monotonic() - self._begin
        files = [self._scratch.with_suffix(suffix) for suffix in (".out", ".err", ".code")]
        out, err, status = (file.read_text(encoding="utf-8") for file in files)
        for file in files:
            file.unlink()
        return Outcome(int(status), out, err, seconds)


def _serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    # Nothing of the imports is garbage, and no start needs to look through it (as in tests/conftest.py).
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        order = json.loads(line)
        # A process between this one and the start waits for its end, so that several can go on at once.
        receive, send = os.pipe()
        if os.fork() == 0:
            os.close(receive)
            _supervise(order, send)
        os.close(send)
        with os.fdopen(receive) as pipe:
            print(pipe.read(), file=answers, flush=True)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _supervise(order: dict, send: int) -> None:
    pid = os.fork()
    if pid == 0:
        os.close(send)
        _become(order)
    os.write(send, str(pid).encode())
    os.close(send)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    scratch = Path(order["scratch"])
    scratch.with_suffix(".tmp").write_text(str(code))
    scratch.with_suffix(".tmp").rename(scratch.with_suffix(".code"))
    os._exit(0)


def _become(order: dict) -> None:
    from alexnet_jax import cli
    from tests.reliability import faults, sabotage

    scratch = Path(order["scratch"])
    os.setsid()
    for descriptor, suffix in ((1, ".out"), (2, ".err")):
        file = os.open(scratch.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    os.environ.update(order["environment"])
    sys.argv = ["alexnet_jax.main", *order["arguments"]]
    code = 1
    try:
        import jax

        if order["bare"]:
            make_bare(setattr)
        jax.config.update("jax_num_cpu_devices", int(os.environ["JAX_NUM_CPU_DEVICES"]))
        if order["sabotage"]:
            getattr(sabotage, order["sabotage"])()
        cli.run(faults.main)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
        if code in (0, 75) and jax.distributed.is_initialized():
            jax.distributed.shutdown()  # as JAX does at an exit: waits for the other processes
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
