"""What several devices would gain, from the seconds of one and the speed of their links: a model, not a measurement.

    python -m bench.scaling --measured layers.json
    python -m bench.scaling --step-seconds 0.0036 --at-batch 512 --update-seconds 0.0003
    python -m bench.scaling --check

Two ways to use n devices: the batch split over all (data parallel), or over pairs, each with a tower of the net
on a device of its own (§3.2). --check lowers the real step on 1, 2 and 4 virtual CPU devices and compares the bytes
of its collectives with those of the model; where they differ it ends with code 1.

Defaults of the links: NVLink of an H200, 900 GB/s in both directions together (NVIDIA's data sheet); one 400 Gb/s
InfiniBand port a device between nodes (PCIe 5.0 x16 would be 63 GB/s, 5.7 us); latencies of a step of a ring from
NCCL's own model (src/graph/tuning.cc, ring, Simple).
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax import cli, config
from alexnet_jax.errors import AlexNetError, ConfigError
from alexnet_jax.model import geometry
from alexnet_jax.specs import Config

DEVICES = (1, 2, 4, 8, 16, 32, 64)
ASSUMPTIONS = """\
- Seconds of one device: {fixed:.3g} a step + {per_image:.3g} an image ({source}). Devices are as fast together as
  alone, and a small share of a batch is as fast an image as a large one: the more devices, the more flattering.
- With towers, a device has half of each layer but the last, and so half of the seconds an image and the share of the
  update that its parameters have; cropping, which both do, counts as halved too.
- All-reduce in rings: each device sends 2 (n - 1) / n of 4 bytes a parameter, at {inside:g} GB/s each way in a node of
  {node} devices; where it leaves one, with a ring through each device's port, at {between:g} GB/s for each device there
  if that is less; each of 2 (n - 1) steps waits {inside_us:g} us, or {between_us:g} between nodes.
- Crossings of towers, {element} bytes a value, wait for their links and are never hidden; pairs lie in a node.
- "none": nothing is sent while computing, as this program does it now. "full": the whole all-reduce is hidden behind
  the computation, which is more than any program can, since the forward pass has no gradients to send.
