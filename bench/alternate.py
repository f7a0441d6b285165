"""Compare programs in alternation: each is a process that stays alive; one measures at a time, in rotating order.

On a CPU at most three are alive at once, to fit into memory: the first, which all are compared with, and two others.
The first is measured again with each pair, so a ratio is always of two measurements of the same round.

On a GPU more are alive at once. They start in parallel, as compiling takes longest, but JAX programs take their first
step one after the other, since XLA chooses algorithms by timing them. Measurements begin when all are ready.
"""

import argparse
import contextlib
import importlib
import json
import math
import os
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from alexnet_jax.cli import markdown
from alexnet_jax.config import find
from alexnet_jax.errors import AlexNetError, ConfigError
from alexnet_jax.run import schemas

from . import hardware, output

memory_settings = importlib.import_module(find.module_name("launch.environment")).memory_settings

#: Programs alive at the same time as the first.
BESIDE = {"cpu": 2, "cuda": 12}
BATCHES = {"cpu": [32], "cuda": [128, 512]}
STEPS = {"cpu": 3, "cuda": 30}
#: Programs that are not ready after this share of the time of a comparison are left out.
READY_SHARE = 0.8
#: JAX_PLATFORMS of a worker on a GPU. JAX would fall back to the CPU, which `serve` refuses.
ON_GPU = "cuda,cpu"
#: Commands to a worker, besides numbers of steps.
BEGIN, TUNE = "begin\n", "tune\n"

#: run(steps) -> the last loss.
Run = Callable[[int], float]


class Program(NamedTuple):
    """A worker: a module of this package that calls `serve`."""

    label: str
    module: str
    arguments: list[str]
    environment: dict[str, str]
    #: Whether it has the settings of launch/malloc.env.
    kept_memory: bool = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a comparison, which `check` completes."""
    available = len(os.sched_getaffinity(0))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto",
                        help="auto: a GPU if JAX finds one")  # fmt: skip
    parser.add_argument("--batch", type=int, nargs="+",
                        help="batch sizes; default: 32, on a GPU 128 and 512")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each program")
    parser.add_argument("--steps", type=int, help="steps in a measurement; default: 3, on a GPU 30")
    parser.add_argument("--threads", type=int, default=available, help="processor cores to use")
    parser.add_argument("--beside", type=int, metavar="N",
                        help="programs alive at the same time as the first; default: 2, on a GPU 12")  # fmt: skip
    parser.add_argument("--limit", type=float, default=math.inf, metavar="SECONDS",
                        help="in total; programs that are not ready in time are left out")  # fmt: skip
    parser.add_argument("--keep-going", action="store_true",
                        help="report failed programs, and measure the others")  # fmt: skip
    output.add_json(parser)


def check(options: argparse.Namespace) -> None:
    """Set defaults for the device, and restrict this process and its children to --threads cores.

    Raises ConfigError.
    """
    if options.device == "auto":
        options.device = hardware.device()
    options.batch = options.batch or BATCHES[options.device]
    for name, default in (("steps", STEPS), ("beside", BESIDE)):
        if getattr(options, name) is None:
            setattr(options, name, default[options.device])
    for name in ("rounds", "steps", "threads", "beside", "limit"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} must be at least 1")
    if min(options.batch) < 1:
        raise ConfigError("--batch must be at least 1")
    cores = sorted(os.sched_getaffinity(0))
    if options.threads > len(cores):
        raise ConfigError(f"--threads {options.threads}: only {len(cores)} cores are available")
    os.sched_setaffinity(0, cores[: options.threads])


def report(
    options: argparse.Namespace, programs_at: Callable[[int], dict[str, Program]], **facts: Any
) -> dict[str, Any]:
    """Measure at every batch size, print each table, and write all with hardware and `facts` to --json."""
    found: dict[str, Any] = hardware.hardware() | {"command": sys.argv, "steps": options.steps}
    found |= {"device": options.device, "versions": hardware.versions(), **facts}
    found |= {"time": schemas.now(), "measurements": []}
    end = time.monotonic() + options.limit
    for number, batch in enumerate(options.batch):
        share = (end - time.monotonic()) / (len(options.batch) - number)
        measured = compare(
            programs_at(batch), options.rounds, options.steps, device=options.device,
            beside=options.beside, seconds=share, keep_going=options.keep_going,
        )  # fmt: skip
        found["measurements"].append({"batch": batch, "programs": measured})
        print(table(found, found["measurements"][-1]), flush=True)
        output.write_json(options.json, found)
    return found


def compare(
    programs: dict[str, Program],
    rounds: int,
    steps: int,
    *,
    device: str = "cpu",
    beside: int = BESIDE["cpu"],
    seconds: float = math.inf,
    keep_going: bool = False,
) -> dict[str, dict[str, Any]]:
    """Measure programs and compare them with the first.

    Args:
      seconds: For everything; rounds after that are left out, except the first of each program that is ready.
      keep_going: Whether to continue when a program fails.

    Returns:
      For each program its facts, `label`, `seconds` per step of every round, their `ratios` to the first program,
      and `peak_bytes`; or `label` and `failed`, the reason, if it failed or was not ready in time.
    """
    first, *others = programs
    groups = [others[i : i + beside] for i in range(0, len(others), beside)] or [[]]
    end, found = time.monotonic() + seconds, dict[str, dict]()
    for number, group in enumerate(groups):
        until = time.monotonic() + (end - time.monotonic()) / (len(groups) - number)
        chosen = {name: programs[name] for name in (first, *group)}
        together = _Comparison(chosen, device, until, keep_going).measure(rounds, steps)
        base = together[first].get("seconds", [])
        for name, result in together.items():
            if "failed" not in result:
                pairs = zip(result["seconds"], base, strict=False)
                result["ratios"] = [theirs / mine for theirs, mine in pairs]
            found[name] = _combined(found[name], result) if name in found else result
    return {name: found[name] for name in programs}


def _combined(earlier: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Combine the results of the first program from two groups; one that failed counts only if both did."""
    if "failed" in earlier:
        return result
    if "failed" in result:
        return earlier
    lists = {key: earlier[key] + result[key] for key in ("seconds", "ratios")}
    return result | lists | {"peak_bytes": max(earlier["peak_bytes"], result["peak_bytes"])}


