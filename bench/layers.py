"""Where the time of a training step goes: every operation alone, beside the least time that it could take.

    python -m bench.layers --batch 32 --json layers.json

    python -m bench.layers --batch 512 --config.model.compute_dtype=bfloat16

Each operation of the config's net is timed forward and backward, the linear ones with the gradients of their inputs
and of their weights apart, then loss, cropping and update; at the end the whole step. The bound of an operation is
the larger of FLOP / peak and bytes / bandwidth. Both are measured first: a matrix product in the compute type (on a
GPU float32 is TF32), and a pass over a large array. Bytes: each input read once and each output written once, in the
compute type, weights too; the update reads the gradient and reads and writes the state, in float32. What lies in a
cache can be faster than its bound. On CPUs set launch/malloc.env first, as `make bench BENCH=layers` does.

On a GPU many calls follow one another. One that the host cannot issue in less time than it takes, or that takes no
longer than one that does nothing, is marked "launch": the figure says how long a launch takes, not the operation.
"""

import contextlib
import functools
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import cli
from alexnet_jax.data.pipeline import augment
from alexnet_jax.errors import ConfigError
from alexnet_jax.inference import predict_step
from alexnet_jax.kernels import compiler
from alexnet_jax.kernels.forms import choose
from alexnet_jax.model import alexnet, geometry
from alexnet_jax.specs import Config, FCSpec
from alexnet_jax.train import schedule, state, step
from bench import hardware, ours, roofline


class Part(NamedTuple):
    """Something of a step that is timed alone: `call(*arguments)`."""

    layer: str
    operation: str
    way: str
    """'forward', 'inputs' or 'weights' (gradients), 'backward', or ''."""
    call: Callable
    arguments: tuple
    flop: float
    bytes: float


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--config", default="configs/paper.py", metavar="FILE[:VARIANT]")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5, help="measurements; the median counts")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options, rest = parser.parse_known_args(arguments)
    if min(options.batch, options.repeats) < 1:
        raise ConfigError("--batch and --repeats must be at least 1")
    spec = ours.load(options.config, options.batch, cli.config_overrides(rest))
    report: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        if jax.default_backend() != "cpu":
            stack.enter_context(hardware.device_lock())
        for report in measure(spec, options.repeats):
            if options.json:
                options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))
    return 0


def measure(spec: Config, repeats: int) -> Iterator[dict[str, Any]]:
    """Seconds of the whole step, then seconds, bound and kind of limit of each part; what there is after each.

    A part that fails, for want of memory for example, has `error` in place of `seconds`.
    """
    on_cpu = jax.default_backend() == "cpu"
    facts, step_seconds = _whole_step(spec, repeats, 1 if on_cpu else 20)
    report = facts | hardware.hardware() | {
        "config": spec.name, "batch": spec.train.batch_size, "dtype": spec.model.compute_dtype,
        "step_seconds": step_seconds,
        "peak_flop": roofline.peak_flop(spec.model.compute_dtype, repeats),
        "bandwidth": roofline.copy_bandwidth(repeats), "empty_seconds": roofline.empty_seconds(repeats),
    }  # fmt: skip
    report["device"] = report["machine"] if on_cpu else jax.devices()[0].device_kind
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


def _whole_step(spec: Config, repeats: int, steps: int) -> tuple[dict, float]:
    run, facts = ours.program(spec)
    run(2)
    seconds = [roofline.timed(lambda: run(steps)) / steps for _ in range(repeats)]
    return facts, statistics.median(seconds)


