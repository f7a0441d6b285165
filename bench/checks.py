"""Measure the cost of reliability: a training step with and without its checks, and each stage of a checkpoint.

    alexnet bench checks --batch 32 --json checks.json

The checks are the update mask for non-finite gradients, reading the metrics of each step, the hash of the batches, the
watchdog and the signal flag. Rounds with and without checks alternate in one process, and each round reverses their
order. The stages of a checkpoint are writing with orbax, SHA-256 of all files, commit, verification and restoring.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax import cli
from alexnet_jax.cli import markdown
from alexnet_jax.data.pipeline import batches
from alexnet_jax.inference import checkpoints
from alexnet_jax.model import alexnet
from alexnet_jax.model import mesh as parallel
from alexnet_jax.run.signals import Signals
from alexnet_jax.run.watchdog import Watchdog
from alexnet_jax.specs import Config
from alexnet_jax.train import checkpoint, schedule, state, step
from alexnet_jax.train.meter import Meter

from . import ours, output, workload
from .hardware import machine


def main(arguments: list[str]) -> int:
    """Run `alexnet bench checks`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", default="configs/paper.py", metavar="FILE[:VARIANT]")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--rounds", type=int, default=7, help="measurements with and without checks"
    )
    parser.add_argument("--steps", type=int, default=3, help="steps per measurement")
    parser.add_argument("--folder", help="folder of the checkpoints; default: a temporary one")
    output.add_json(parser)
    options, rest = parser.parse_known_args(arguments)
    spec = workload.load(options.config, options.batch, cli.config_overrides(rest))
    report = {"machine": machine(), "cores": len(os.sched_getaffinity(0)), "jax": jax.__version__,
              "config": spec.name, "batch": options.batch}  # fmt: skip
    report["step"] = measure_step(spec, options.rounds, options.steps)
    report["checkpoint"] = measure_checkpoint(spec, options.rounds, options.folder)
    print(table(report))
    output.write_json(options.json, report)
    return 0


def measure_step(spec: Config, rounds: int, steps: int) -> dict[str, list[float]]:
    """Measure the seconds per step with and without checks, one value per round."""
    mesh, model = parallel.device_mesh(), alexnet.from_config(spec)
    sharding = jax.NamedSharding(mesh, jax.P(parallel.DATA))
    batch = ours.examples(spec)
    on_device = jax.device_put(batch, sharding)
    current = state.create(spec, model, 0, mesh=mesh)
    rates = schedule.rates(spec, 0.0, current.schedule, 1.0)
    checked = step.make_train_step(spec, model, ours.statistics(spec), mesh)
    is_finite, step._is_finite = step._is_finite, lambda loss, norm: np.True_
    try:
        bare = step.make_train_step(spec, model, ours.statistics(spec), mesh)
        current, _ = bare(current, on_device, rates)  # compile while the check is patched out
    finally:
        step._is_finite = is_finite
    current, _ = checked(current, on_device, rates)
    meter, digest = Meter(), ""

    def with_checks() -> None:
        nonlocal current, digest
        for number in range(steps):
            watchdog.beat()
            current, metrics = checked(current, on_device, rates)
            digest = batches.update_batch_digest(digest, batch.labels, batch.indices, batch.epochs)
            meter.add(number, metrics)
            watchdog.beat(step=True)
            signals.poll()
        meter.flush()

    def without() -> None:
        nonlocal current
        for _ in range(steps):
            current, _ = bare(current, on_device, rates)
        jax.block_until_ready(current)

    seconds: dict[str, list[float]] = {"with": [], "without": []}
    programs = {"with": with_checks, "without": without}
    with Signals() as signals, Watchdog(3600.0, lambda _: None, lambda: None) as watchdog:
        for number in range(rounds):
            for name in list(programs)[:: 1 if number % 2 else -1]:
                begin = time.perf_counter()
                programs[name]()
                seconds[name].append((time.perf_counter() - begin) / steps)
    return seconds


def measure_checkpoint(spec: Config, rounds: int, folder: str | None) -> dict[str, Any]:
    """Measure the size of a checkpoint and the seconds of each stage: write, hash, commit, verify, restore."""
    current = state.create(spec, alexnet.from_config(spec), 0, mesh=parallel.device_mesh())
    stages: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for number in range(rounds):
            target = Path(temporary) / str(number)
            host = jax.device_get(current)
            seconds = checkpoint.save(target, host, ours.statistics(spec), {"class_names": ["a"]})
            begin = time.perf_counter()
            checkpoints.verify(target, 0)
            verified = time.perf_counter()
            checkpoint.restore(target, 0, current)
            seconds |= {"verify": verified - begin, "restore": time.perf_counter() - verified}
            for stage, value in seconds.items():
                stages.setdefault(stage, []).append(value)
            for file in (file for file in target.rglob("*") if file.is_file()):
                file.unlink()
    return {"bytes": checkpoint.size(current), "seconds": stages}


def table(report: dict[str, Any]) -> str:
    """Format the medians, and the median ratio of a step with checks to a step without."""
    steps, saved = report["step"], report["checkpoint"]
    ratios = [a / b for a, b in zip(steps["with"], steps["without"], strict=True)]
    median = {name: statistics.median(values) for name, values in steps.items()}
    title = (
        f"{report['config']}, batch {report['batch']}, {report['cores']} cores of {report['machine']}, "
        f"jax {report['jax']}, {len(ratios)} rounds"
    )
    rows = [
        ("step with all checks", f"{median['with']:.4f}", f"{statistics.median(ratios) - 1:+.2%}"),
        ("step without checks", f"{median['without']:.4f}", ""),
    ]
    stages = {name: statistics.median(values) for name, values in saved["seconds"].items()}
    total = stages["write"] + stages["hash"] + stages["commit"]
    for stage, seconds in stages.items():
        share = f"{seconds / total:.0%} of a save" if stage in ("write", "hash", "commit") else ""
        name = f"checkpoint of {saved['bytes'] / 1e6:,.0f} MB: {stage}"
        rows.append((name, f"{seconds:.4f}", share))
    return "\n".join([title, "", *markdown.table(("", "seconds, median", ""), rows, right=(1,))])


if __name__ == "__main__":
    cli.run(main)
