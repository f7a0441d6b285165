"""Measure how fast images get from host memory to the device and back.

    alexnet bench transfer
    alexnet bench transfer --batch 2048 --json transfer.json

Batches of uint8 images of 256x256 pixels, as training sends them: one at a time, several at the same time, and from
pinned memory, which the device reads directly. GB are 1e9 bytes; an image has 196,608 bytes.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from alexnet_jax import cli
from alexnet_jax.cli import markdown
from alexnet_jax.errors import ConfigError

from . import hardware, output, roofline

IMAGE = (256, 256, 3)
#: Batches sent at the same time.
IN_FLIGHT = 4


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument(
        "--repeats", type=int, default=9, help="measurements; the median is reported"
    )
    output.add_json(parser)
    options = parser.parse_args(arguments)
    if min(options.batch, options.repeats) < 1:
        raise ConfigError("--batch and --repeats must be at least 1")
    report = hardware.hardware() | {
        "batch": options.batch, "version": f"jax {jax.__version__}", "device": hardware.device_name(),
    }  # fmt: skip
    with hardware.device_lock(jax.default_backend()):
        report["ways"] = measure(options.batch, options.repeats)
    print(table(report))
    output.write_json(options.json, report)
    return 0


def measure(batch: int, repeats: int) -> list[dict[str, Any]]:
    """Measure each way to transfer: `name` and `bytes_per_second`, or `error` if the device does not support it."""
    draw, device = np.random.default_rng(0), jax.local_devices()[0]
    batches = [draw.integers(0, 256, (batch, *IMAGE), np.uint8) for _ in range(IN_FLIGHT)]
    on_device = jax.device_put(batches[0], device)

    def pinned() -> Callable[[], Any]:
        sharding = jax.sharding.SingleDeviceSharding(device, memory_kind="pinned_host")
        held = jax.block_until_ready(jax.device_put(batches[0], sharding))
        return lambda: jax.device_put(held, on_device.sharding)

    # on_device + 0 is a new array each time: JAX caches the host copy of an array.
    ways: dict[str, tuple[int, Callable[[], Callable[[], Any]]]] = {
        "to the device, one at a time": (1, lambda: lambda: jax.device_put(batches[0], device)),
        f"to the device, {IN_FLIGHT} in flight": (
            IN_FLIGHT,
            lambda: lambda: [jax.device_put(images, device) for images in batches],
        ),
        "to the device, from pinned memory": (1, pinned),
        "to the host": (1, lambda: lambda: np.asarray(on_device + np.uint8(0))),
    }
    return [
        _way(name, count * on_device.nbytes, make, repeats) for name, (count, make) in ways.items()
    ]


def _way(
    name: str, size: int, make: Callable[[], Callable[[], Any]], repeats: int
) -> dict[str, Any]:
    try:
        call = make()
        roofline.timed(call)
        seconds = statistics.median(roofline.timed(call) for _ in range(repeats))
    except Exception as error:  # runtimes report unsupported memory kinds in different ways
        return {"name": name, "error": f"{type(error).__name__}: {error}".partition("\n")[0][:200]}
    return {"name": name, "bytes_per_second": size / seconds}


def table(report: dict[str, Any]) -> str:
    """Format the speed of each way to transfer."""
    image = np.prod(IMAGE)
    title = f"{report['device']}; batches of {report['batch']} images, {report['batch'] * image / 1e6:,.0f} MB"
    rows = []
    for way in report["ways"]:
        speed = way.get("bytes_per_second")
        numbers = (f"{speed / 1e9:.1f}", f"{speed / image:,.0f}") if speed else (way["error"], "")
        rows.append((way["name"], *numbers))
    return "\n".join([title, "", *markdown.table(("way", "GB/s", "images a second"), rows, (1, 2))])


if __name__ == "__main__":
    cli.run(main)
