"""Trace the compiled train step, and compare its time by layer and direction with a lower bound.

    alexnet bench kernels --batch 512 --dtype bfloat16 --json kernels.json
    alexnet bench kernels --config configs/cifar10.py:80sec --batch 128 --peak 790 --bandwidth 4300

Times are device times: the kernels of a few steps, summed by operation of the compiled program. The op_name of an
operation determines its layer. A fusion has the op_name of its last operation, so a fusion across two layers is counted
for one of them. An operation without a usable op_name is counted for the layer of its neighbors. The bounds are those
of bench/roofline.py, which assume that everything is fused that can be. 'update' includes the norm of the gradient.

CUDA graphs are disabled, because a trace may lack the operation of a kernel in a graph; --graphs leaves them enabled.
On a CPU, the time is that of the thread that executes an operation, without the threads that help it.
"""

import argparse
import collections
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax import cli
from alexnet_jax.cli import markdown
from alexnet_jax.errors import AlexNetError, ConfigError

from . import hardware, output

#: Parts of the step that are not layers, with the names of their scopes and functions; the first match counts.
PLACES = {
    "images": {"images", "train_images", "augment", "augmentation"},
    "loss": {"loss", "_cross_entropy", "_mean_squared_error", "top1_errors",
             "softmax_cross_entropy_with_integer_labels"},
    "update": {"update", "_update", "_norm", "grad_norm", "sum_of_squares", "_sum_of_squares"},
}  # fmt: skip
#: Number of kernels that `table` lists.
LARGEST = 25


class Place(NamedTuple):
    """A part of the step."""

    layer: str
    #: 'forward' or 'backward' for a layer of the network, otherwise ''.
    direction: str


REST = Place("rest", "")


class Operation(NamedTuple):
    """An instruction of the compiled program."""

    op_name: str
    #: Python functions in which it was traced, innermost first.
    functions: tuple[str, ...]
    #: The computation that it calls, such as the body of a fusion.
    called: str
    #: The computation that contains it.
    within: str
    #: Names of its operands.
    operands: tuple[str, ...]


class OperationTime(NamedTuple):
    """The time of an operation in a trace."""

    name: str
    #: The name of its first kernel on the device.
    kernel: str
    nanoseconds: float
    events: int


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", default="configs/paper.py", metavar="FILE[:VARIANT]")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="compute type; default: that of the config",
    )
    parser.add_argument(
        "--forms", metavar="NAME=VALUE,...", help="changes to the forms of the device"
    )
    parser.add_argument("--steps", type=int, default=10, help="number of traced steps")
    parser.add_argument("--peak", type=float, metavar="TFLOPS", help="default: measured")
    parser.add_argument("--bandwidth", type=float, metavar="GB/S", help="default: measured")
    parser.add_argument("--graphs", action="store_true", help="leave CUDA graphs enabled")
    output.add_json(parser)
    options, rest = parser.parse_known_args(arguments)
    if min(options.batch, options.steps) < 1:
        raise ConfigError("--batch and --steps must be at least 1")
    overrides = cli.config_overrides(rest)
    if options.dtype:
        overrides.append(f"--config.model.compute_dtype={options.dtype}")
    report = measure(options, overrides)
    print(table(report))
    output.write_json(options.json, report)
    return 0


