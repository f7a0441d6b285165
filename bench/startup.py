"""Measure the seconds from the start of `alexnet train` to its first training step.

    alexnet bench startup
    alexnet bench startup --config quickstart paper --rounds 3 --json startup.json

Each round starts a run without compiled programs ("cold"), then another that finds those of the first ("warm"). The
columns count from the start of the process: `data`, until images, network and checkpoints are ready; `signal`, until
the signal in each layer is printed, which compiles forward and backward pass once; `step`, until the first line of
metrics. The images are random (data.source=synthetic) where a config reads files. Each run ends after its first step.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alexnet_jax import cli, config, specs
from alexnet_jax.cli import markdown
from alexnet_jax.config import find
from alexnet_jax.errors import AlexNetError, ConfigError

from . import hardware, output

CONFIGS = ("quickstart", "cifar10:80sec", "paper")
#: Column -> how the line of the log begins that ends it.
STAGES = {"data": r"[\d,]+ steps of ", "signal": "signal in each layer", "step": "step 1/"}


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", nargs="+", default=list(CONFIGS), metavar="FILE[:VARIANT]")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts; default: 3")
    output.add_json(parser)
    options, rest = parser.parse_known_args(arguments)
    if options.rounds < 1:
        raise ConfigError("--rounds must be at least 1")
    overrides = cli.config_overrides(rest)
    report: dict[str, Any] = hardware.hardware() | {"versions": hardware.versions(), "starts": []}
    for name in options.config:
        for kind, seconds in measure(name, overrides, options.rounds).items():
            report["starts"].append({"config": name, "cache": kind, "seconds": seconds})
        output.write_json(options.json, report)
    print(table(report))
    return 0


def measure(name: str, overrides: list[str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Start a run `rounds` times cold and warm: {"cold": {"data": seconds of each round, ...}, "warm": ...}."""
    spec = config.parse(config.load(name, overrides), needs_images=False)
    if spec.data.source not in specs.NO_FILES:
        overrides = ["--config.data.source=synthetic", *overrides]
    found: dict[str, dict[str, list[float]]] = {
        kind: {stage: [] for stage in STAGES} for kind in ("cold", "warm")
    }
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for number, seconds_of in enumerate(found.values()):
                times = start(name, overrides, Path(folder), f"run-{number}")
                for stage, seconds in times.items():
                    seconds_of[stage].append(seconds)
    return found


def start(name: str, overrides: list[str], folder: Path, workdir: str) -> dict[str, float]:
    """Start a run in folder/workdir, and stop it after its first step; the seconds to the end of each stage.

    Raises AlexNetError if it ends before.
    """
    command = [
        sys.executable, "-u", "-m", "alexnet_jax", "train", "--config", name, "--workdir", str(folder / workdir),
        "--config.train.log_every=1", *overrides,
    ]  # fmt: skip
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "PYTHONPATH": find.python_path(),
    }
    found: dict[str, float] = {}
    with tempfile.TemporaryFile("w+") as errors:
        begun = time.monotonic()
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            for line in process.stdout or ():
                found |= {
                    stage: time.monotonic() - begun
                    for stage, begins in STAGES.items()
                    if re.match(begins, line)
                }
                if "step" in found:
                    process.kill()
                    return found
        errors.seek(0)
        last = errors.read().strip().splitlines()[-1:]
    raise AlexNetError(f"alexnet train --config {name} ended before its first step: {last}")


def table(report: dict[str, Any]) -> str:
    """Format the median seconds to the end of each stage, and the range of the last."""
    title = f"{report['cores']} cores of {report['machine']}; seconds since the start, medians"
    rows = []
    for entry in report["starts"]:
        medians = [f"{statistics.median(entry['seconds'][stage]):.1f}" for stage in STAGES]
        steps = entry["seconds"]["step"]
        rows.append(
            (entry["config"], entry["cache"], *medians, f"{min(steps):.1f} to {max(steps):.1f}")
        )
    header = ("config", "cache", *STAGES, "range of step")
    return "\n".join([title, "", *markdown.table(header, rows, right=range(2, 6))])


if __name__ == "__main__":
    cli.run(main)
