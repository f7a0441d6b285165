"""Programs that take turns: each a process of its own, kept alive; one measures at a time, in changing order.

At most three live at once, the one that all are compared with among them: more may not fit into memory. It is
measured anew with each pair of the others, and a ratio is always of two measurements of one round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.errors import AlexNetError, ConfigError
from bench import hardware

ROOT = Path(__file__).resolve().parents[1]
BESIDE = 2
"""Programs that live at the same time as the first."""


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
    parser.add_argument("--batch", type=int, nargs="+", default=[32], help="one after the other")
    parser.add_argument("--rounds", type=int, default=5, help="each measures every program once")
    parser.add_argument("--steps", type=int, default=3, help="steps in a measurement")
    parser.add_argument("--threads", type=int, default=available, help="processor cores to use")
    parser.add_argument("--json", type=Path, metavar="FILE")


def check(options: argparse.Namespace) -> None:
    """Keep to the cores of --threads, and so does what is started. Raises ConfigError."""
    for name in ("rounds", "steps", "threads"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} must be at least 1")
    if min(options.batch) < 1:
        raise ConfigError("--batch must be at least 1")
    cores = sorted(os.sched_getaffinity(0))
    if options.threads > len(cores):
        raise ConfigError(f"--threads {options.threads}: only {len(cores)} cores are available")
    os.sched_setaffinity(0, cores[: options.threads])


def report(options: argparse.Namespace, programs_at: Callable[[int], dict[str, Program]]) -> dict:
    """Measurements at every batch, printed as they come, and what they ran on; written to --json."""
    found: dict[str, Any] = hardware.hardware() | {"command": sys.argv, "steps": options.steps}
    found |= {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "measurements": []}
    for batch in options.batch:
        programs = programs_at(batch)
        measured = compare(programs, options.rounds, options.steps)
        found["measurements"].append({"batch": batch, "programs": measured})
        print(table(found, found["measurements"][-1]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    return found


def compare(programs: dict[str, Program], rounds: int, steps: int) -> dict[str, dict]:
    """Of each program its facts, seconds a step of every round, their ratios to the first program's, peak memory."""
    first, *others = programs
    found: dict[str, dict] = {}
    for begin in range(0, max(1, len(others)), BESIDE):
        names = [first, *others[begin : begin + BESIDE]]
        together = _measure_together({name: programs[name] for name in names}, rounds, steps)
        base = together[first]["seconds"]
        for name, result in together.items():
            pairs = zip(result["seconds"], base, strict=True)
            result["ratios"] = [theirs / mine for theirs, mine in pairs]
            if name in found:  # the first again
                for key in ("seconds", "ratios"):
                    result[key] = found[name][key] + result[key]
                result["peak_bytes"] = max(found[name]["peak_bytes"], result["peak_bytes"])
            found[name] = result
    return found


def table(report: dict, measurement: dict) -> str:
    """A line a program: median and spread of its rounds, median of its ratios to the first, peak memory."""
    first = next(iter(measurement["programs"].values()))
    memory = (report["memory_bytes"] or 0) / 1e9
    lines = [
        f"Batch {measurement['batch']}; {report['cores']} cores of {report['machine']}, {memory:.0f} GB; a round is "
        f"{report['steps']} steps of each; ratios are medians of the rounds' ratios to {first['label']}",
        "",
        "| program | version | seconds a step | least to most | images a second | ratio | peak memory, GB |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for program in measurement["programs"].values():
        seconds = program["seconds"]
        median = statistics.median(seconds)
        ratio = "" if program is first else f"{statistics.median(program['ratios']):.2f}"
        lines.append(
            f"| {program['label']} | {program['version']} | {median:.3f} | {min(seconds):.3f} to {max(seconds):.3f} "
            f"| {measurement['batch'] / median:.1f} | {ratio} | {program['peak_bytes'] / 1e9:.1f} |"
        )
    return "\n".join(lines) + "\n"


def serve(build: Callable[[], tuple[Callable[[int], float], dict]]) -> None:
    """Answer `compare` from a worker: `build` gives (run(steps) -> the last loss, facts to report)."""
    # What the libraries print goes to standard error; the answers alone to standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run, facts = build()
    begun = time.perf_counter()
    facts["first_loss"] = run(1)
    facts["first_step_seconds"] = time.perf_counter() - begun
    run(2)
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        steps = int(line)
        begun = time.perf_counter()
        run(steps)
        seconds = (time.perf_counter() - begun) / steps
        answer = {"seconds": seconds, "peak_bytes": _peak_bytes()}
        print(json.dumps(answer), file=answers, flush=True)


def _measure_together(programs: dict[str, Program], rounds: int, steps: int) -> dict[str, dict]:
    names = list(programs)
    workers: dict[str, subprocess.Popen] = {}
    found: dict[str, dict] = {}
    try:
        for name, program in programs.items():
            workers[name] = _start(program)
            facts = _answer(program, workers[name])
            found[name] = {"label": program.label, **facts, "seconds": [], "peak_bytes": 0}
            print(f"{program.label}: ready", file=sys.stderr)
        for number in range(rounds):
            # Another one begins each round, so that nobody always follows the same one.
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                answer = _measure(programs[name], workers[name], steps)
                found[name]["seconds"].append(answer["seconds"])
                found[name]["peak_bytes"] = answer["peak_bytes"]
    finally:
        for worker in workers.values():
            worker.kill()
            with worker:  # closes its pipes and waits
                pass
    return found


def _start(program: Program) -> subprocess.Popen:
    settings = (ROOT / "launch/malloc.env").read_text().splitlines()
    memory = dict(line.split("=") for line in settings if line and not line.startswith("#"))
    environment = {name: value for name, value in os.environ.items() if name not in memory}
    # On a GPU every process would take three quarters of its memory at once.
    environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | program.environment
    return subprocess.Popen(
        [sys.executable, "-m", program.module, *program.arguments],
        cwd=ROOT,
        env=environment | memory if program.kept_memory else environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _measure(program: Program, worker: subprocess.Popen, steps: int) -> dict:
    assert worker.stdin
    worker.stdin.write(f"{steps}\n")
    worker.stdin.flush()
    return _answer(program, worker)


def _answer(program: Program, worker: subprocess.Popen) -> dict:
    assert worker.stdout
    line = worker.stdout.readline()
    if not line:
        raise AlexNetError(f"{program.label} ended with code {worker.wait()}; its message is above")
    return json.loads(line)


def _peak_bytes() -> int:
    """Of the device where it counts its memory, else of this process."""
    jax = sys.modules.get("jax")
    counted = jax.local_devices()[0].memory_stats() if jax else None
    return counted["peak_bytes_in_use"] if counted else hardware.peak_bytes()
