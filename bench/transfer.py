"""How fast images get from the memory of the host to the device, and back.

    python -m bench.transfer
    python -m bench.transfer --batch 2048 --json transfer.json

uint8 images of 256x256 pixels, as batches that are sent with each step: one after the other, several under way at the
same time, and from pinned memory, which the device reads by itself. GB are 1e9 bytes; an image has 196,608 of them.
"""

import contextlib
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax import cli
from alexnet_jax.errors import ConfigError
from bench import hardware, roofline

IMAGE = (256, 256, 3)
UNDER_WAY = 4
"""Batches, where several are sent at the same time."""


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=9, help="measurements; the median counts")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if min(options.batch, options.repeats) < 1:
        raise ConfigError("--batch and --repeats must be at least 1")
    on_gpu = jax.default_backend() != "cpu"
    report = hardware.hardware() | {"batch": options.batch, "version": f"jax {jax.__version__}"}
    report["device"] = jax.devices()[0].device_kind if on_gpu else report["machine"]
    with hardware.device_lock() if on_gpu else contextlib.nullcontext():
        report["ways"] = measure(options.batch, options.repeats)
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def measure(batch: int, repeats: int) -> list[dict[str, Any]]:
    """Of each way its `name` and `bytes_per_second`, or the `error` where a device does not have it."""
    draw, device = np.random.default_rng(0), jax.local_devices()[0]
    batches = [draw.integers(0, 256, (batch, *IMAGE), np.uint8) for _ in range(UNDER_WAY)]
    there = jax.device_put(batches[0], device)

    def pinned() -> Callable[[], Any]:
        sharding = jax.sharding.SingleDeviceSharding(device, memory_kind="pinned_host")
        held = jax.block_until_ready(jax.device_put(batches[0], sharding))
        return lambda: jax.device_put(held, there.sharding)

    # Made anew each time: JAX keeps what it has once copied to the host.
    ways: dict[str, tuple[int, Callable[[], Callable[[], Any]]]] = {
        "to the device, one at a time": (1, lambda: lambda: jax.device_put(batches[0], device)),
        f"to the device, {UNDER_WAY} under way": (
            UNDER_WAY,
            lambda: lambda: [jax.device_put(images, device) for images in batches],
        ),
        "to the device, from pinned memory": (1, pinned),
        "to the host": (1, lambda: lambda: np.asarray(there + np.uint8(0))),
    }
    return [_way(name, count * there.nbytes, make, repeats) for name, (count, make) in ways.items()]


def _way(name: str, size: int, make: Callable, repeats: int) -> dict[str, Any]:
    try:
        call = make()
        roofline.timed(call)
        seconds = statistics.median(roofline.timed(call) for _ in range(repeats))
    except Exception as error:  # what a runtime does not have, it says in its own way
        return {"name": name, "error": f"{type(error).__name__}: {error}".partition("\n")[0][:200]}
    return {"name": name, "bytes_per_second": size / seconds}


def table(report: dict[str, Any]) -> str:
    """A line a way."""
    image = np.prod(IMAGE)
    lines = [
        f"{report['device']}; batches of {report['batch']} images, {report['batch'] * image / 1e6:,.0f} MB",
        "",
        "| way | GB/s | images a second |",
        "|---|--:|--:|",
    ]
    for way in report["ways"]:
        speed = way.get("bytes_per_second")
        figures = f"{speed / 1e9:.1f} | {speed / image:,.0f}" if speed else f"{way['error']} |"
        lines.append(f"| {way['name']} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
