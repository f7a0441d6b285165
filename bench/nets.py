"""Small nets on this machine: does a training step wait for the device, or the device for the host?

    python -m bench.nets
    python -m bench.nets --config configs/quickstart.py --batch 128 --steps 200 --json nets.json

For each config the milliseconds of a step: `alone`, each step awaited before the next; `in a row`, only the last one
awaited, as training does; `issued`, what the host needs until it could issue the next; `kernels`, the time that the
device computes. Where `issued` comes close to `in a row`, the host is the limit, and a larger batch or several runs at
a time on one device cost nothing, and so may train.steps_per_dispatch gain. Images are made up and on the device.
"""

import contextlib
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError
from bench import hardware, kernels, ours, roofline

CONFIGS = ("configs/quickstart.py", "configs/cifar10.py:80sec")
ISSUED = 16
"""Dispatches that the host issues without waiting: JAX lets 32 be under way."""


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", nargs="+", default=list(CONFIGS), metavar="FILE[:VARIANT]")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dispatch", type=int, nargs="+", default=[1, 8], metavar="STEPS",
                        help="train.steps_per_dispatch, one after the other")  # fmt: skip
    parser.add_argument("--steps", type=int, default=100, help="in a measurement")
    parser.add_argument("--repeats", type=int, default=5, help="measurements; the median counts")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options, rest = parser.parse_known_args(arguments)
    if min(options.batch, options.steps, options.repeats, *options.dispatch) < 1:
        raise ConfigError("--batch, --dispatch, --steps and --repeats must be at least 1")
    overrides, on_gpu = cli.config_overrides(rest), jax.default_backend() != "cpu"
    report: dict[str, Any] = hardware.hardware() | {"nets": []}
    report["device"] = jax.devices()[0].device_kind if on_gpu else report["machine"]
    for name, each in itertools.product(options.config, options.dispatch):
        at_once = f"--config.train.steps_per_dispatch={each}"
        spec = ours.load(name, options.batch, [*overrides, at_once])
        with hardware.device_lock() if on_gpu else contextlib.nullcontext():
            run, facts = ours.program(spec)
            measured = measure(run, options.steps, options.repeats, each)
        of_net = {"config": spec.name, "batch": options.batch, "dtype": spec.model.compute_dtype,
                  "steps_per_dispatch": each}  # fmt: skip
        report["nets"].append(of_net | facts | measured)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))
    return 0


def measure(run: Callable[[int], float], steps: int, repeats: int, each: int) -> dict[str, float]:
    """Seconds a step of `run(steps)`, by what is awaited, with `each` steps a dispatch."""
    steps, few = each * max(1, steps // each), ISSUED * each
    run(3 * each)
    alone = [roofline.timed(lambda: run(each)) / each for _ in range(repeats * 4)]
    in_a_row = [roofline.timed(lambda: run(steps)) / steps for _ in range(repeats)]
    issued = [_issued(run, few) for _ in range(repeats)]
    traced = sum(row.nanoseconds for row in kernels.traced(run, few)) / 1e9 / few
    medians = {"alone": alone, "in_a_row": in_a_row, "issued": issued}
    return {name: statistics.median(values) for name, values in medians.items()} | {
        "kernels": traced
    }


def _issued(run: Callable[[int], float], steps: int) -> float:
    """Seconds a step until `run` begins to wait."""
    begun, wait, waited = time.perf_counter(), jax.block_until_ready, []

    def noted(results):
        waited.append(time.perf_counter() - begun)
        return wait(results)

    with mock.patch.object(jax, "block_until_ready", noted):
        run(steps)
    return waited[0] / steps


def table(report: dict[str, Any]) -> str:
    """A line a net, in milliseconds a step."""
    lines = [
        f"{report['device']}, {report['cores']} cores of {report['machine']}; ms a step",
        "",
        "| net | batch | type | steps a dispatch | alone | in a row | issued | kernels | images a second |",
        "|---|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for net in report["nets"]:
        kind = (net[name] for name in ("config", "batch", "dtype", "steps_per_dispatch"))
        times = (net[name] * 1e3 for name in ("alone", "in_a_row", "issued", "kernels"))
        lines.append(
            f"| {' | '.join(map(str, kind))} | {' | '.join(f'{time:.3f}' for time in times)} "
            f"| {net['batch'] / net['in_a_row']:,.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