def measure(options: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """Measure the time of each operation and layer, the bound of each layer, and the time of an untraced step."""
    device = hardware.device()
    on_gpu = device == "cuda"
    if on_gpu:  # before JAX initializes its devices
        graphs = (
            "--xla_enable_command_buffers_during_profiling=true"
            if options.graphs
            else "--xla_gpu_enable_command_buffer="
        )
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {graphs}"
    import jax

    from alexnet_jax.model import geometry
    from alexnet_jax.model import mesh as parallel

    from . import ours, roofline, workload

    spec = workload.load(options.config, options.batch, overrides)
    made = {"forms": _forms(options.forms)} if options.forms else {}
    with hardware.device_lock(device):
        run, facts = ours.program(spec, **made)
        run(3)
        steps = 30 if on_gpu else options.steps
        seconds = min(roofline.timed(lambda: run(steps)) for _ in range(3)) / steps
        sums = traced(run, options.steps)
        peak = (options.peak or 0) * 1e12 or roofline.peak_flop(spec.model.compute_dtype, 2)
        bandwidth = (options.bandwidth or 0) * 1e9 or roofline.copy_bandwidth(2)
    mesh = parallel.device_mesh(jax.local_devices()[:1])
    operations = instructions(ours.lower(spec, mesh, **made).compile().as_text() or "")
    classes = spec.model.num_classes or 1000
    layers = [row.name for row in geometry.layers(spec.model, spec.augment.crop_size, classes)]
    bounds: dict[Place, float] = collections.defaultdict(float)
    for work in roofline.step_work(spec):
        bounds[Place(work.layer, work.direction)] += work.seconds(peak, bandwidth)
    return facts | hardware.hardware() | {
        "device": hardware.device_name(),
        "config": spec.name, "batch": options.batch, "dtype": spec.model.compute_dtype,
        "forms": options.forms or "", "steps": options.steps, "step_seconds": seconds,
        "graphs": ("on" if options.graphs else "off") if on_gpu else "none",
        "peak_flop": peak, "bandwidth": bandwidth,
    } | summed(sums, operations, layers, bounds, options.steps)  # fmt: skip


def _forms(text: str) -> Any:
    import jax

    from alexnet_jax.kernels import forms

    return forms.parse(text, forms.choose(jax.default_backend()))


def summed(
    sums: Iterable[OperationTime],
    operations: dict[str, Operation],
    layers: list[str],
    bounds: dict[Place, float],
    steps: int,
) -> dict[str, Any]:
    """Sum the times of a trace by place and by operation.

    Args:
      layers: Names of the layers of the network.
      bounds: Seconds per step by place, in the order of the result; other places come last.

    Returns:
      "layers", with the microseconds per step, kernels per step and bound of each place; "kernels", with the times of
      each operation; and "known_share", the fraction of the time in operations of the compiled program.
    """
    by_kernel = {_kernel_name(name): name for name in operations}
    places = _places(operations, set(layers))
    total: dict[Place, list[float]] = {where: [0.0, 0.0] for where in bounds}
    kernels, known = [], 0.0
    for name, kernel, nanoseconds, count in sorted(sums, key=lambda row: -row.nanoseconds):
        # In a CUDA graph only the name of the kernel may identify the operation.
        known_as = name if name in operations else by_kernel.get(_kernel_name(kernel), "")
        operation, where = operations.get(known_as), places.get(known_as, REST)
        microseconds = nanoseconds / 1e3 / steps
        known += microseconds if operation else 0.0
        spent = total.setdefault(where, [0.0, 0.0])
        spent[0] += microseconds
        spent[1] += count / steps
        kernels.append({
            "operation": name, "kernel": kernel, "layer": where.layer, "direction": where.direction,
            "microseconds": microseconds, "count": count / steps,
            "op_name": operation.op_name if operation else "",
        })  # fmt: skip
    if not kernels:
        raise AlexNetError("the trace has no operation of the step")
    rows = [
        {"layer": where.layer, "direction": where.direction, "microseconds": spent[0],
         "kernels": spent[1], "bound": 1e6 * bounds[where] if where in bounds else None}
        for where, spent in total.items()
    ]  # fmt: skip
    all_microseconds = sum(row["microseconds"] for row in rows)
    return {"layers": rows, "kernels": kernels, "known_share": known / all_microseconds}


def _places(operations: dict[str, Operation], layers: set[str]) -> dict[str, Place]:
    """Find the place of each operation: by its op_name, else by the operations it calls, else by its neighbors."""
    within: dict[str, list[Operation]] = collections.defaultdict(list)
    for operation in operations.values():
        within[operation.within].append(operation)
    found: dict[str, Place] = {}
    for name, operation in operations.items():
        inside = (_named(inner, layers) for inner in within[operation.called] if operation.called)
        where = _named(operation, layers) or _most_common(inside)
        if where:
            found[name] = where
    users: dict[str, list[str]] = collections.defaultdict(list)
    for name, operation in operations.items():
        for operand in operation.operands:
            users[operand].append(name)
    # Two passes that spread layers of the network, then two that spread all places.
    all_places = layers | PLACES.keys()
    for known in (layers, layers, all_places, all_places):
        known_places = {name: where for name, where in found.items() if where.layer in known}
        for name, operation in operations.items():
            neighbors = (*users[name], *operation.operands)
            where = _most_common(known_places.get(other) for other in neighbors)
            if where:
                found.setdefault(name, where)
    return found


def _most_common(places: Iterable[Place | None]) -> Place | None:
    counted = collections.Counter(where for where in places if where)
    return counted.most_common(1)[0][0] if counted else None


def _named(operation: Operation, layers: set[str]) -> Place | None:
    """Return the place that the op_name or the functions of an operation name."""
    words = re.findall(r"\w+", operation.op_name)
    for word in words:
        if word in layers:
            back = "transpose(" in operation.op_name
            return Place(word, "backward" if back else "forward")
    sources = {*words, *operation.functions}
    return next((Place(name, "") for name, known in PLACES.items() if known & sources), None)


def instructions(text: str) -> dict[str, Operation]:
    """Parse the instructions of all computations of an HLO module, `compiled.as_text()`, by name."""
    found, computation, functions = {}, "", _functions(text)
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            computation = match[1]
        elif match := _INSTRUCTION.match(line):
            matches = (pattern.search(line) for pattern in (_OP_NAME, _FRAME, _CALLED))
            op_name, frame, called = (match[1] if match else "" for match in matches)
            operands = tuple(_OPERAND.findall(line, match.end()))
            found[match[1]] = Operation(
                op_name, functions.get(frame, ()), called, computation, operands
            )
    return found


_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = ")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.\-]+)")


