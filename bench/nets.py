"""Find out whether the host or the device limits the training of small networks.

    alexnet bench nets
    alexnet bench nets --config configs/quickstart.py --batch 128 --steps 200 --json nets.json

For each config the milliseconds per step: `alone`, waiting for each step before the next; `in a row`, waiting only for
the last, as in training; `issued`, what the host needs before it can issue the next; `kernels`, the time that the
device computes. If `issued` is close to `in a row`, the host is the limit: a larger batch or more runs on the device
cost no time, and train.steps_per_dispatch may help. The images are random and on the device.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax

from alexnet_jax import cli
from alexnet_jax.cli import markdown
from alexnet_jax.errors import ConfigError

from . import hardware, kernels, ours, output, roofline, workload

CONFIGS = ("configs/quickstart.py", "configs/cifar10.py:80sec")
#: Dispatches that the host can issue without waiting: JAX allows 32.
ISSUED = 16


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", nargs="+", default=list(CONFIGS), metavar="FILE[:VARIANT]")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--dispatch", type=int, nargs="+", default=[1, 8], metavar="STEPS",
                        help="values of train.steps_per_dispatch")  # fmt: skip
    parser.add_argument("--steps", type=int, default=100, help="steps per measurement")
    parser.add_argument(
        "--repeats", type=int, default=5, help="measurements; the median is reported"
    )
    output.add_json(parser)
    options, rest = parser.parse_known_args(arguments)
    if min(options.batch, options.steps, options.repeats, *options.dispatch) < 1:
        raise ConfigError("--batch, --dispatch, --steps and --repeats must be at least 1")
    overrides = cli.config_overrides(rest)
    report: dict[str, Any] = hardware.hardware() | {"nets": [], "device": hardware.device_name()}
    for name, per_dispatch in itertools.product(options.config, options.dispatch):
        dispatch = f"--config.train.steps_per_dispatch={per_dispatch}"
        spec = workload.load(name, options.batch, [*overrides, dispatch])
        with hardware.device_lock(jax.default_backend()):
            run, facts = ours.program(spec)
            measured = measure(run, options.steps, options.repeats, per_dispatch)
        settings = {"config": spec.name, "batch": options.batch, "dtype": spec.model.compute_dtype,
                    "steps_per_dispatch": per_dispatch}  # fmt: skip
        report["nets"].append(settings | facts | measured)
        output.write_json(options.json, report)
    print(table(report))
    return 0


def measure(
    run: Callable[[int], float], steps: int, repeats: int, per_dispatch: int
) -> dict[str, float]:
    """Measure the seconds per step of `run(steps)`: alone, in a row, issued, kernels."""
    steps, few = per_dispatch * max(1, steps // per_dispatch), ISSUED * per_dispatch
    run(3 * per_dispatch)
    alone = [roofline.timed(lambda: run(per_dispatch)) / per_dispatch for _ in range(repeats * 4)]
    in_a_row = [roofline.timed(lambda: run(steps)) / steps for _ in range(repeats)]
    issued = [_issued(run, few) for _ in range(repeats)]
    traced = sum(row.nanoseconds for row in kernels.traced(run, few)) / 1e9 / few
    medians = {"alone": alone, "in_a_row": in_a_row, "issued": issued}
    return {name: statistics.median(values) for name, values in medians.items()} | {
        "kernels": traced
    }


def _issued(run: Callable[[int], float], steps: int) -> float:
    """Seconds a step until `run` begins to wait."""
    begun, wait = time.perf_counter(), jax.block_until_ready
    waited: list[float] = []

    def noted(results: Any) -> Any:
        waited.append(time.perf_counter() - begun)
        return wait(results)

    with mock.patch.object(jax, "block_until_ready", noted):
        run(steps)
    return waited[0] / steps


def table(report: dict[str, Any]) -> str:
    """Format the milliseconds per step of each network."""
    title = f"{report['device']}, {report['cores']} cores of {report['machine']}; ms per step"
    header = (
        "net", "batch", "type", "steps per dispatch", "alone", "in a row", "issued", "kernels", "images a second",
    )  # fmt: skip
    rows = [
        (*(net[name] for name in ("config", "batch", "dtype", "steps_per_dispatch")),
         *(f"{net[name] * 1e3:.3f}" for name in ("alone", "in_a_row", "issued", "kernels")),
         f"{net['batch'] / net['in_a_row']:,.0f}")
        for net in report["nets"]
    ]  # fmt: skip
    return "\n".join([title, "", *markdown.table(header, rows, right=(1, *range(3, 9)))])


if __name__ == "__main__":
    cli.run(main)
