"""Measure what a device can do, and bound the time of a training step on it."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alexnet_jax.model import geometry
from alexnet_jax.specs import Config, ConvSpec

#: Number of calls issued to measure a launch: so few that the host need not wait for the device.
LAUNCHES = 8


class Timing(NamedTuple):
    """Seconds of a call in a sequence of calls."""

    seconds: float
    #: Seconds to issue a call; 0 on a CPU, where the host may execute it itself.
    launch: float


class Work(NamedTuple):
    """A necessary part of a training step, with everything fused into it that can be."""

    #: 'images', a layer of the network, 'loss' or 'update'.
    layer: str
    #: 'forward', 'backward' or ''.
    direction: str
    operation: str
    flop: float
    bytes: float

    def seconds(self, peak: float, bandwidth: float) -> float:
        """The larger of FLOP / peak [FLOP/s] and bytes / bandwidth [bytes/s]."""
        return max(self.flop / peak, self.bytes / bandwidth)


def step_work(spec: Config) -> list[Work]:
    """List the work of a training step on one device, reading each input and writing each output once.

    Activations, weights and gradients have the compute type; parameters and momentum are float32. The update reads
    gradient, parameters and momentum, and writes both and a copy in the compute type: 20 bytes per parameter. Bias,
    activation and dropout are fused into the product before them, and are free, as is the gradient of a bias. The
    operations that follow (normalization, pooling) are one pass in each direction, which recomputes what its gradient
    needs. An activation that ends a layer is read again by the input gradient of the next layer. The first layer has
    no input gradient.
    """
    model, batch, size = spec.model, spec.train.batch_size, spec.augment.crop_size
    classes = model.num_classes or 1000
    specs = (*model.convs, *model.fcs)
    layers = {layer.name: layer for layer in geometry.layers(model, size, classes)}
    item = jnp.dtype(model.compute_dtype).itemsize
    x = batch * size**2 * 3  # input values of a layer
    found = [Work("images", "", "crop", 0.0, x * (1 + item))]
    backward: list[Work] = []
    read_again = 0  # values of the activation before the layer, if it ended the previous one
    for name, spec_of_layer in specs:
        layer, last = layers[name], layers.get(f"{name}/pool", layers[name])
        y, out = (batch * part.channels * part.height**2 for part in (layer, last))
        flop, moved = 2.0 * batch * layer.multiply_adds, item * (x + layer.parameters + y)
        is_fused = set(spec_of_layer.ops) <= {"act", "dropout"}
        passes = isinstance(spec_of_layer, ConvSpec) and not is_fused
        found.append(Work(name, "forward", "product", flop, moved))
        gradients = [Work(name, "backward", "weights", flop, moved)]
        if passes:
            found.append(Work(name, "forward", "pass", 0.0, item * (y + out)))
            gradients.insert(0, Work(name, "backward", "pass", 0.0, item * (2 * y + out)))
        if name != specs[0][0]:
            gradients.append(Work(name, "backward", "inputs", flop, moved + item * read_again))
        backward = gradients + backward
        x, read_again = out, 0 if passes else y
    parameters = sum(layer.parameters for layer in layers.values())
    found.append(Work("loss", "", spec.train.loss, 0.0, 8.0 * batch * classes))
    return [*found, *backward, Work("update", "", spec.optimizer.kind, 0.0, 20.0 * parameters)]


def time_of(
    call: Callable[..., Any], arguments: tuple[Any, ...], repeats: int, least: float = 0.02
) -> Timing:
    """Time a call: the median of `repeats` measurements of consecutive calls.

    Args:
      least: Seconds of a measurement, which determines the number of calls: at most 1000, on a CPU 100.
    """
    arguments, on_cpu = jax.device_put(arguments), jax.default_backend() == "cpu"
    jax.block_until_ready(call(*arguments))
    count = round(least / timed(lambda: call(*arguments)))
    count = max(1, min(100 if on_cpu else 1000, count))

    def several() -> Any:
        for _ in range(count - 1):
            call(*arguments)
        return call(*arguments)

    seconds = statistics.median(timed(several) for _ in range(repeats)) / count
    launches = [0.0] if on_cpu else [_launch(call, arguments) for _ in range(repeats)]
    return Timing(seconds, statistics.median(launches))


def _launch(call: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    result, begun = None, time.perf_counter()
    for _ in range(LAUNCHES):
        result = call(*arguments)
    seconds = time.perf_counter() - begun
    jax.block_until_ready(result)
    return seconds / LAUNCHES


def peak_flop(dtype: str, repeats: int) -> float:
    """Measure the peak FLOP/s of matrix products of random numbers in `dtype`, over several sizes.

    On a GPU float32 has JAX's default precision, as in the step: TF32 where the chip has it.
    """
    multiply, best = jax.jit(jnp.matmul), 0.0
    for side in (1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192):
        a = jax.random.normal(jax.random.key(0), (side, side), jnp.dtype(dtype))
        seconds = min(time_of(multiply, (a, a), 1).seconds for _ in range(3 * repeats))
        best = max(best, 2 * side**3 / seconds)
    return best


def copy_bandwidth(repeats: int) -> float:
    """Measure the bytes/s, read and written, of an in-place pass over an array larger than all caches."""
    on_cpu = jax.default_backend() == "cpu"
    x = jnp.ones((2**26 if on_cpu else 2**30,), jnp.float32)
    negate, count = jax.jit(jnp.negative, donate_argnums=0), 1 if on_cpu else 10

    def several() -> Any:
        nonlocal x
        for _ in range(count):
            x = negate(x)
        return x

    timed(several)
    return 2 * x.nbytes * count / min(timed(several) for _ in range(3 * repeats))


def empty_seconds(repeats: int) -> float:
    """Time a call that does almost nothing, in a sequence of calls: a lower limit for any call."""
    return time_of(jax.jit(lambda x: x + 1), (jnp.float32(0),), repeats).seconds


def timed(call: Callable[[], Any]) -> float:
    """Seconds until the results of `call` are ready."""
    begun = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begun
