"""Predict the training speed on several devices from that of one device and of the links between them.

    alexnet bench scaling --measured layers.json
    alexnet bench scaling --step-seconds 0.0036 --at-batch 512 --update-seconds 0.0003
    alexnet bench scaling --check

The result is a calculation, not a measurement. It covers three ways to split the work: the batch over all devices (data
parallel); the batch over pairs of devices and the two towers over the devices of a pair (§3.2); or the batch of the
convolutions and the units of the fully-connected layers over all devices (Krizhevsky, 2014). --check traces the train
step on 1, 2 and 4 virtual CPU devices and compares the bytes of its collectives with the calculated ones; the exit code
is 1 if they differ.

Default links: NVLink of an H200, 900 GB/s for both directions together (NVIDIA's data sheet); between nodes, one
400 Gb/s InfiniBand port per device (PCIe 5.0 x16 would be 63 GB/s, 5.7 us); latencies of a ring step from NCCL's own
model (src/graph/tuning.cc, ring, Simple).
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax import cli, config
from alexnet_jax.cli import markdown
from alexnet_jax.errors import AlexNetError, ConfigError
from alexnet_jax.model import geometry
from alexnet_jax.specs import Config

from . import output

DEVICES = (1, 2, 4, 8, 16, 32, 64)
#: JAX primitive of a collective -> its name in XLA.
COLLECTIVES = {
    "psum": "all-reduce", "psum_invariant": "all-reduce", "pmax": "all-reduce", "pmin": "all-reduce",
    "all_gather": "all-gather", "all_gather_invariant": "all-gather", "reduce_scatter": "reduce-scatter",
    "all_to_all": "all-to-all", "ppermute": "collective-permute",
}  # fmt: skip
#: Way to split the work -> what is split.
SPLITS = {"data": "batch", "towers": "batch, towers", "units": "batch, units"}
#: Primitives over named axes that do not communicate.
LOCAL = {"axis_index", "pvary", "pcast"}
ASSUMPTIONS = """\
- One device takes {fixed:.3g} s per step + {per_image:.3g} s per image ({source}). Devices do not slow each other down,
  and small batches are as fast per image as large ones: optimistic, and more so with more devices.
- With towers, a device computes half of each layer but the last, so it takes half of the time per image, and of the
  fixed time the fraction of the parameters that it has. Cropping is counted as halved too, though both devices crop.
- With units, a device computes its units for the whole batch: as much arithmetic as all units for its own images.
- Ring all-reduce: each device sends 2 (n - 1) / n of 4 bytes per parameter, at {inside:g} GB/s each way in a node of
  {node} devices; between nodes, with a ring through the port of each device, at {between:g} GB/s per device in a node,
  if that is slower. Each of 2 (n - 1) steps has a latency of {inside_us:g} us, or {between_us:g} us between nodes.
- Exchanges of activations, {element} bytes per value, are never overlapped; those of pairs of towers are within a node.
- Overlap "none": devices do not send while they compute, as in this program. "full": the whole all-reduce overlaps with
  computation; an upper bound, since the forward pass has no gradients to send.
- Neither reading images nor memory is a limit."""


class Transfer(NamedTuple):
    """A collective operation of a train step."""

    #: Name in XLA, such as "all-reduce".
    kind: str
    #: Size of its result on one device: the whole array of an all-gather, one part of a reduce-scatter.
    bytes: int
    #: Number of devices that participate.
    group: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends, with a ring algorithm."""
        n = self.group
        share = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1}
        share |= {"all-gather": (n - 1) / n, "all-to-all": (n - 1) / n}
        return self.bytes * share.get(self.kind, 1.0)