def _functions(text: str) -> dict[str, tuple[str, ...]]:
    """Parse the functions of each stack frame, by its number, from the tables before the first computation."""
    tables: dict[str, dict[str, str]] = collections.defaultdict(dict)
    table = ""
    for line in text.partition("ENTRY ")[0].splitlines():
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            table = line
        elif match := re.match(r"(\d+) (.*)", line):
            tables[table][match[1]] = match[2]
    # A frame without a parent has parent 0; newer versions of XLA print the numbers of parents one too large.
    shift = (
        0
        if any(row.endswith("parent_frame_id=0}") for row in tables["StackFrames"].values())
        else 1
    )
    found: dict[str, tuple[str, ...]] = {}
    for frame in tables["StackFrames"]:
        names, current = [], frame
        while current in tables["StackFrames"] and len(names) < 50:
            location, parent = re.findall(r"=(\d+)", tables["StackFrames"][current])
            function = re.search(
                r"function_name_id=(\d+)", tables["FileLocations"].get(location, "")
            )
            qualified = tables["FunctionNames"].get(function[1] if function else "", "")
            names.append(qualified.strip('"').rpartition(".")[2])
            current = str(int(parent) - shift)
        found[frame] = tuple(names)
    return found


def traced(run: Callable[[int], Any], steps: int) -> list[OperationTime]:
    """Trace the device during `run(steps)`; the program must be compiled already."""
    import jax

    settings = jax.profiler.ProfileOptions()
    settings.python_tracer_level = 0  # not needed, and slow on the host
    with tempfile.TemporaryDirectory() as folder:
        jax.profiler.start_trace(folder, profiler_options=settings)
        try:
            run(steps)
        finally:
            jax.profiler.stop_trace()
        (path,) = Path(folder).glob("**/*.xplane.pb")
        with warnings.catch_warnings():  # Python 3.12 warns about types in jaxlib
            warnings.simplefilter("ignore", DeprecationWarning)
            return sums(jax.profiler.ProfileData.from_file(str(path)))