def table(report: dict[str, Any], measurement: dict[str, Any]) -> str:
    """Format the median and range of each program, the median of its ratios to the first, and its peak memory.

    On a GPU times are in milliseconds, and memory is that of the device.
    """
    first = next(iter(measurement["programs"].values()))
    unit, factor, digits = ("ms", 1e3, 2) if report.get("device") == "cuda" else ("seconds", 1, 3)
    dtype = f", {report['dtype']}" if report.get("dtype") else ""
    title = (
        f"Batch {measurement['batch']}{dtype}; {_place(report)}; a round is {report['steps']} steps of each; "
        f"ratios are medians of the rounds' ratios to {first['label']}"
    )
    header = (
        "program",
        "version",
        f"{unit} a step",
        "min to max",
        "images a second",
        "ratio",
        "peak memory, GB",
    )
    rows = []
    for program in measurement["programs"].values():
        if "failed" in program:
            rows.append((program["label"], program["failed"], *[""] * 5))
            continue
        seconds, ratios = program["seconds"], program["ratios"]
        median, least, most = (f(seconds) * factor for f in (statistics.median, min, max))
        ratio = "" if program is first or not ratios else f"{statistics.median(ratios):.2f}"
        rows.append((
            program["label"], program["version"], f"{median:.{digits}f}",
            f"{least:.{digits}f} to {most:.{digits}f}", f"{measurement['batch'] / median * factor:,.1f}",
            ratio, f"{program['peak_bytes'] / 1e9:.1f}",
        ))  # fmt: skip
    return "\n".join([title, "", *markdown.table(header, rows, right=range(2, 7)), ""])


def _place(report: dict[str, Any]) -> str:
    if report.get("device") == "cuda" and report.get("gpus"):
        return f"one {report['gpus'][0]['name']}, driver {report['gpus'][0]['driver']}"
    memory = (report["memory_bytes"] or 0) / 1e9
    return f"{report['cores']} cores of {report['machine']}, {memory:.0f} GB"


def serve(build: Callable[[], tuple[Run, dict[str, Any]]], *, waits: bool = True) -> None:
    """Serve measurements to `compare`: the body of a worker.

    Args:
      build: Returns run(steps) -> the last loss, and facts to report. A function `tune` among the facts is called
        before all measurements, when no other program uses the device.
      waits: Whether to wait with the first step until told to: XLA chooses algorithms in it by timing them.
    """
    # Output of libraries goes to standard error; standard output has only the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(facts: dict[str, Any]) -> None:
        print(json.dumps(facts), file=replies, flush=True)

    run, facts = build()
    tune = facts.pop("tune", lambda: None)
    jax = sys.modules.get("jax")
    if jax and os.environ.get("JAX_PLATFORMS", "") == ON_GPU and jax.default_backend() == "cpu":
        raise AlexNetError("JAX finds no GPU")
    reply({})
    if waits:
        sys.stdin.readline()
    begun = time.perf_counter()
    facts["first_loss"] = run(1)
    facts["first_step_seconds"] = time.perf_counter() - begun
    run(2)
    reply(facts)
    if not waits:
        sys.stdin.readline()
    for line in sys.stdin:
        if line == TUNE:
            tune()
            run(3)
            reply({})
            continue
        steps = int(line)
        begun = time.perf_counter()
        run(steps)
        seconds = (time.perf_counter() - begun) / steps
        reply({"seconds": seconds, "peak_bytes": _peak_bytes()})