class Seconds(NamedTuple):
    """The time of a step on one device: `fixed` plus `per_image` for each image."""

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
        help="JSON of alexnet bench layers, step or peers",
    )
    add("--step-seconds", type=float, help="time of one device at --at-batch")
    add("--at-batch", type=int, default=128)
    add(
        "--update-seconds",
        type=float,
        default=0.0,
        help="the part of --step-seconds that does not depend on the batch size",
    )
    add(
        "--batch",
        type=int,
        nargs="+",
        default=[128, 512, 2048, 8192],
        help="global batch sizes",
    )
    add("--node", type=int, default=8, help="devices per node")
    add("--inside", type=float, default=450.0, help="GB/s each way per device within a node")
    add("--inside-us", type=float, default=3.4, help="latency of a ring step within a node")
    add("--between", type=float, default=50.0, help="GB/s each way per device between nodes")
    add("--between-us", type=float, default=9.6, help="latency between nodes")
    add(
        "--check",
        action="store_true",
        help="compare the calculated bytes with those of the traced step",
    )
    output.add_json(parser)
    options, rest = parser.parse_known_args(arguments)
    loaded = config.load(options.config, cli.config_overrides(rest))
    spec = config.parse(loaded, needs_images=False)
    spec = config.with_classes(spec, spec.model.num_classes or 1000)
    if options.check:
        return check(spec)
    seconds, source = _seconds(options)
    rows = predict(spec, seconds, options)
    print(_assumptions(spec, seconds, source, options), table(rows), sep="\n\n")
    links = {k: v for k, v in vars(options).items() if isinstance(v, int | float)}
    output.write_json(options.json, {
        "seconds": seconds._asdict(), "source": source, "predictions": rows, "links": links,
    })  # fmt: skip
    return 0


def data_parallel(spec: Config, devices: int) -> list[Transfer]:
    """List the collectives of a step with the batch split over `devices`: one all-reduce of all gradients."""
    return _all_reduce(_parameters(spec), devices)


