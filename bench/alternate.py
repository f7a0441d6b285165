"""Programs that take turns: each a process of its own, kept alive; one measures at a time, in changing order.

On a CPU at most three live at once, the one that all are compared with among them: more may not fit into memory. It
is measured anew with each pair of the others, and a ratio is always of two measurements of one round.

On a GPU more of them live at once. They start side by side, as compiling takes longest; but those of JAX take their
first step one after the other, since XLA chooses algorithms by timing them. Nobody measures before all are ready.
"""

import argparse
import contextlib
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
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.errors import AlexNetError, ConfigError
from bench import hardware
from launch.runs import memory_settings

ROOT = Path(__file__).resolve().parents[1]
BESIDE = {"cpu": 2, "cuda": 12}
"""Programs that live at the same time as the first."""
BATCHES = {"cpu": [32], "cuda": [128, 512]}
STEPS = {"cpu": 3, "cuda": 30}
TO_GET_READY = 0.8
"""Of the time that a comparison has."""
ON_GPU = "cuda,cpu"
"""JAX_PLATFORMS of a worker on a GPU. JAX would go on with the second where the first is missing."""
MEMORY = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_ARENA_MAX")
"""What launch/malloc.env sets."""
BEGIN, TUNE = "begin\n", "tune\n"
"""What a worker is told, besides numbers of steps."""


class Program(NamedTuple):
    """A worker: a module that calls `serve`."""

    label: str
    module: str
    arguments: list[str]
    environment: dict[str, str]
    kept_memory: bool = True
    """With the settings of launch/malloc.env."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a comparison; `check` them."""
    available = len(os.sched_getaffinity(0))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto",
                        help="auto: a GPU if JAX finds one")  # fmt: skip
    parser.add_argument("--batch", type=int, nargs="+",
                        help="one after the other; default: 32, on a GPU 128 and 512")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="each measures every program once")
    parser.add_argument("--steps", type=int, help="steps in a measurement; default: 3, on a GPU 30")
    parser.add_argument("--threads", type=int, default=available, help="processor cores to use")
    parser.add_argument("--beside", type=int, metavar="N",
                        help="programs alive at the same time as the first; default: 2, on a GPU 12")  # fmt: skip
    parser.add_argument("--limit", type=float, default=math.inf, metavar="SECONDS",
                        help="for everything; what is not ready in its share is left out")  # fmt: skip
    parser.add_argument("--keep-going", action="store_true",
                        help="report a program that fails, and measure the others")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE")


def check(options: argparse.Namespace) -> None:
    """Fill in what depends on the device, and keep to the cores of --threads, as what is started does.

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
    options: argparse.Namespace, programs_at: Callable[[int], dict[str, Program]], **facts
) -> dict:
    """Measurements at every batch, printed as they come, what they ran on, and `facts`; written to --json."""
    found: dict[str, Any] = hardware.hardware() | {"command": sys.argv, "steps": options.steps}
    found |= {"device": options.device, "versions": hardware.versions(), **facts}
    found |= {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "measurements": []}
    end = time.monotonic() + options.limit
    for number, batch in enumerate(options.batch):
        share = (end - time.monotonic()) / (len(options.batch) - number)
        measured = compare(
            programs_at(batch), options.rounds, options.steps, device=options.device,
            beside=options.beside, seconds=share, keep_going=options.keep_going,
        )  # fmt: skip
        found["measurements"].append({"batch": batch, "programs": measured})
        print(table(found, found["measurements"][-1]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
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
) -> dict[str, dict]:
    """Of each program its facts, seconds a step of every round, their ratios to the first program's, peak memory.

    Of one that was not ready in time, and with `keep_going` of one that failed, `label` and `failed`, the reason.
    In `seconds` in all: rounds that begin later are left out, but for one of each program that got ready.
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
            earlier = found.get(name, result)  # the first comes again
            if "failed" in result and "failed" not in earlier:
                continue
            if earlier is not result and "failed" not in earlier:
                for key in ("seconds", "ratios"):
                    result[key] = earlier[key] + result[key]
                result["peak_bytes"] = max(earlier["peak_bytes"], result["peak_bytes"])
            found[name] = result
    return {name: found[name] for name in programs}