class _Comparison:
    """Programs that are alive at the same time."""

    def __init__(
        self, programs: dict[str, Program], device: str, until: float, keep_going: bool
    ) -> None:
        self.programs, self.device, self.keep_going = programs, device, keep_going
        #: No round begins after this, by time.monotonic().
        self.until = until
        self.workers: dict[str, _Worker] = {}
        self.found: dict[str, dict[str, Any]] = {}

    def measure(self, rounds: int, steps: int) -> dict[str, dict[str, Any]]:
        """Measure `rounds` times, as `compare` returns it, but without ratios."""
        on_gpu = self.device == "cuda"
        with hardware.device_lock(self.device):
            try:
                self._get_ready(side_by_side=on_gpu)
                for number in range(rounds):
                    if number and time.monotonic() > self.until:
                        break
                    names = list(self.workers)
                    # Rotate the order, so that no program always follows the same one.
                    shift = number % max(len(names), 1)
                    for name in names[shift:] + names[:shift]:
                        self._measure(name, steps)
            finally:
                for worker in self.workers.values():
                    worker.close()
        return self.found

    def _get_ready(self, side_by_side: bool) -> None:
        now = time.monotonic()
        until = now + (self.until - now) * READY_SHARE
        names = list(self.programs)
        for together in [names] if side_by_side else [[name] for name in names]:
            for name in together:
                self.workers[name] = _Worker(self.programs[name], self.device)
            # No program takes its first step while others still load.
            for name in together:
                self._ask(name, "", until, since=now)
            for name in [name for name in together if name in self.workers]:
                facts = self._ask(name, BEGIN, until, since=now)
                if facts is not None:
                    label = self.programs[name].label
                    self.found[name] = {"label": label, **facts, "seconds": [], "peak_bytes": 0}
                    print(f"{label}: ready", file=sys.stderr)
        for name in list(self.workers) if side_by_side else ():
            self._ask(name, TUNE, self._soon())

    def _measure(self, name: str, steps: int) -> None:
        reply = self._ask(name, f"{steps}\n", self._soon())
        if reply is not None:
            self.found[name]["seconds"].append(reply["seconds"])
            self.found[name]["peak_bytes"] = reply["peak_bytes"]

    def _ask(
        self, name: str, line: str, until: float, since: float | None = None
    ) -> dict[str, Any] | None:
        """The reply of a worker; None if it failed or was late, and then it is closed."""
        since = time.monotonic() if since is None else since
        try:
            return self.workers[name].ask(line, until)
        except _LateError:
            failed = f"not reached in {until - since:.0f} s"
        except AlexNetError as error:
            if not self.keep_going:
                raise
            failed = str(error)
        self.workers.pop(name).close()
        self.found[name] = {"label": self.programs[name].label, "failed": failed}
        print(f"{self.programs[name].label}: {failed}", file=sys.stderr)
        return None

    def _soon(self) -> float:
        """The limit of a measurement that has begun, which may end somewhat late."""
        return max(self.until, time.monotonic() + 60)


class _LateError(Exception):
    """There was no reply in time."""


class _Worker:
    """A running program."""

    def __init__(self, program: Program, device: str) -> None:
        self.label, self.buffer = program.label, b""
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - see close
        self.process = _start(program, device, self.errors)

    def ask(self, line: str, until: float) -> dict[str, Any]:
        """Send `line`, if it is not empty, and return the next reply.

        Raises:
          _LateError: There is none by `until` of time.monotonic().
          AlexNetError: The program has ended.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin and stdout
        with contextlib.suppress(BrokenPipeError):
            stdin.write(line.encode())
            stdin.flush()
        while b"\n" not in self.buffer:
            wait = None if until == math.inf else max(0.0, until - time.monotonic())
            if not select.select([stdout], [], [], wait)[0]:
                raise _LateError
            more = os.read(stdout.fileno(), 1 << 16)
            if not more:
                raise AlexNetError(self._ended())
            self.buffer += more
        reply, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(reply)

    def _ended(self) -> str:
        """Print the end of the output, and return exit code and error in one line."""
        code = self.process.wait()
        self.errors.seek(0)
        lines = [text for text in self.errors.read().splitlines() if text.strip()] or [""]
        print(*lines[-50:], sep="\n", file=sys.stderr)
        raised = [text for text in lines if re.match(r"[\w.]+(Error|Exception)\b", text)]
        last = " ".join((raised or lines)[-1].replace("|", "/").split())[:300]
        return f"{self.label} ended with code {code}: {last}"

    def close(self) -> None:
        self.process.kill()
        # The contexts close its pipes and wait for it.
        with contextlib.suppress(BrokenPipeError), self.process, self.errors:
            pass


def _start(program: Program, device: str, errors: IO[str]) -> subprocess.Popen[bytes]:
    # Without preallocation, so that several processes can share a GPU.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment["JAX_PLATFORMS"] = "cpu" if device == "cpu" else ON_GPU
    memory = memory_settings(environment["JAX_PLATFORMS"])
    for name in memory_settings("cpu"):  # all of launch/malloc.env
        environment.pop(name, None)
    environment |= (memory if program.kept_memory else {}) | program.environment
    environment["PYTHONPATH"] = find.python_path()
    return subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.{program.module}", *program.arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
    )


def _peak_bytes() -> int:
    """Peak memory of the device if it counts that, otherwise of this process."""
    jax, torch = sys.modules.get("jax"), sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    counted = jax.local_devices()[0].memory_stats() if jax else None
    return counted["peak_bytes_in_use"] if counted else hardware.peak_bytes()
