"""Runs of the training command, each in processes of its own and several at a time."""

import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = os.environ.get("ALEXNET_TEST_DEVICE") == "cpu"


class Start(NamedTuple):
    arguments: tuple[str, ...]
    environment: dict[str, str]
    folder: str = ""
    """Of another run than the one that is looked at."""


class Outcome(NamedTuple):
    code: int
    """Exit code; negative: the signal that ended the process."""
    out: str
    err: str


TINY = ("--config", "tests/tiny.py")
DETERMINISTIC = (*TINY, "--config.train.deterministic=True")
#: Every program is compiled at each start.
ANEW = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
#: A compilation cache, in which programs also leave the algorithms that were timed for them.
SHARED = {"JAX_COMPILATION_CACHE_DIR": "{folder}/cache"}
KILLED = {"ALEXNET_FAULT": "train.step:33:kill"}
if STAND_IN:  # a CPU has no limit that a batch could exceed
    FULL = {"ALEXNET_FAULT": "train.step:1:raise=MEMORY"}
    LARGE = "--config.train.batch_size=32"
else:
    FULL = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.004"}
    LARGE = f"--config.train.batch_size={2**18}"

#: By name of a run: its starts, one after the other. What takes longest comes first.
STARTS = {
    "killed": [Start(DETERMINISTIC, ANEW | KILLED), Start(DETERMINISTIC, ANEW)],
    "shared": [
        Start((*TINY, "--config.train.max_steps=1"), SHARED, "timed"),
        Start(DETERMINISTIC, SHARED),
    ],
    "quickstart": [Start(("--config", "configs/quickstart.py"), {})],
    "undisturbed": [Start(DETERMINISTIC, ANEW)],
    "host": [Start((*DETERMINISTIC, "--config.data.placement=host"), ANEW)],
    "device": [Start((*DETERMINISTIC, "--config.data.placement=device"), ANEW)],
    "full": [Start((*TINY, LARGE), FULL)],
}


class Runs:
    """Starts all of STARTS when it is entered as a context; `folder` and `outcomes` wait for one.

    Where a CPU stands in, a run is started when it is asked for: they would be in each other's way.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen] = []
        self._ended: dict[str, Future[list[Outcome]]] = {}

    def __enter__(self) -> "Runs":
        self._pool = ThreadPoolExecutor(len(STARTS))
        for name in () if STAND_IN else STARTS:
            self._ended[name] = self._pool.submit(self._run, name)
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        self._pool.shutdown()

    def outcomes(self, name: str) -> list[Outcome]:
        if name not in self._ended:
            self._ended[name] = self._pool.submit(self._run, name)
        return self._ended[name].result()

    def folder(self, name: str) -> Path:
        """The run folder of a run whose last start ended well."""
        last = self.outcomes(name)[-1]
        assert last.code == 0, last.err
        return self._folder / name

    def _run(self, name: str) -> list[Outcome]:
        return [self._start(start, start.folder or name) for start in STARTS[name]]

    def _start(self, start: Start, name: str) -> Outcome:
        own = {key: value.format(folder=self._folder) for key, value in start.environment.items()}
        folder = str(self._folder / name)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.faults", "--workdir", folder, *start.arguments],
            cwd=ROOT, env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"} | own, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._processes.append(process)
        out, err = process.communicate(timeout=300)
        return Outcome(process.returncode, out, err)