def table(report: dict, measurement: dict) -> str:
    """A line a program: median and spread of its rounds, median of its ratios to the first, peak memory.

    On a GPU in milliseconds, and memory is that of the device.
    """
    first = next(iter(measurement["programs"].values()))
    unit, factor, digits = ("ms", 1e3, 2) if report.get("device") == "cuda" else ("seconds", 1, 3)
    lines = [
        f"Batch {measurement['batch']}{_comma(report.get('dtype'))}; {_place(report)}; a round is "
        f"{report['steps']} steps of each; ratios are medians of the rounds' ratios to {first['label']}",
        "",
        f"| program | version | {unit} a step | least to most | images a second | ratio | peak memory, GB |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for program in measurement["programs"].values():
        if "failed" in program:
            lines.append(f"| {program['label']} | {program['failed']} | | | | | |")
            continue
        seconds, ratios = program["seconds"], program["ratios"]
        median, least, most = (f(seconds) * factor for f in (statistics.median, min, max))
        ratio = "" if program is first or not ratios else f"{statistics.median(ratios):.2f}"
        lines.append(
            f"| {program['label']} | {program['version']} | {median:.{digits}f} "
            f"| {least:.{digits}f} to {most:.{digits}f} "
            f"| {measurement['batch'] / median * factor:,.1f} | {ratio} | {program['peak_bytes'] / 1e9:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _place(report: dict) -> str:
    if report.get("device") == "cuda" and report.get("gpus"):
        return f"one {report['gpus'][0]['name']}, driver {report['gpus'][0]['driver']}"
    memory = (report["memory_bytes"] or 0) / 1e9
    return f"{report['cores']} cores of {report['machine']}, {memory:.0f} GB"


def _comma(text: str | None) -> str:
    return f", {text}" if text else ""


def serve(build: Callable[[], tuple[Callable[[int], float], dict]], *, waits: bool = True) -> None:
    """Answer `compare` from a worker: `build` gives (run(steps) -> the last loss, facts to report).

    waits: take the first step when told to and not at once. XLA chooses algorithms in it, by timing them.
    A function `tune` among the facts is called before all measurements, when nobody else uses the device.
    """
    # What the libraries print goes to standard error; the answers alone to standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(facts: dict) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    run, facts = build()
    tune = facts.pop("tune", lambda: None)
    jax = sys.modules.get("jax")
    if jax and os.environ.get("JAX_PLATFORMS", "") == ON_GPU and jax.default_backend() == "cpu":
        raise AlexNetError("JAX finds no GPU")
    answer({})
    if waits:
        sys.stdin.readline()
    begun = time.perf_counter()
    facts["first_loss"] = run(1)
    facts["first_step_seconds"] = time.perf_counter() - begun
    run(2)
    answer(facts)
    if not waits:
        sys.stdin.readline()
    for line in sys.stdin:
        if line == TUNE:
            tune()
            run(3)
            answer({})
            continue
        steps = int(line)
        begun = time.perf_counter()
        run(steps)
        seconds = (time.perf_counter() - begun) / steps
        answer({"seconds": seconds, "peak_bytes": _peak_bytes()})


class _Comparison:
    """Programs that are alive at the same time."""

    def __init__(
        self, programs: dict[str, Program], device: str, until: float, keep_going: bool
    ) -> None:
        self.programs, self.device, self.keep_going = programs, device, keep_going
        self.until = until
        """When rounds are no longer begun, by time.monotonic()."""
        self.workers: dict[str, _Worker] = {}
        self.found: dict[str, dict] = {}

    def measure(self, rounds: int, steps: int) -> dict[str, dict]:
        on_gpu = self.device == "cuda"
        with hardware.device_lock() if on_gpu else contextlib.nullcontext():
            try:
                self._get_ready(side_by_side=on_gpu)
                for number in range(rounds):
                    if number and time.monotonic() > self.until:
                        break
                    names = list(self.workers)
                    # Another one begins each round, so that nobody always follows the same one.
                    shift = number % max(len(names), 1)
                    for name in names[shift:] + names[:shift]:
                        self._measure(name, steps)
            finally:
                for worker in self.workers.values():
                    worker.close()
        return self.found

    def _get_ready(self, side_by_side: bool) -> None:
        now = time.monotonic()
        until = now + (self.until - now) * TO_GET_READY
        names = list(self.programs)
        for together in [names] if side_by_side else [[name] for name in names]:
            for name in together:
                self.workers[name] = _Worker(self.programs[name], self.device)
            # None takes its first step while others still load.
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
        answer = self._ask(name, f"{steps}\n", self._soon())
        if answer is not None:
            self.found[name]["seconds"].append(answer["seconds"])
            self.found[name]["peak_bytes"] = answer["peak_bytes"]

    def _ask(self, name: str, line: str, until: float, since: float | None = None) -> dict | None:
        """The answer of a worker; None, and it is gone, when there was none."""
        since = time.monotonic() if since is None else since
        try:
            return self.workers[name].ask(line, until)
        except _NotReachedError:
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
        """A measurement that has begun may end somewhat late."""
        return max(self.until, time.monotonic() + 60)


class _NotReachedError(Exception):
    """There was no answer in time."""


class _Worker:
    """A program that runs, and is asked for one thing at a time."""

    def __init__(self, program: Program, device: str) -> None:
        self.label, self.said = program.label, b""
        self.errors = tempfile.TemporaryFile("w+", errors="replace")
        self.process = _start(program, device, self.errors)

    def ask(self, line: str, until: float) -> dict:
        """Its answer to `line`, or what it says next if that is empty.

        Raises _NotReachedError at `until`, by time.monotonic(); AlexNetError if it has ended.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin and stdout
        with contextlib.suppress(BrokenPipeError):
            stdin.write(line.encode())
            stdin.flush()
        while b"\n" not in self.said:
            wait = None if until == math.inf else max(0.0, until - time.monotonic())
            if not select.select([stdout], [], [], wait)[0]:
                raise _NotReachedError
            more = os.read(stdout.fileno(), 1 << 16)
            if not more:
                raise AlexNetError(self._ended())
            self.said += more
        answer, _, self.said = self.said.partition(b"\n")
        return json.loads(answer)

    def _ended(self) -> str:
        code = self.process.wait()
        self.errors.seek(0)
        lines = [text for text in self.errors.read().splitlines() if text.strip()] or [""]
        print(*lines[-50:], sep="\n", file=sys.stderr)
        raised = [text for text in lines if re.match(r"[\w.]+(Error|Exception)\b", text)]
        last = " ".join((raised or lines)[-1].replace("|", "/").split())[:300]
        return f"{self.label} ended with code {code}: {last}"

    def close(self) -> None:
        self.process.kill()
        # Closes its pipes and waits.
        with contextlib.suppress(BrokenPipeError), self.process, self.errors:
            pass


def _start(program: Program, device: str, errors) -> subprocess.Popen:
    # On a GPU every process would take three quarters of its memory at once.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment["JAX_PLATFORMS"] = "cpu" if device == "cpu" else ON_GPU
    memory = memory_settings(environment["JAX_PLATFORMS"])
    for name in MEMORY:
        environment.pop(name, None)
    environment |= (memory if program.kept_memory else {}) | program.environment
    return subprocess.Popen(
        [sys.executable, "-m", program.module, *program.arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
    )


def _peak_bytes() -> int:
    """Of the device where it counts its memory, else of this process."""
    jax, torch = sys.modules.get("jax"), sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    counted = jax.local_devices()[0].memory_stats() if jax else None
    return counted["peak_bytes_in_use"] if counted else hardware.peak_bytes()