def table(report: dict[str, Any]) -> str:
    """A line a part, in milliseconds, then their sum beside the whole step."""
    whole = report["step_seconds"]
    lines = [
        f"{report['config']}, batch {report['batch']}, {report['dtype']}, {report['version']}; {report['device']}, "
        f"{report['cores']} cores: {report['peak_flop'] / 1e9:,.0f} GFLOP/s, "
        f"{report['bandwidth'] / 1e9:,.1f} GB/s, {report['empty_seconds'] * 1e6:.0f} us a call of nothing",
        "",
        "| layer | operation | | GFLOP | MB | ms | bound | limit | share of bound | share of step |",
        "|---|---|---|--:|--:|--:|--:|---|--:|--:|",
    ]
    for row in report["layers"]:
        begin = (
            f"| {row['layer']} | {row['operation']} | {row['way']} | {row['flop'] / 1e9:.2f} "
            f"| {row['bytes'] / 1e6:.1f} |"
        )
        seconds, bound = row.get("seconds"), row["bound"]
        if seconds is None:
            lines.append(f"{begin} {row['error']} | {bound * 1e3:.3f} | | | |")
            continue
        lines.append(
            f"{begin} {seconds * 1e3:.3f} | {bound * 1e3:.3f} | {row['limit']} "
            f"| {bound / seconds:.0%} | {seconds / whole:.1%} |"
        )
    total, least = (
        sum(row.get(key, 0) for row in report["layers"]) for key in ("seconds", "bound")
    )
    lines += [
        f"| sum | | | | | {total * 1e3:.1f} | {least * 1e3:.1f} | | {least / total:.0%} | {total / whole:.0%} |",
        f"| whole step | | | | | {whole * 1e3:.1f} | {least * 1e3:.1f} | | {least / whole:.0%} | |",
    ]
    return "\n".join(lines)


def parts(spec: Config) -> Iterator[Part]:
    """Everything that a step does, in its order forward, each with its gradients behind it; on normal numbers."""
    model, batch = spec.model, spec.train.batch_size
    size, classes = spec.augment.crop_size, spec.model.num_classes or 1000
    multiply_adds = {
        layer.name: layer.multiply_adds for layer in geometry.layers(model, size, classes)
    }
    dtype, rows = jnp.dtype(model.compute_dtype), (*model.convs, *model.fcs)
    yield _cropping(spec)
    shape: tuple[int, ...] = (batch, size, size, 3)
    for name, row in rows:
        before = [(operation, "before_") for operation in row.pre_ops]
        operations = [*before, ("linear", ""), *((operation, "") for operation in row.ops)]
        if isinstance(row, FCSpec) and len(shape) > 2:
            shape = (batch, int(np.prod(shape[1:])))
        for operation, prefix in operations:
            layer = _Alone(
                model=model, row=row, axis_name=None, last=name == rows[-1][0],
                part=False, apart=False, forms=choose(jax.default_backend()), arrays=1,
                operation=operation, prefix=prefix,
            )  # fmt: skip
            x = jax.random.normal(jax.random.key(0), shape, dtype)
            flop = 2.0 * batch * multiply_adds[name] if operation == "linear" else 0.0
            made = _of_layer(name, layer, x, flop, first=name == rows[0][0])
            shape = jax.eval_shape(made[0].call, *made[0].arguments).shape
            yield from made
    yield _loss(spec, shape)
    yield _update(spec)


class _Alone(alexnet._Row):
    """One operation of a row of the model, with the model's own code."""

    operation: str
    prefix: str

    @nn.compact
    def __call__(self, x, keys):
        if self.operation == "linear":
            return self._linear(x)
        return self._operate(self.operation, x, True, alexnet._DropoutKeys(keys), self.prefix)


