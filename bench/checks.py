"""What the safety of a run costs: a training step with all its checks and without, and the parts of a checkpoint.

python -m bench.checks --batch 32 --json checks.json

With: the masked update, metrics read after each step, the hash of the batches, the watchdog, the signal flag.
Without: the same step with nothing of that. Both take turns in one process, in changing order. Checkpoints of the
paper's net: writing by orbax, SHA-256 of all files, commit; then verifying and restoring.
"""

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from alexnet_jax import cli
from alexnet_jax.data.pipeline import batches
from alexnet_jax.inference import checkpoints
from alexnet_jax.model import alexnet
from alexnet_jax.model import mesh as parallel
from alexnet_jax.run.signals import Signals
from alexnet_jax.run.watchdog import Watchdog
from alexnet_jax.train import checkpoint, schedule, state, step
from alexnet_jax.train.meter import Meter
from bench import ours
from bench.hardware import machine


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", default="configs/paper.py", metavar="FILE[:VARIANT]")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7, help="each measures with and without")
    parser.add_argument("--steps", type=int, default=3, help="steps in a measurement")
    parser.add_argument("--folder", help="where the checkpoints go; default: the temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options, rest = parser.parse_known_args(arguments)
    spec = ours.load(options.config, options.batch, cli.config_overrides(rest))
    report = {"machine": machine(), "cores": len(os.sched_getaffinity(0)), "jax": jax.__version__,
              "config": spec.name, "batch": options.batch}  # fmt: skip
    report["step"] = measure_step(spec, options.rounds, options.steps)
    report["checkpoint"] = measure_checkpoint(spec, options.rounds, options.folder)
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def measure_step(spec, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds a step of every round, with the checks of a run and without."""
    mesh, model = parallel.device_mesh(), alexnet.of_config(spec)
    replicated = jax.NamedSharding(mesh, jax.P(parallel.DATA))
    batch = ours.examples(spec)
    on_device = jax.device_put(batch, replicated)
    current = state.create(spec, model, 0, mesh=mesh)
    rates = schedule.rates(spec, 0.0, current.schedule, 1.0)
    checked = step.make_train_step(spec, model, ours.statistics(spec), mesh)
    is_finite, step._is_finite = step._is_finite, lambda loss, norm: np.True_
    try:
        bare = step.make_train_step(spec, model, ours.statistics(spec), mesh)
        current, _ = bare(current, on_device, rates)  # compiled while the check is out
    finally:
        step._is_finite = is_finite
    current, _ = checked(current, on_device, rates)
    meter, hashed = Meter(), ""

    def with_checks() -> None:
        nonlocal current, hashed
        for number in range(steps):
            watchdog.beat()
            current, metrics = checked(current, on_device, rates)
            hashed = batches.update_batch_digest(hashed, batch.labels, batch.indices, batch.epochs)
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


def measure_checkpoint(spec, rounds: int, folder: str | None) -> dict:
    """Bytes of a state, and seconds of every round by part: write, hash, commit, verify, restore."""
    current = state.create(spec, alexnet.of_config(spec), 0, mesh=parallel.device_mesh())
    parts: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for number in range(rounds):
            place = Path(temporary) / str(number)
            host = jax.device_get(current)
            seconds = checkpoint.save(place, host, ours.statistics(spec), {"class_names": ["a"]})
            begin = time.perf_counter()
            checkpoints.verify(place, 0)
            verified = time.perf_counter()
            checkpoint.restore(place, 0, current)
            seconds |= {"verify": verified - begin, "restore": time.perf_counter() - verified}
            for part, value in seconds.items():
                parts.setdefault(part, []).append(value)
            for file in (file for file in place.rglob("*") if file.is_file()):
                file.unlink()
    return {"bytes": checkpoint.size(current), "seconds": parts}


def table(report: dict) -> str:
    """The medians, and the median of the ratios of each round."""
    both, saved = report["step"], report["checkpoint"]
    ratios = [a / b for a, b in zip(both["with"], both["without"], strict=True)]
    median = {name: statistics.median(values) for name, values in both.items()}
    lines = [
        f"{report['config']}, batch {report['batch']}, {report['cores']} cores of {report['machine']}, "
        f"jax {report['jax']}, {len(ratios)} rounds",
        "",
        "| | seconds, median | |",
        "|---|--:|---|",
        f"| step with all checks | {median['with']:.4f} | {statistics.median(ratios) - 1:+.2%} |",
        f"| step without | {median['without']:.4f} | |",
    ]
    parts = {name: statistics.median(values) for name, values in saved["seconds"].items()}
    total = parts["write"] + parts["hash"] + parts["commit"]
    for part, seconds in parts.items():
        share = f"{seconds / total:.0%} of a save" if part in ("write", "hash", "commit") else ""
        title = f"checkpoint of {saved['bytes'] / 1e6:,.0f} MB: {part}"
        lines.append(f"| {title} | {seconds:.4f} | {share} |")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