def two_towers(spec: Config, devices: int, images: float) -> list[Transfer]:
    """List the collectives of a step with one tower on each device of a pair, and `images` images per pair."""
    towers, size = spec.model.towers, _element(spec)
    found = []
    for crossing in _crossings(spec):
        if crossing.name.endswith("/lrn"):
            edges = crossing.forward // (towers - 1) * size * images
            found += [Transfer("collective-permute", round(edges), 2)] * 2  # forward and backward
            continue
        whole = crossing.forward // (towers - 1) * size * images
        found.append(Transfer("all-gather", round(whole), towers))
        if crossing.backward:
            found.append(Transfer("reduce-scatter", round(whole / towers), towers))
    return found + _all_reduce(_tower_parameters(spec), devices // towers)


def split_units(spec: Config, devices: int) -> list[Transfer]:
    """List the collectives of a step with the units of fully-connected layers split over `devices`."""
    batch, size, found, was_split = spec.train.batch_size, _element(spec), [], False
    walked = geometry.walk(spec.model, spec.augment.crop_size, spec.model.num_classes or 1000)
    layer = ""
    for node, inputs, _ in walked:
        split = geometry.is_divided(spec.model, node.layer, devices)
        if node.layer != layer and (split or was_split):
            whole = batch * inputs.size**2 * inputs.channels * size
            if split:
                found.append(Transfer("all-gather", whole, devices))
                found.append(Transfer("reduce-scatter", whole // devices, devices))
            else:
                found += [Transfer("all-to-all", whole // devices, devices)] * 2
        if split and node.operation.name == "dropout" and spec.model.dropout.rate:
            # The random key of each example, 8 bytes, or one of each device.
            keys = batch if spec.train.exact else devices
            found.append(Transfer("all-gather", 8 * keys, devices))
        layer, was_split = node.layer, split
    if was_split:  # the logits are float32
        logits = batch * (spec.model.num_classes or 1000) * 4
        found += [Transfer("all-to-all", logits // devices, devices)] * 2
    return found + _all_reduce(_parameters(spec) - _divided_parameters(spec, devices), devices)


def predict(spec: Config, seconds: Seconds, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Predict step time, throughput and efficiency for each global batch, number of devices and way to split."""
    rows: list[dict[str, Any]] = []
    for batch in options.batch:
        alone = seconds.fixed + seconds.per_image * batch
        for devices in (n for n in DEVICES if n <= batch):
            ways = {"data": data_parallel(spec, devices)}
            if spec.model.towers == 2 and devices > 1:
                ways["towers"] = two_towers(spec, devices, 2 * batch / devices)
            if devices > 1 and batch % devices == 0 and _divides(spec, devices):
                train = dataclasses.replace(spec.train, batch_size=batch)
                ways["units"] = split_units(dataclasses.replace(spec, train=train), devices)
            for way, transfers in ways.items():
                share = _own_parameters(spec, way, devices) / _parameters(spec)
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
    """Format a table for each global batch."""
    header = (
        "devices", "split", "ms computing", "all-reduce", "crossings", "MB sent", "ms per step, overlap none", "full",
        "images/s, none", "full", "efficiency, none", "full",
    )  # fmt: skip
    lines = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        chosen = [row for row in rows if row["batch"] == batch]
        cells = []
        for none, full in zip(chosen[::2], chosen[1::2], strict=True):
            cells.append([
                none["devices"], SPLITS[none["way"]],
                *(f"{none[key] * 1e3:.2f}" for key in ("compute", "all_reduce", "crossings")),
                f"{none['sent_bytes'] / 1e6:.0f}",
                *(f"{row['seconds'] * 1e3:.2f}" for row in (none, full)),
                *(f"{row['images_per_second']:,.0f}" for row in (none, full)),
                *(f"{row['efficiency']:.0%}" for row in (none, full)),
            ])  # fmt: skip
        right = (0, *range(2, len(header)))
        lines += [f"Global batch {batch}", "", *markdown.table(header, cells, right), ""]
    return "\n".join(lines)


def check(spec: Config) -> int:
    """Compare the calculated bytes with those of the traced step. Raises AlexNetError if they differ."""
    # Must be set before JAX is imported.
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    import jax

    from alexnet_jax.model import mesh as parallel

    from . import ours

    wrong = []
    for devices, towers in ((1, 1), (2, 1), (4, 1), (2, 2), (4, 2)):
        if towers not in (1, spec.model.towers):
            continue
        mesh = parallel.device_mesh(jax.local_devices()[:devices], towers)
        jaxpr = ours.trace(spec, mesh).jaxpr.jaxpr
        images = spec.train.batch_size * towers / devices
        model = two_towers(spec, devices, images) if towers > 1 else data_parallel(spec, devices)
        title = f"{devices} device(s), {towers} tower(s) apart"
        wrong += compare(title, collectives(jaxpr, dict(mesh.shape)), model)
    split = dataclasses.replace(spec, train=dataclasses.replace(spec.train, split_dense=True))
    for devices in (2, 4):
        if not _divides(spec, devices):
            continue
        mesh = parallel.device_mesh(jax.local_devices()[:devices])
        found = collectives(ours.trace(split, mesh).jaxpr.jaxpr, dict(mesh.shape))
        wrong += compare(f"{devices} devices, units split", found, split_units(split, devices))
    if wrong:
        raise AlexNetError("the calculation and the traced step differ in " + "; ".join(wrong))
    return 0


def collectives(jaxpr: Any, axis_sizes: dict[str, int]) -> list[Transfer]:
    """List the collectives in a jaxpr, except those of scalars and those over a single device.

    Raises:
      AlexNetError: A collective is not in COLLECTIVES.
    """
    found = []
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        axes = parameters.get("axes", parameters.get("axis_name", ()))
        axes = (axes,) if isinstance(axes, str) else tuple(axes or ())
        named = [axis for axis in axes if axis in axis_sizes]
        if named and name not in LOCAL:
            if name not in COLLECTIVES:
                raise AlexNetError(f"unknown collective {name} over {', '.join(named)}")
            group = math.prod(axis_sizes[axis] for axis in named)
            arrays = [one.aval for one in equation.outvars if one.aval.ndim]
            size = sum(array.size * array.dtype.itemsize for array in arrays)
            if size and group > 1:
                found.append(Transfer(COLLECTIVES[name], size, group))
        for value in parameters.values():
            for inner in value if isinstance(value, list | tuple) else (value,):
                inner = getattr(inner, "jaxpr", inner)  # of a ClosedJaxpr
                if hasattr(inner, "eqns"):
                    found += collectives(inner, axis_sizes)
    return found


def compare(title: str, traced: list[Transfer], model: list[Transfer]) -> list[str]:
    """Print the calculated and traced bytes for each kind and group size, and list those that differ."""
    counts: dict[tuple[str, int], list[int]] = {}
    for number, transfers in enumerate((model, traced)):
        for transfer in transfers:
            counts.setdefault((transfer.kind, transfer.group), [0, 0])[number] += transfer.bytes
    print(f"{title}:" + ("" if counts else " nothing is sent"))
    wrong = []
    for (kind, group), (expected, actual) in sorted(counts.items()):
        print(
            f"  {kind} among {group}: {expected:,} bytes calculated, {actual:,} in the traced step"
        )
        if expected != actual:
            wrong.append(f"{kind} among {group} on {title}")
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
    """Return the parameters on one device: its tower's share of each layer, and all of a replicated layer."""
    layers = _layers(spec)
    replicated = sum(x.parameters for x in layers if geometry.is_replicated(spec.model, x.name))
    return (_parameters(spec) - replicated) // spec.model.towers + replicated


def _divides(spec: Config, devices: int) -> bool:
    """Whether the units of the fully-connected layers, but for those of the last one, divide over `devices`."""
    has_groups = any(layer.groups > 1 for _, layer in spec.model.fcs)
    return not (has_groups or geometry.indivisible(spec.model, devices))


def _divided_parameters(spec: Config, devices: int) -> int:
    """Return the parameters, on all devices together, of the layers whose units are split over `devices`."""
    layers = [layer for layer in _layers(spec) if layer.parameters]
    return sum(x.parameters for x in layers if geometry.is_divided(spec.model, x.name, devices))


def _own_parameters(spec: Config, way: str, devices: int) -> int:
    """Return the parameters on one device."""
    if way == "units":
        divided = _divided_parameters(spec, devices)
        return _parameters(spec) - divided + divided // devices
    return _tower_parameters(spec) if way == "towers" else _parameters(spec)


def _element(spec: Config) -> int:
    """Return the bytes per activation."""
    return {"float32": 4, "bfloat16": 2}[spec.model.compute_dtype]


def _time(transfer: Transfer, devices: int, options: argparse.Namespace) -> float:
    """Return the seconds of a transfer. The towers of a pair share a node; all else goes over all nodes."""
    reduces = transfer.kind == "all-reduce"
    rounds = 2 if reduces else 1
    steps = rounds * (transfer.group - 1)
    nodes, rate, far = math.ceil(devices / options.node), options.inside, 0
    if nodes > 1 and (reduces or transfer.group > options.node):
        rate, far = min(rate, options.between * transfer.group / nodes), rounds * (nodes - 1)
    wait = (steps - far) * options.inside_us + far * options.between_us
    return transfer.sent / (rate * 1e9) + wait * 1e-6


def _seconds(options: argparse.Namespace) -> tuple[Seconds, str]:
    """Return the time of one device and its source; fit a line if several batch sizes were measured."""
    if options.step_seconds is not None:
        points, fixed = {options.at_batch: options.step_seconds}, options.update_seconds
        source = f"{options.step_seconds:g} s at batch {options.at_batch}"
    elif options.measured:
        try:
            report = json.loads(options.measured.read_text())
            points, fixed = _points(report)
        except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
            raise ConfigError(
                f"--measured {options.measured}: not a measurement of bench layers, step or peers ({error})"
            ) from error
        source = f"measured on {report.get('device') or report['machine']}: {options.measured.name}"
    else:
        raise ConfigError(
            "the speed of one device is missing: add --measured FILE or --step-seconds S"
        )
    if len(points) > 1:
        slope, fixed = statistics.linear_regression(list(points), list(points.values()))
        fixed = max(fixed, 0.0)
        return Seconds(fixed, slope), source
    ((batch, step),) = points.items()
    if batch < 1 or not 0 <= fixed < step:
        raise ConfigError(
            "--at-batch and --step-seconds must be above 0, and --update-seconds below --step-seconds"
        )
    return Seconds(fixed, (step - fixed) / batch), source


def _points(report: dict[str, Any]) -> tuple[dict[int, float], float]:
    """Return the seconds of a step by batch size, and the part that does not depend on the batch size."""
    if "layers" in report:
        update = sum(row["seconds"] for row in report["layers"] if row["layer"] == "update")
        return {report["batch"]: report["step_seconds"]}, update
    points: dict[int, float] = {}
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