def _of_layer(name: str, layer: _Alone, x, flop: float, *, first: bool) -> list[Part]:
    """Forward and gradients of one operation; of the first layer not that of its inputs, as in training."""
    keys = jax.vmap(jax.random.key)(jnp.arange(x.shape[0]))
    variables: Any = {}
    if layer.operation in ("linear", "batch_norm"):
        variables = jax.jit(layer.init)(jax.random.key(0), x, keys)
    if layer.operation == "linear":  # cast beforehand, as the step casts them once
        variables = jax.tree.map(lambda leaf: leaf.astype(x.dtype), variables)
    params = variables.get("params", {})

    def forward(params, x):
        y, _ = layer.apply(variables | {"params": params}, x, keys, mutable=["batch_stats"])
        return y

    y, pull = jax.vjp(jax.jit(forward), params, x)
    weights = sum(leaf.size for leaf in jax.tree.leaves(params)) * x.dtype.itemsize
    part = functools.partial(Part, name, layer.operation)
    found = [part("forward", forward, (params, x), flop, x.nbytes + weights + y.nbytes)]
    if layer.operation == "linear":
        if not first:
            call = lambda pull, g: pull(g)[1]
            found.append(part("inputs", call, (pull, y), flop, y.nbytes + weights + x.nbytes))
        call = lambda pull, g: pull(g)[0]
        found.append(part("weights", call, (pull, y), flop, y.nbytes + x.nbytes + weights))
    else:
        call = lambda pull, g: pull(g)
        found.append(part("backward", call, (pull, y), flop, y.nbytes + 2 * x.nbytes + weights))
    return found


def _cropping(spec: Config) -> Part:
    examples, constants = (
        ours.examples(spec),
        predict_step.resized_statistics(ours.statistics(spec), spec),
    )
    key, dtype = state.stream(spec.seed, state.AUGMENT), jnp.dtype(spec.model.compute_dtype)
    forms = choose(jax.default_backend())

    def crop(images, indices, epochs, key, constants):
        images = augment.train_images(
            images, constants, spec.augment, seed_key=key, indices=indices, epochs=epochs,
            step=jnp.int32(0), positions=jnp.arange(len(indices)), color_std=jnp.float32(0.1),
            forms=forms, to_blocks=step._to_blocks(spec, forms),
        )  # fmt: skip
        return getattr(images, "values", images).astype(dtype)  # of Blocks their values

    pixels = spec.train.batch_size * spec.augment.crop_size**2 * 3
    arguments = (examples.images, examples.indices, examples.epochs, key, constants)
    return Part("images", "crop", "", crop, arguments, 0.0, pixels * (1 + dtype.itemsize))


def _loss(spec: Config, shape: tuple[int, ...]) -> Part:
    """Value and gradient of the loss by the logits, and the count of errors."""
    labels, train = jnp.asarray(ours.examples(spec).labels), spec.train
    logits = jax.random.normal(jax.random.key(0), shape, jnp.float32)

    def loss(logits, labels):
        value, gradient = jax.value_and_grad(
            lambda logits: step.LOSSES[train.loss](logits, labels, train.label_smoothing).mean()
        )(logits)
        return value, gradient, step.top1_errors(logits, labels)

    return Part("loss", train.loss, "", loss, (logits, labels), 0.0, 2.0 * logits.nbytes)


def _update(spec: Config) -> Part:
    """Norm of the gradient, velocity and parameters; the gradient is taken to be the parameters."""
    current = state.create(spec, alexnet.AlexNet(spec.model), 0)
    rates = schedule.rates(spec, 0.0, current.schedule, 1.0)
    forms = choose(jax.default_backend())

    def update(current, gradient, rates):
        norm = step._norm(gradient, jax.tree.map(lambda _: jax.P(), gradient), forms)
        metrics = {"loss": jnp.float32(0), "grad_norm": norm}
        return step._update(spec, current, rates, gradient, current.batch_stats, metrics, forms)[0]

    current = current._replace(schedule=None)  # pyright: ignore[reportArgumentType]
    gradient = jax.tree.map(lambda x: 1e-3 * x, current.params)
    read, kept = (sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (
        gradient, (current.params, current.opt_state)
    ))  # fmt: skip
    arguments = (current, gradient, rates)
    return Part("update", spec.optimizer.kind, "", update, arguments, 0.0, read + 2.0 * kept)


def jitted(call: Callable) -> Callable:
    """As the step is compiled."""
    return jax.jit(call, compiler_options=compiler.options())


if __name__ == "__main__":
    cli.run(main)
