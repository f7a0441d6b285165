"""How long a training step takes, next to PyTorch's, on this machine's CPU.

    python -m alexnet_jax.bench.step
    python -m alexnet_jax.bench.step --peers compile plain --torch-lrn written --json step.json

The whole step of the paper's network in float32: forward, backward and update, with groups, response
normalization within towers and dropout. Left out on both sides: decoding and cropping of images (ours
still converts uint8; torch's images come as padded floats). Each program is a process of its own, kept
alive, all with the memory settings of launch/malloc.env; one measures at a time, in changing order.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from importlib import util
from pathlib import Path

from alexnet_jax import cli
from alexnet_jax.errors import AlexNetError, ConfigError

ROOT = Path(__file__).resolve().parents[2]
PEERS = {
    "eager": "PyTorch eager, channels last",
    "compile": "torch.compile, channels last",
    "plain": "JAX written plainly",
}
NAMES = {"ours": "alexnet_jax"} | PEERS


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    available = len(os.sched_getaffinity(0))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5, help="each measures every program once")
    parser.add_argument("--steps", type=int, default=3, help="steps in a measurement")
    parser.add_argument("--peers", nargs="*", default=["eager", "compile"], choices=list(PEERS))
    parser.add_argument("--threads", type=int, default=available, help="processor cores to use")
    parser.add_argument("--torch-lrn", choices=("shipped", "written"), default="shipped")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    for name in ("batch", "rounds", "steps", "threads"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name} must be at least 1")
    if options.threads > available:
        raise ConfigError(f"--threads {options.threads}: only {available} cores are available")
    if {"eager", "compile"} & set(options.peers) and util.find_spec("torch") is None:
        raise ConfigError(
            'PyTorch is not installed: pip install -e ".[peers]", or compare with --peers plain'
        )
    report = measure(options)
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def measure(options) -> dict:
    """Seconds a step of every program and round, and what they ran on."""
    names = ["ours", *options.peers]
    workers: dict[str, subprocess.Popen] = {}
    try:
        facts, seconds = {}, {name: [] for name in names}
        for name in names:
            workers[name] = _start(name, options)
            facts[name] = _answer(name, workers[name])
            print(f"{NAMES[name]}: ready", file=sys.stderr)
        for number in range(options.rounds):
            # Another one begins each round, so that nobody always follows the same one.
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                seconds[name].append(_measure(name, workers[name], options.steps))
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return {
        "machine": machine(),
        "threads": options.threads,
        "batch": options.batch,
        "steps": options.steps,
        "torch_lrn": options.torch_lrn,
        "programs": {name: facts[name] | {"seconds": seconds[name]} for name in names},
    }


def table(report: dict) -> str:
    """A line a program: median and spread of its rounds, and the median of its ratios to ours."""
    ours = report["programs"]["ours"]["seconds"]
    lines = [
        f"One training step, batch {report['batch']}, float32, {report['threads']} cores of "
        f"{report['machine']}, {len(ours)} rounds of {report['steps']} steps",
        "",
        "| program | version | seconds a step | least to most | images a second | ours is faster by |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, program in report["programs"].items():
        seconds = program["seconds"]
        median = statistics.median(seconds)
        ratios = [theirs / mine for theirs, mine in zip(seconds, ours, strict=True)]
        ratio = "" if name == "ours" else f"{statistics.median(ratios):.2f}x"
        label = NAMES[name]
        if name in ("eager", "compile"):
            label += f", {report['torch_lrn']} LRN"
        lines.append(
            f"| {label} | {program['version']} | {median:.3f} | {min(seconds):.3f} to "
            f"{max(seconds):.3f} | {report['batch'] / median:.1f} | {ratio} |"
        )
    return "\n".join(lines)


def _start(name: str, options) -> subprocess.Popen:
    settings = [line for line in (ROOT / "launch/malloc.env").read_text().splitlines()]
    memory = dict(line.split("=") for line in settings if line and not line.startswith("#"))
    cores = sorted(os.sched_getaffinity(0))[: options.threads]
    arguments = [f"--batch={options.batch}", f"--threads={options.threads}"]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "alexnet_jax.bench.programs",
            name,
            *arguments,
            f"--torch-lrn={options.torch_lrn}",
        ],
        cwd=ROOT,
        env=os.environ | memory | {"JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def _measure(name: str, worker: subprocess.Popen, steps: int) -> float:
    assert worker.stdin
    worker.stdin.write(f"{steps}\n")
    worker.stdin.flush()
    return _answer(name, worker)


def _answer(name: str, worker: subprocess.Popen):
    assert worker.stdout
    line = worker.stdout.readline()
    if not line:
        raise AlexNetError(f"{NAMES[name]} ended with code {worker.wait()}; its message is above")
    return json.loads(line)


def machine() -> str:
    """The processor, as it names itself."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


if __name__ == "__main__":
    cli.run(main)
