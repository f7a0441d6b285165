"""Time each operation of a training step separately, and compare it with a lower bound.

    alexnet bench layers --batch 32 --json layers.json
    alexnet bench layers --batch 512 --config.model.compute_dtype=bfloat16

Each operation of the network is timed forward and backward, with separate gradients of inputs and weights for linear
operations; then cropping, loss, update, and the whole step. The lower bound is the larger of FLOP / peak and
bytes / bandwidth. The peak is measured with matrix products in the compute type (float32 is TF32 on a GPU), and the
bandwidth with a pass over a large array. Bytes count each input and output once, in the compute type; the update reads
the gradient, and reads and writes the state, in float32. Operations on cached arrays can be faster than their bounds.
On CPUs set the variables of launch/malloc.env first, as `make bench BENCH=layers` does.

On a GPU, many calls are issued in a row. The limit of a call is "launch" if it takes no longer than the host needs to
issue it, or about as long as an empty call.
"""

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import cli
from alexnet_jax.cli import markdown
from alexnet_jax.data.pipeline import augment
from alexnet_jax.errors import ConfigError
from alexnet_jax.inference import predict_step
from alexnet_jax.kernels import compiler
from alexnet_jax.kernels.forms import choose
from alexnet_jax.model import alexnet, geometry, operations
from alexnet_jax.model.towers import LayerSharding
from alexnet_jax.specs import Config, FCSpec
from alexnet_jax.train import schedule, state, step
from alexnet_jax.train.norms import Norms

from . import hardware, ours, output, roofline, workload


class Part(NamedTuple):
    """A part of a step that is timed separately: `call(*arguments)`."""

    layer: str
    operation: str
    #: 'forward', 'inputs' or 'weights' (gradients), 'backward', or ''.
    way: str
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    flop: float
    bytes: float