def sums(data: Any) -> list[OperationTime]:
    """Sum the events of a ProfileData by operation, over the streams of a GPU or the threads of a CPU."""
    planes = [plane for plane in data.planes if plane.name.startswith("/device:GPU")]
    on_gpu = bool(planes)
    planes = planes or [plane for plane in data.planes if plane.name == "/host:CPU"]
    nanoseconds: dict[str, float] = collections.defaultdict(float)
    counts, kernels = collections.Counter[str](), dict[str, str]()
    for line in (line for plane in planes for line in plane.lines):
        if on_gpu and "Stream" not in line.name:
            continue
        for name, kernel, own in _events(line, on_gpu):
            nanoseconds[name] += own
            counts[name] += 1
            kernels.setdefault(name, kernel)
    return [
        OperationTime(name, kernels[name], total, counts[name])
        for name, total in nanoseconds.items()
    ]


def _events(line: Any, on_gpu: bool) -> Iterator[tuple[str, str, float]]:
    """Yield (operation, kernel, nanoseconds without nested events) of a stream or thread."""
    found = []
    for event in line.events:
        operation = dict(event.stats).get("hlo_op", event.name if on_gpu else None)
        if operation is not None:
            found.append((event.start_ns, -event.duration_ns, str(operation), event.name))
    own, enclosing = [], []
    for number, (start, duration, _, _) in enumerate(sorted(found)):
        own.append(-duration)
        while enclosing and enclosing[-1][0] <= start:
            enclosing.pop()
        if enclosing:
            own[enclosing[-1][1]] += duration
        enclosing.append((start - duration, number))
    for (_, _, operation, kernel), nanoseconds in zip(sorted(found), own, strict=True):
        yield operation, kernel, nanoseconds


def _kernel_name(name: str) -> str:
    """Convert the name of an instruction to that of its kernel."""
    return re.sub(r"\W", "_", name)


def table(report: dict[str, Any]) -> str:
    """Format the time of each layer and direction, and the largest kernels."""
    total = sum(row["microseconds"] for row in report["layers"])
    least = sum(row["bound"] or 0 for row in report["layers"])
    graphs = {"on": "CUDA graphs on", "off": "CUDA graphs off", "none": "no GPU"}[report["graphs"]]
    title = (
        f"{report['config']}, batch {report['batch']}, {report['dtype']}, {report['version']}; {report['device']}: "
        f"{report['peak_flop'] / 1e12:,.1f} TFLOP/s, {report['bandwidth'] / 1e9:,.0f} GB/s; {graphs}; "
        f"a step takes {report['step_seconds'] * 1e3:.2f} ms, its kernels {total / 1e3:.2f}; "
        f"{report['known_share']:.0%} of that is attributed to operations of the program"
    )
    rows = []
    for row in report["layers"]:
        bound, spent = row["bound"], row["microseconds"]
        rows.append((
            row["layer"], row["direction"], f"{spent:,.0f}", f"{row['kernels']:.0f}", f"{spent / total:.1%}",
            "" if bound is None else f"{bound:,.0f}", f"{bound / spent:.0%}" if bound and spent else "",
        ))  # fmt: skip
    count = sum(row["kernels"] for row in report["layers"])
    rows.append(("sum", "", f"{total:,.0f}", f"{count:.0f}", "", f"{least:,.0f}", f"{least / total:.0%}"))  # fmt: skip
    header = (
        "layer",
        "direction",
        "us per step",
        "kernels",
        "share",
        "bound, us",
        "share of bound",
    )
    largest = [
        (f"{row['microseconds']:,.1f}", f"{row['count']:.0f}", f"{row['layer']} {row['direction']}".strip(),
         f"`{row['operation']}`", f"`{row['kernel'][:60]}`", f"`{row['op_name'][-70:]}`")
        for row in report["kernels"][:LARGEST]
    ]  # fmt: skip
    kernels_header = ("us per step", "times", "layer", "operation", "kernel", "op_name")
    return "\n".join([
        title, "", *markdown.table(header, rows, right=range(2, 7)), "",
        *markdown.table(kernels_header, largest, right=(0, 1)),
    ])  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