- Reading images, and memory, do not limit."""


class Transfer(NamedTuple):
    """A collective of one step, as one device sees it."""

    kind: str
    bytes: int
    """Of its results on that device, as in hlo.Collective."""
    group: int
    """Devices that take part together."""

    @property
    def sent(self) -> float:
        n = self.group
        share = {"all-reduce": 2 * (n - 1) / n, "all-gather": (n - 1) / n, "reduce-scatter": n - 1}
        return self.bytes * share.get(self.kind, 1.0)


class Seconds(NamedTuple):
    """What one device takes for a step: the update, and each image."""

    fixed: float
    per_image: float


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    add = parser.add_argument
    add("--config", default="configs/paper.py", metavar="FILE[:VARIANT]")
    add(
        "--measured",
        type=Path,
        metavar="FILE",
        help="JSON of bench.layers, bench.step, bench.peers",
    )
    add("--step-seconds", type=float, help="of one device, at --at-batch")
    add("--at-batch", type=int, default=128)
    add(
        "--update-seconds",
        type=float,
        default=0.0,
        help="part of it that does not grow with the batch",
    )
    add(
        "--batch",
        type=int,
        nargs="+",
        default=[128, 512, 2048, 8192],
        help="of all devices together",
    )
    add("--node", type=int, default=8, help="devices in a node")
    add("--inside", type=float, default=450.0, help="GB/s each way, a device, in a node")
    add("--inside-us", type=float, default=3.4, help="microseconds of a step of a ring, in a node")
    add("--between", type=float, default=50.0, help="GB/s each way, a device, between nodes")
    add("--between-us", type=float, default=9.6, help="microseconds, between nodes")
    add(
        "--check",
        action="store_true",
        help="compare the model's bytes with those of the compiled step",
    )
    add("--json", type=Path, metavar="FILE")
    options, rest = parser.parse_known_args(arguments)
    loaded = config.load(options.config, cli.config_overrides(rest))
    spec = config.parse(loaded, needs_images=False)
    spec = config.with_classes(spec, spec.model.num_classes or 1000)
    if options.check:
        return check(spec)
    seconds, source = _seconds(options)
    rows = predict(spec, seconds, options)
    print(_assumptions(spec, seconds, source, options), table(rows), sep="\n\n")
    if options.json:
        numbers = {"seconds": seconds._asdict(), "source": source, "predictions": rows}
        links = {k: v for k, v in vars(options).items() if isinstance(v, int | float)}
        options.json.write_text(json.dumps(numbers | {"links": links}, indent=1) + "\n")
    return 0


def data_parallel(spec: Config, devices: int) -> list[Transfer]:
    """What a step sends with the batch over `devices`: every gradient, once; a few numbers of the metrics with them."""
    return _all_reduce(_parameters(spec), devices)


def two_towers(spec: Config, devices: int, images: float) -> list[Transfer]:
    """The same with a tower on each device of a pair, for the `images` that a pair sees: crossings, then gradients."""
    towers, size = spec.model.towers, _element(spec)
    found = []
    for crossing in _crossings(spec):
        if crossing.name.endswith("/lrn"):
            edges = crossing.forward // (towers - 1) * size * images
            found += [Transfer("collective-permute", round(edges), 2)] * 2  # there and back
            continue
        whole = crossing.forward // (towers - 1) * size * images
        found.append(Transfer("all-gather", round(whole), towers))
        if crossing.backward:
            found.append(Transfer("reduce-scatter", round(whole / towers), towers))
    return found + _all_reduce(_tower_parameters(spec), devices // towers)


def predict(spec: Config, seconds: Seconds, options: argparse.Namespace) -> list[dict[str, Any]]:
    """For every global batch and number of devices: seconds a step, images a second and efficiency of each way."""
    rows = []
    for batch in options.batch:
        alone = seconds.fixed + seconds.per_image * batch
        for devices in (n for n in DEVICES if n <= batch):
            ways = {"data": data_parallel(spec, devices)}
            if spec.model.towers == 2 and devices > 1:
                ways["towers"] = two_towers(spec, devices, 2 * batch / devices)
            for way, transfers in ways.items():
                share = _tower_parameters(spec) / _parameters(spec) if way == "towers" else 1.0
                compute = seconds.fixed * share + seconds.per_image * batch / devices
                reduce = sum(
                    _time(t, devices, options) for t in transfers if t.kind == "all-reduce"
                )
                cross = sum(_time(t, devices, options) for t in transfers if t.kind != "all-reduce")
                for overlap, step in (
                    ("none", compute + cross + reduce),
                    ("full", max(compute + cross, reduce)),
                ):
                    rows.append({
                        "batch": batch, "devices": devices, "way": way, "overlap": overlap, "seconds": step,
                        "images_per_second": batch / step, "efficiency": alone / (devices * step),
                        "compute": compute, "all_reduce": reduce, "crossings": cross,
                        "sent_bytes": sum(t.sent for t in transfers),
                    })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """A table for each global batch; a line for each number of devices and way."""
    lines = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        lines += [
            f"Global batch {batch}",
            "",
            "| devices | split | ms computing | all-reduce | crossings | MB sent | ms a step, overlap none | full "
            "| images/s, none | full | efficiency, none | full |",
            "|--:|---|" + "--:|" * 10,
        ]
        chosen = [row for row in rows if row["batch"] == batch]
        for none, full in zip(chosen[::2], chosen[1::2], strict=True):
            parts = [none[key] * 1e3 for key in ("compute", "all_reduce", "crossings")]
            steps = [row["seconds"] * 1e3 for row in (none, full)]
            way = {"data": "batch", "towers": "batch, towers"}[none["way"]]
            lines.append(
                f"| {none['devices']} | {way} | "
                + " | ".join(f"{value:.2f}" for value in parts)
                + f" | {none['sent_bytes'] / 1e6:.0f} | "
                + " | ".join(f"{value:.2f}" for value in steps)
                + " | "
                + " | ".join(f"{row['images_per_second']:,.0f}" for row in (none, full))
                + " | "
                + " | ".join(f"{row['efficiency']:.0%}" for row in (none, full))
                + " |"
            )
        lines.append("")
    return "\n".join(lines)


def check(spec: Config) -> int:
    """Whether the compiled step sends the bytes of the model. Raises AlexNetError where it does not."""
    # Before JAX is imported.
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    import jax

    from alexnet_jax.model import mesh as parallel
    from bench import ours

    wrong = []
    for devices, towers in ((1, 1), (2, 1), (4, 1), (2, 2), (4, 2)):
        if towers not in (1, spec.model.towers):
            continue
        mesh = parallel.device_mesh(jax.local_devices()[:devices], towers)
        text = ours.lower(spec, mesh).compile().as_text() or ""
        images = spec.train.batch_size * towers / devices
        split = two_towers(spec, devices, images) if towers > 1 else data_parallel(spec, devices)
        wrong += compared(f"{devices} device(s), {towers} tower(s) apart", text, split)
    if wrong:
        raise AlexNetError("the model is wrong about " + "; ".join(wrong))
    return 0


def compared(title: str, text: str, expected: list[Transfer]) -> list[str]:
    """Print bytes by kind and group, of the model and of the HLO `text` without its single numbers; what differs."""
    from bench import hlo

    model: dict[tuple[str, int], int] = {}
    for transfer in expected:
        key = (transfer.kind, transfer.group)
        model[key] = model.get(key, 0) + transfer.bytes
    compiled: dict[tuple[str, int], int] = {}
    for found in hlo.collectives(text):
        arrays = sum(hlo.size(shape) for shape in found.shapes if not shape.endswith("[]"))
        key = (found.kind, found.group_size)
        compiled[key] = compiled.get(key, 0) + arrays
    compiled = {key: total for key, total in compiled.items() if total}
    wrong = []
    print(f"{title}:" + ("" if model or compiled else " nothing is sent"))
    for key in sorted({*model, *compiled}):
        ours, theirs = model.get(key, 0), compiled.get(key, 0)
        name = f"{key[0]} among {key[1]}"
        print(f"  {name}: {ours:,} bytes in the model, {theirs:,} in the program")
        if ours != theirs:
            wrong.append(f"{name} on {title}")
    return wrong


def _all_reduce(parameters: int, devices: int) -> list[Transfer]:
    return [Transfer("all-reduce", 4 * parameters, devices)] if devices > 1 else []


def _layers(spec: Config) -> list[geometry.Layer]:
    return geometry.layers(spec.model, spec.augment.crop_size, spec.model.num_classes or 1000)


def _crossings(spec: Config) -> list[geometry.Crossing]:
    return geometry.crossings(spec.model, spec.augment.crop_size, spec.model.num_classes or 1000)


def _parameters(spec: Config) -> int:
    return sum(layer.parameters for layer in _layers(spec))


def _tower_parameters(spec: Config) -> int:
    """Those on each device: half of all, but the whole last layer, unless its towers do not meet."""
    layers = _layers(spec)
    whole = sum(x.parameters for x in layers if geometry.is_replicated(spec.model, x.name))
    return (_parameters(spec) - whole) // spec.model.towers + whole


def _element(spec: Config) -> int:
    """Bytes of an activation."""
    return {"float32": 4, "bfloat16": 2}[spec.model.compute_dtype]


def _time(transfer: Transfer, devices: int, options: argparse.Namespace) -> float:
    """Seconds of a transfer; towers are neighbors, so that only an all-reduce leaves a node."""
    steps = transfer.group - 1
    nodes, rate, far = -(-devices // options.node), options.inside, 0
    if transfer.kind == "all-reduce":
        steps *= 2
        if nodes > 1:
            rate, far = min(rate, options.between * transfer.group / nodes), 2 * (nodes - 1)
    wait = (steps - far) * options.inside_us + far * options.between_us
    return transfer.sent / (rate * 1e9) + wait * 1e-6


def _seconds(options: argparse.Namespace) -> tuple[Seconds, str]:
    """From the command line, or from a measurement; with several batches, the line of least squares."""
    if options.step_seconds is not None:
        points, fixed = {options.at_batch: options.step_seconds}, options.update_seconds
        source = f"{options.step_seconds:g} s at batch {options.at_batch}"
    elif options.measured:
        try:
            report = json.loads(options.measured.read_text())
            points, fixed = _points(report)
        except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
            raise ConfigError(
                f"--measured {options.measured}: no measurement of bench.layers, bench.step or bench.peers ({error})"
            ) from error
        source = f"measured on {report.get('device') or report['machine']}: {options.measured.name}"
    else:
        raise ConfigError("say how fast one device is: --measured FILE, or --step-seconds S")
    if len(points) > 1:
        slope, fixed = statistics.linear_regression(list(points), list(points.values()))
        fixed = max(fixed, 0.0)
        return Seconds(fixed, slope), source
    ((batch, step),) = points.items()
    if batch < 1 or not 0 <= fixed < step:
        raise ConfigError(
            "--at-batch and --step-seconds must be above 0, --update-seconds less than that"
        )
    return Seconds(fixed, (step - fixed) / batch), source


def _points(report: dict) -> tuple[dict[int, float], float]:
    """(batch -> seconds of a step, seconds that do not grow with the batch)."""
    if "layers" in report:
        update = sum(row["seconds"] for row in report["layers"] if row["layer"] == "update")
        return {report["batch"]: report["step_seconds"]}, update
    points = {}
    for measurement in report["measurements"]:
        first = next(iter(measurement["programs"].values()))
        points[measurement["batch"]] = statistics.median(first["seconds"])
    return points, 0.0


def _assumptions(spec: Config, seconds: Seconds, source: str, options: argparse.Namespace) -> str:
    text = ASSUMPTIONS.format(
        **seconds._asdict(), source=source, inside=options.inside, between=options.between, node=options.node,
        inside_us=options.inside_us, between_us=options.between_us, element=_element(spec),
    )  # fmt: skip
    return (
        f"{spec.name}, {_parameters(spec):,} parameters. A model, with these assumptions:\n{text}"
    )


if __name__ == "__main__":
    cli.run(main)