def main(arguments: list[str]) -> int:
    """Run `alexnet bench layers`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", default="configs/paper.py", metavar="FILE[:VARIANT]")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--repeats", type=int, default=5, help="measurements; the median is reported"
    )
    output.add_json(parser)
    options, rest = parser.parse_known_args(arguments)
    if min(options.batch, options.repeats) < 1:
        raise ConfigError("--batch and --repeats must be at least 1")
    spec = workload.load(options.config, options.batch, cli.config_overrides(rest))
    report: dict[str, Any] = {}
    with hardware.device_lock(jax.default_backend()):
        for report in measure(spec, options.repeats):
            output.write_json(options.json, report)
    print(table(report))
    return 0


def measure(spec: Config, repeats: int) -> Iterator[dict[str, Any]]:
    """Measure the whole step, then each part, and yield the growing report after each part.

    The row of a part has `seconds`, `bound` and `limit`; if it fails, for example for lack of memory, it has `error`
    instead of `seconds`.
    """
    on_cpu = jax.default_backend() == "cpu"
    facts, step_seconds = _whole_step(spec, repeats, 1 if on_cpu else 20)
    report = facts | hardware.hardware() | {
        "config": spec.name, "batch": spec.train.batch_size, "dtype": spec.model.compute_dtype,
        "step_seconds": step_seconds,
        "peak_flop": roofline.peak_flop(spec.model.compute_dtype, repeats),
        "bandwidth": roofline.copy_bandwidth(repeats), "empty_seconds": roofline.empty_seconds(repeats),
    }  # fmt: skip
    report["device"] = hardware.device_name()
    rows = report["layers"] = []
    for part in parts(spec):
        limits = {
            "FLOP": part.flop / report["peak_flop"],
            "bytes": part.bytes / report["bandwidth"],
        }
        limit = max(limits, key=limits.__getitem__)
        row = {name: getattr(part, name) for name in ("layer", "operation", "way", "flop", "bytes")}
        rows.append(row | {"bound": limits[limit], "limit": limit})
        try:
            seconds, launch = roofline.time_of(jitted(part.call), part.arguments, repeats)
        except jax.errors.JaxRuntimeError as error:
            rows[-1]["error"] = str(error).strip().partition("\n")[0][:200]
        else:
            rows[-1] |= {"seconds": seconds, "launch_seconds": launch}
            if not on_cpu and seconds < max(1.2 * launch, 1.5 * report["empty_seconds"]):
                rows[-1]["limit"] = "launch"
        yield report


def _whole_step(spec: Config, repeats: int, steps: int) -> tuple[dict[str, Any], float]:
    run, facts = ours.program(spec)
    run(2)
    seconds = [roofline.timed(lambda: run(steps)) / steps for _ in range(repeats)]
    return facts, statistics.median(seconds)


def table(report: dict[str, Any]) -> str:
    """Format the milliseconds of each part, their sum, and the whole step."""
    whole = report["step_seconds"]
    title = (
        f"{report['config']}, batch {report['batch']}, {report['dtype']}, {report['version']}; {report['device']}, "
        f"{report['cores']} cores: {report['peak_flop'] / 1e9:,.0f} GFLOP/s, "
        f"{report['bandwidth'] / 1e9:,.1f} GB/s, {report['empty_seconds'] * 1e6:.0f} us for an empty call"
    )
    header = (
        "layer", "operation", "", "GFLOP", "MB", "ms", "bound", "limit", "share of bound", "share of step",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for row in report["layers"]:
        seconds, bound = row.get("seconds"), row["bound"]
        if seconds is None:
            measured = (row["error"], f"{bound * 1e3:.3f}", "", "", "")
        else:
            measured = (f"{seconds * 1e3:.3f}", f"{bound * 1e3:.3f}", row["limit"],
                        f"{bound / seconds:.0%}", f"{seconds / whole:.1%}")  # fmt: skip
        rows.append((row["layer"], row["operation"], row["way"], f"{row['flop'] / 1e9:.2f}",
                     f"{row['bytes'] / 1e6:.1f}", *measured))  # fmt: skip
    total, least = (
        sum(row.get(key, 0) for row in report["layers"]) for key in ("seconds", "bound")
    )
    bound_ms = f"{least * 1e3:.1f}"
    rows += [
        ("sum", "", "", "", "", f"{total * 1e3:.1f}", bound_ms, "", f"{least / total:.0%}", f"{total / whole:.0%}"),
        ("whole step", "", "", "", "", f"{whole * 1e3:.1f}", bound_ms, "", f"{least / whole:.0%}", ""),
    ]  # fmt: skip
    return "\n".join([title, "", *markdown.table(header, rows, right=(3, 4, 5, 6, 8, 9))])


def parts(spec: Config) -> Iterator[Part]:
    """Yield the parts of a step in forward order, each followed by its gradients, with normally distributed inputs."""
    model, batch = spec.model, spec.train.batch_size
    size, classes = spec.augment.crop_size, spec.model.num_classes or 1000
    multiply_adds = {
        layer.name: layer.multiply_adds for layer in geometry.layers(model, size, classes)
    }
    dtype, specs = jnp.dtype(model.compute_dtype), (*model.convs, *model.fcs)
    yield _cropping(spec)
    shape: tuple[int, ...] = (batch, size, size, 3)
    for name, layer_spec in specs:
        if isinstance(layer_spec, FCSpec) and len(shape) > 2:
            shape = (batch, int(np.prod(shape[1:])))
        for node in operations.nodes(name, layer_spec):
            layer = _SingleOperation(
                model=model, spec=layer_spec, axis_name=None, sharding=LayerSharding(),
                forms=choose(jax.default_backend()), arrays=1, is_last=name == specs[-1][0], node=node,
            )  # fmt: skip
            x = jax.random.normal(jax.random.key(0), shape, dtype)
            flop = 2.0 * batch * multiply_adds[name] if node.operation.is_linear else 0.0
            timed = _operation_parts(name, layer, x, flop, first=name == specs[0][0])
            shape = jax.eval_shape(timed[0].call, *timed[0].arguments).shape
            yield from timed
    yield _loss(spec, shape)
    yield _update(spec)


class _SingleOperation(alexnet.Layer):
    """A layer that applies only one of its operations."""

    node: operations.Node

    @nn.compact
    def __call__(self, x: Any, keys: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        next_key, dtype = alexnet.DropoutKeys(keys).next, jnp.dtype(self.model.compute_dtype)
        call = operations.Call(self.node, True, next_key, dtype, self.model.towers)
        layer: Any = self
        return self.node.operation.apply(layer, x, call)


def _operation_parts(
    name: str, layer: _SingleOperation, x: jax.Array, flop: float, *, first: bool
) -> list[Part]:
    """Return an operation and its gradients; as in training, the first layer has no gradient of its inputs."""
    keys = jax.vmap(jax.random.key)(jnp.arange(x.shape[0]))
    variables: Any = {}
    operation = layer.node.operation
    if operation.tensors:
        variables = jax.jit(layer.init)(jax.random.key(0), x, keys)
    if operation.is_linear:  # cast here, because the step casts all weights once
        variables = jax.tree.map(lambda leaf: leaf.astype(x.dtype), variables)
    params = variables.get("params", {})

    def forward(params: Any, x: Any) -> Any:
        y, _ = layer.apply(variables | {"params": params}, x, keys, mutable=["batch_stats"])
        return y

    y, pull = jax.vjp(jax.jit(forward), params, x)
    weights = sum(leaf.size for leaf in jax.tree.leaves(params)) * x.dtype.itemsize
    part = functools.partial(Part, name, layer.node.key.removeprefix("before/"))
    timed = [part("forward", forward, (params, x), flop, x.nbytes + weights + y.nbytes)]
    if operation.is_linear:
        moved = y.nbytes + weights + x.nbytes
        if not first:
            timed.append(part("inputs", _gradient_of_inputs, (pull, y), flop, moved))
        timed.append(part("weights", _gradient_of_weights, (pull, y), flop, moved))
    else:
        moved = y.nbytes + 2 * x.nbytes + weights
        timed.append(part("backward", _gradients, (pull, y), flop, moved))
    return timed


def _gradients(pull: Callable[[Any], Any], cotangent: Any) -> Any:
    return pull(cotangent)


def _gradient_of_weights(pull: Callable[[Any], Any], cotangent: Any) -> Any:
    return pull(cotangent)[0]


def _gradient_of_inputs(pull: Callable[[Any], Any], cotangent: Any) -> Any:
    return pull(cotangent)[1]


def _cropping(spec: Config) -> Part:
    examples, constants = (
        ours.examples(spec),
        predict_step.resized_statistics(ours.statistics(spec), spec),
    )
    key, dtype = state.stream(spec.seed, state.AUGMENT), jnp.dtype(spec.model.compute_dtype)
    forms = choose(jax.default_backend())

    def crop(images: Any, indices: Any, epochs: Any, key: Any, constants: Any) -> Any:
        images = augment.train_images(
            images, constants, spec.augment, seed_key=key, indices=indices, epochs=epochs,
            step=jnp.int32(0), positions=jnp.arange(len(indices)), color_std=jnp.float32(0.1),
            forms=forms, to_blocks=step._to_blocks(spec, forms),
        )  # fmt: skip
        return getattr(images, "values", images).astype(dtype)  # the values of Blocks

    pixels = spec.train.batch_size * spec.augment.crop_size**2 * 3
    arguments = (examples.images, examples.indices, examples.epochs, key, constants)
    return Part("images", "crop", "", crop, arguments, 0.0, pixels * (1 + dtype.itemsize))


def _loss(spec: Config, shape: tuple[int, ...]) -> Part:
    """Return the part with the loss, its gradient with respect to the logits, and the number of errors."""
    labels, train = jnp.asarray(ours.examples(spec).labels), spec.train
    logits = jax.random.normal(jax.random.key(0), shape, jnp.float32)

    def loss(logits: Any, labels: Any) -> Any:
        value, gradient = jax.value_and_grad(
            lambda logits: step.LOSSES[train.loss](logits, labels, train.label_smoothing).mean()
        )(logits)
        return value, gradient, step.top1_errors(logits, labels)

    return Part("loss", train.loss, "", loss, (logits, labels), 0.0, 2.0 * logits.nbytes)


def _update(spec: Config) -> Part:
    """Return the part with the norm of the gradient and the update of momentum and parameters."""
    current = state.create(spec, alexnet.AlexNet(spec.model), 0)
    rates = schedule.rates(spec, 0.0, current.schedule, 1.0)
    forms = choose(jax.default_backend())

    def update(current: Any, gradient: Any, rates: Any) -> Any:
        norms = Norms(jax.tree.map(lambda _: jax.P(), gradient), forms)
        metrics = {"loss": jnp.float32(0), "grad_norm": norms.total(gradient)}
        return step._update(spec, current, rates, gradient, current.batch_stats, metrics, norms)[0]

    current = current._replace(schedule=None)  # pyright: ignore[reportArgumentType]
    gradient = jax.tree.map(lambda x: 1e-3 * x, current.params)
    read, kept = (sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (
        gradient, (current.params, current.opt_state)
    ))  # fmt: skip
    arguments = (current, gradient, rates)
    return Part("update", spec.optimizer.kind, "", update, arguments, 0.0, read + 2.0 * kept)


def jitted(call: Callable[..., Any]) -> Callable[..., Any]:
    """Jit `call` with the compiler options of the training step."""
    return jax.jit(call, compiler_options=compiler.options())


if __name__ == "__main__":
    cli.run(main)
