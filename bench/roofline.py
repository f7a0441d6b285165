"""What a device can do, measured, and the least time that a training step could take on it."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from alexnet_jax.model import geometry
from alexnet_jax.specs import Config, ConvSpec

LAUNCHES = 8
"""Few enough that the host issues them without waiting for the device."""


class Timing(NamedTuple):
    """Seconds of a call, when many follow one another."""

    seconds: float
    launch: float
    """Seconds that the host needs to issue one; 0 on a CPU, where it may carry them out itself."""


class Work(NamedTuple):
    """Something that a training step cannot do without, with all fused into it that can be."""

    layer: str
    """'images', a row of the net, 'loss' or 'update'."""
    direction: str
    """'forward', 'backward' or ''."""
    operation: str
    flop: float
    bytes: float

    def seconds(self, peak: float, bandwidth: float) -> float:
        """The larger of FLOP / peak [FLOP/s] and bytes / bandwidth [bytes/s]."""
        return max(self.flop / peak, self.bytes / bandwidth)


def step_work(spec: Config) -> list[Work]:
    """All work of a training step on one device, each input read once and each output written once.

    Activations, weights and gradients have the compute type; parameters and velocity are float32, and the update
    reads gradient, parameters and velocity and writes both and a copy in the compute type: 20 bytes a parameter.
    Free: bias, activation and dropout, at the end of the product before them; the gradient of a bias. What follows
    them in a row (normalization, pool) is one pass each way, which computes again what its gradient needs. An
    activation that ends a row is looked at by the input gradient of the next. The first row has no input gradient.
    """
    model, batch, size = spec.model, spec.train.batch_size, spec.augment.crop_size
    classes = model.num_classes or 1000
    rows = (*model.convs, *model.fcs)
    layers = {layer.name: layer for layer in geometry.layers(model, size, classes)}
    item = jnp.dtype(model.compute_dtype).itemsize
    x = batch * size**2 * 3  # values that go into a row
    found = [Work("images", "", "crop", 0.0, x * (1 + item))]
    backward: list[Work] = []
    read_again = (
        0  # values of the activation before the row, if that is all there is after its product
    )
    for name, row in rows:
        layer, last = layers[name], layers.get(f"{name}/pool", layers[name])
        y, out = (batch * part.channels * part.height**2 for part in (layer, last))
        flop, moved = 2.0 * batch * layer.multiply_adds, item * (x + layer.parameters + y)
        passes = isinstance(row, ConvSpec) and not set(row.ops) <= {"act", "dropout"}
        found.append(Work(name, "forward", "product", flop, moved))
        gradients = [Work(name, "backward", "weights", flop, moved)]
        if passes:
            found.append(Work(name, "forward", "pass", 0.0, item * (y + out)))
            gradients.insert(0, Work(name, "backward", "pass", 0.0, item * (2 * y + out)))
        if name != rows[0][0]:
            gradients.append(Work(name, "backward", "inputs", flop, moved + item * read_again))
        backward = gradients + backward
        x, read_again = out, 0 if passes else y
    parameters = sum(layer.parameters for layer in layers.values())
    found.append(Work("loss", "", spec.train.loss, 0.0, 8.0 * batch * classes))
    return [*found, *backward, Work("update", "", spec.optimizer.kind, 0.0, 20.0 * parameters)]


def time_of(call: Callable, arguments: tuple, repeats: int, least: float = 0.02) -> Timing:
    """The median of measurements, each of as many calls in a row as take `least` seconds.

    At most 1000 of them; on a CPU 100.
    """
    arguments, on_cpu = jax.device_put(arguments), jax.default_backend() == "cpu"
    jax.block_until_ready(call(*arguments))
    count = round(least / timed(lambda: call(*arguments)))
    count = max(1, min(100 if on_cpu else 1000, count))

    def several():
        for _ in range(count - 1):
            call(*arguments)
        return call(*arguments)

    seconds = statistics.median(timed(several) for _ in range(repeats)) / count
    launches = [0.0] if on_cpu else [_launch(call, arguments) for _ in range(repeats)]
    return Timing(seconds, statistics.median(launches))


def _launch(call: Callable, arguments: tuple) -> float:
    result, begun = None, time.perf_counter()
    for _ in range(LAUNCHES):
        result = call(*arguments)
    seconds = time.perf_counter() - begun
    jax.block_until_ready(result)
    return seconds / LAUNCHES


def peak_flop(dtype: str, repeats: int) -> float:
    """FLOP/s of a matrix product of random numbers in `dtype`, the most of several sizes and repeats.

    float32 on a GPU at JAX's default precision, as in the step: TF32 where the chip has it.
    """
    multiply, best = jax.jit(jnp.matmul), 0.0
    for side in (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192):
        a = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(dtype))
        seconds = min(time_of(multiply, (a, a), 1).seconds for _ in range(3 * repeats))
        best = max(best, 2 * side**3 / seconds)
    return best


def copy_bandwidth(repeats: int) -> float:
    """Bytes/s, read and written together, of passing over an array in place that no cache holds."""
    on_cpu = jax.default_backend() == "cpu"
    x = jnp.ones((2**26 if on_cpu else 2**30,), jnp.float32)
    negate, count = jax.jit(jnp.negative, donate_argnums=0), 1 if on_cpu else 10

    def several():
        nonlocal x
        for _ in range(count):
            x = negate(x)
        return x

    timed(several)
    return 2 * x.nbytes * count / min(timed(several) for _ in range(3 * repeats))


def empty_seconds(repeats: int) -> float:
    """Seconds of a call that does next to nothing, when many follow one another: no call takes less."""
    return time_of(jax.jit(lambda x: x + 1), (jnp.float32(0),), repeats).seconds


def timed(call: Callable) -> float:
    """Seconds until the results of `call` are there."""
    begun = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begun
