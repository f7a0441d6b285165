"""Where the time of a training step goes: every operation alone, beside the least time that it could take.

    python -m bench.layers --batch 32 --json layers.json

Each operation of the config's net is timed forward and backward, the linear ones with the gradients of their inputs
and of their weights apart, then loss, cropping and update; at the end the whole step. The bound of an operation is
the larger of FLOP / peak and bytes / bandwidth. Both are measured first: a matrix product in the compute type, and a
pass over a large array. Bytes: each input read once and each output written once, in the compute type; the update
reads the gradient and reads and writes the state, in float32. What lies in a cache can be faster than its bound.
On CPUs set launch/malloc.env first, as `make bench BENCH=layers` does.
"""

import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import cli, geometry
from alexnet_jax.data import augment
from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels import compiler, forms
from alexnet_jax.model import alexnet
from alexnet_jax.specs import Config, FCSpec
from alexnet_jax.training import schedule, state, step
from bench import hardware, ours


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
    report = measure(spec, options.repeats)
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def measure(spec: Config, repeats: int) -> dict[str, Any]:
    """Seconds, bound and kind of limit of every part, and seconds of the whole step."""
    peak, bandwidth = peak_flop(spec.model.compute_dtype, repeats), copy_bandwidth(repeats)
    rows = []
    for part in parts(spec):
        seconds = time_of(jitted(part.call), part.arguments, repeats)
        limits = {"FLOP": part.flop / peak, "bytes": part.bytes / bandwidth}
        limit = max(limits, key=limits.__getitem__)
        row = {name: getattr(part, name) for name in ("layer", "operation", "way", "flop", "bytes")}
        rows.append(row | {"seconds": seconds, "bound": limits[limit], "limit": limit})
    run, facts = ours.program(spec)
    run(2)
    whole = [_timed(lambda: run(1)) for _ in range(repeats)]
    facts |= hardware.hardware() | {"config": spec.name, "batch": spec.train.batch_size}
    on_cpu = jax.default_backend() == "cpu"
    return facts | {
        "device": facts["machine"] if on_cpu else jax.devices()[0].device_kind,
        "dtype": spec.model.compute_dtype, "peak_flop": peak, "bandwidth": bandwidth, "layers": rows,
        "step_seconds": statistics.median(whole),
    }  # fmt: skip


def table(report: dict[str, Any]) -> str:
    """A line a part, in milliseconds, then their sum beside the whole step."""
    whole = report["step_seconds"]
    lines = [
        f"{report['config']}, batch {report['batch']}, {report['dtype']}, {report['version']}; {report['device']}, "
        f"{report['cores']} cores: {report['peak_flop'] / 1e9:,.0f} GFLOP/s, "
        f"{report['bandwidth'] / 1e9:,.1f} GB/s",
        "",
        "| layer | operation | | GFLOP | MB | ms | bound | limit | share of bound | share of step |",
        "|---|---|---|--:|--:|--:|--:|---|--:|--:|",
    ]
    for row in report["layers"]:
        seconds, bound = row["seconds"], row["bound"]
        lines.append(
            f"| {row['layer']} | {row['operation']} | {row['way']} | {row['flop'] / 1e9:.2f} "
            f"| {row['bytes'] / 1e6:.1f} | {seconds * 1e3:.3f} | {bound * 1e3:.3f} | {row['limit']} "
            f"| {bound / seconds:.0%} | {seconds / whole:.1%} |"
        )
    total, least = (sum(row[key] for row in report["layers"]) for key in ("seconds", "bound"))
    lines += [
        f"| sum | | | | | {total * 1e3:.1f} | {least * 1e3:.1f} | | {least / total:.0%} | {total / whole:.0%} |",
        f"| whole step | | | | | {whole * 1e3:.1f} | {least * 1e3:.1f} | | {least / whole:.0%} | |",
    ]
    return "\n".join(lines)


def parts(spec: Config) -> list[Part]:
    """Everything that a step does, in its order forward, each with its gradients behind it."""
    model, batch = spec.model, spec.train.batch_size
    size, classes = spec.augment.crop_size, spec.model.num_classes or 1000
    multiply_adds = {
        layer.name: layer.multiply_adds for layer in geometry.layers(model, size, classes)
    }
    dtype, rows = jnp.dtype(model.compute_dtype), (*model.convs, *model.fcs)
    found, draw = [_cropping(spec)], np.random.default_rng(0)
    shape: tuple[int, ...] = (batch, size, size, 3)
    for name, row in rows:
        before = [(operation, "before_") for operation in getattr(row, "before", ())]
        operations = [*before, ("linear", ""), *((operation, "") for operation in row.then)]
        if isinstance(row, FCSpec) and len(shape) > 2:
            shape = (batch, int(np.prod(shape[1:])))
        for operation, prefix in operations:
            layer = _Alone(
                model=model, row=row, axis_name=None, last=name == rows[-1][0],
                part=False, apart=False, forms=forms.choose(jax.default_backend()), arrays=1,
                operation=operation, prefix=prefix,
            )  # fmt: skip
            x = jnp.asarray(draw.normal(size=shape), dtype)
            flop = 2.0 * batch * multiply_adds[name] if operation == "linear" else 0.0
            made = _of_layer(name, layer, x, flop, first=name == rows[0][0])
            shape = jax.eval_shape(made[0].call, *made[0].arguments).shape
            found += made
    return [*found, _loss(spec, shape), _update(spec)]


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
            call = lambda pull, g: pull(g)[1]  # noqa: E731
            found.append(part("inputs", call, (pull, y), flop, y.nbytes + weights + x.nbytes))
        call = lambda pull, g: pull(g)[0]  # noqa: E731
        found.append(part("weights", call, (pull, y), flop, y.nbytes + x.nbytes + weights))
    else:
        call = lambda pull, g: pull(g)  # noqa: E731
        found.append(part("backward", call, (pull, y), flop, y.nbytes + 2 * x.nbytes + weights))
    return found


def _cropping(spec: Config) -> Part:
    examples, constants = ours.examples(spec), step.resized_statistics(ours.statistics(spec), spec)
    key, dtype = state.stream(spec.seed, state.AUGMENT), jnp.dtype(spec.model.compute_dtype)

    def crop(images, indices, epochs, key, constants):
        images = augment.train_images(
            images, constants, spec.augment, seed_key=key, indices=indices, epochs=epochs,
            step=jnp.int32(0), positions=jnp.arange(len(indices)), color_std=jnp.float32(0.1),
        )  # fmt: skip
        return images.astype(dtype)

    pixels = spec.train.batch_size * spec.augment.crop_size**2 * 3
    arguments = (examples.images, examples.indices, examples.epochs, key, constants)
    return Part("images", "crop", "", crop, arguments, 0.0, pixels * (1 + dtype.itemsize))


def _loss(spec: Config, shape: tuple[int, ...]) -> Part:
    """Value and gradient of the loss by the logits, and the count of errors."""
    labels, train = jnp.asarray(ours.examples(spec).labels), spec.train
    logits = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)

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

    def update(current, gradient, rates):
        chosen = forms.choose(jax.default_backend())
        norm = step._norm(gradient, jax.tree.map(lambda _: jax.P(), gradient), chosen)
        metrics = {"loss": jnp.float32(0), "grad_norm": norm}
        return step._update(spec, current, rates, gradient, current.batch_stats, metrics, chosen)[0]

    current = current._replace(schedule=None)  # pyright: ignore[reportArgumentType]
    gradient = jax.tree.map(lambda x: 1e-3 * x, current.params)
    read, kept = (sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (
        gradient, (current.params, current.velocity)
    ))  # fmt: skip
    arguments = (current, gradient, rates)
    return Part("update", spec.optimizer.kind, "", update, arguments, 0.0, read + 2.0 * kept)


def jitted(call: Callable) -> Callable:
    """As the step is compiled."""
    return jax.jit(call, compiler_options=compiler.options())


def time_of(call: Callable, arguments: tuple, repeats: int) -> float:
    """Median seconds of a call, of several in a row where one is short: so a device need not wait for the host."""
    arguments = jax.device_put(arguments)
    jax.block_until_ready(call(*arguments))
    count = max(1, min(100, round(0.02 / _timed(lambda: call(*arguments)))))

    def several():
        for _ in range(count - 1):
            call(*arguments)
        return call(*arguments)

    return statistics.median(_timed(several) for _ in range(repeats)) / count


def peak_flop(dtype: str, repeats: int) -> float:
    """FLOP/s of a matrix product of random numbers, the most that any of several sizes and repeats reaches."""
    multiply, best = jitted(jnp.matmul), 0.0
    for side in (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192):
        a = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(dtype))
        multiply(a, a).block_until_ready()
        seconds = min(_timed(lambda a=a: multiply(a, a)) for _ in range(3 * repeats))
        best = max(best, 2 * side**3 / seconds)
    return best


def copy_bandwidth(repeats: int) -> float:
    """Bytes/s, read and written together, of passing over an array in place that no cache holds."""
    x = jnp.ones((2**26 if jax.default_backend() == "cpu" else 2**30,), jnp.float32)
    negate = jax.jit(jnp.negative, donate_argnums=0)

    def once():
        nonlocal x
        x = negate(x)
        return x

    once().block_until_ready()
    return 2 * x.nbytes / min(_timed(once) for _ in range(3 * repeats))


def _timed(call: Callable) -> float:
    begun = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begun


if __name__ == "__main__":
    cli.run(main)
