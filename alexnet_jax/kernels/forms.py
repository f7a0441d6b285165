"""The one place that chooses by device: which form each part of a training step takes.

All forms of a part compute the same values and gradients, to rounding (tests/kernels). They differ in what XLA makes
of them, so the choice is by measurement. CPU: two cores of an AMD EPYC (AVX2), `configs/paper.py`, batch 32, float32,
jax 0.10.2. GPU: one H200, batch 512, bfloat16, jax 0.11.2, 2026-11-26. `python -m bench.step` measures the step with
each choice undone. "Forecast": estimated from the program compiled for an H200, as the time of all fusions but the
crops; 7.4 ms as chosen, right within a factor of two (docs/results/2026-11-26-h200.md).
"""

import dataclasses
import typing
from dataclasses import dataclass

import jax
from jax import lax

from alexnet_jax.errors import ConfigError


@dataclass(frozen=True)
class Forms:
    """A form for each part; the functions are in the modules beside this one."""

    #: Grouped convolutions: one for each group, or XLA's own. CPU: the step is 3.2 times slower with XLA's (kernel
    #: gradient of conv2 at batch 16: 814 against 34 ms). GPU: 20.4 against 17.2 ms; cuDNN has no input gradient for it.
    groups: typing.Literal["split", "feature_groups"] = "split"

    #: Strided convolutions of few channels: as they are, or at stride 1 over blocks of pixels (space to depth).
    #: GPU: 17.2 ms plain, 12.1 in blocks (conv1: 5.8 against 0.74). CPU: blocks are 1.15 times slower.
    strided: typing.Literal["plain", "blocks"] = "plain"

    #: Whether the result of each operation is written to memory once, with its gradient ('both') or alone; otherwise
    #: XLA copies cheap computations into every consumer. CPU: 1.10 times slower without. GPU: 12.1 ms without, 11.2
    #: with both; 'forward' leaves gradients to forms that write what they must, and was not measured.
    barriers: typing.Literal["none", "both", "forward"] = "none"

    #: The same for the velocity of the optimizer. CPU: without it XLA computes it twice, each time from what the other
    #: overwrites, and so copies both first: 1.05 times the step, and 0.5 GB more. GPU: not measured with it.
    update_barrier: bool = False

    #: Gradient by biases: a product with ones, a sum over the gradient once that is written, or JAX's. CPU: conv1
    #: takes 5 ms by the product, which is threaded, and 29 with JAX's. GPU: measured with the product only; forecast
    #: the same.
    bias_gradient: typing.Literal["ones", "sum", "derived"] = "derived"

    #: Gradient of ReLU: JAX's, which keeps the input, or one from the output, so that the input need not be kept and
    #: ReLU can end the convolution before it. GPU: not measured; forecast as one of CANDIDATES.
    relu: typing.Literal["derived", "of_output"] = "derived"

    #: x^-0.75 by two square roots, or by logarithm and exponential. CPU: 1.03 times slower by power.
    lrn_power: typing.Literal["roots", "power"] = "roots"

    #: Gradient of response normalization: one expression with a window sum inside a window sum; the two sums one after
    #: the other; the same with nothing kept from the forward pass; the same with one array, not two, between the sums;
    #: or JAX's. CPU: 1.18 times slower with JAX's. GPU: measured nested only, 3.2 ms for pool, LRN, ReLU and bias of
    #: conv1, whose bytes take 0.16; with the other changes of CANDIDATES, forecast 6.6 ms recomputed and 6.3 by ratio.
    lrn_gradient: typing.Literal["nested", "two_pass", "recomputed", "ratio", "derived"] = "nested"

    #: Maxima and their gradient: places compared with the maximum of each window; windows that mark their maxima,
    #: gathered by each place, with strides taken apart or windows repeated; shifted maxima with JAX's gradient; XLA's
    #: pool with select-and-scatter. CPU: 1.11 and 1.08 times slower with the last two. GPU: measured compared only;
    #: forecast 0.1 ms less by repeating than by parity. bfloat16 takes parity for compared, as its values tie
    #: (kernels/pooling.py).
    pool: typing.Literal["compared", "parity", "repeat", "derived", "reduce_window"] = "compared"

    #: Sum of all squares of the gradient: 16 slices added first, or plainly. CPU: 1.04 times slower plainly, which
    #: also writes 0.2 GB of squares. GPU: measured sliced only; forecast the same.
    norm: typing.Literal["sliced", "plain"] = "plain"

    #: Steps of one dispatch: unrolled in the program, or in a loop. XLA:CPU compiles convolutions inside a loop to a
    #: far slower form. XLA:GPU keeps everything that the steps of an unrolled program have written until the end.
    loops: typing.Literal["unrolled", "scan"] = "unrolled"

    #: Training crops as images; in the blocks that the first convolution takes; the same with the three bytes of a
    #: pixel moved as one integer. GPU: crops in images take 0.7 of 12.1 ms, their bytes 0.05; the others were not
    #: measured.
    images: typing.Literal["plain", "blocks", "packed"] = "plain"

    #: Between layers with groups, the maps of all groups in one array, or one array a group, so that nothing is split
    #: and joined (model/grouping.py). GPU: splitting and joining takes 0.3 of 12.1 ms; apart was not measured,
    #: forecast 1.0 ms less.
    towers: typing.Literal["joined", "apart"] = "joined"

    #: Weights in a narrow compute type: cast in each step, or written beside the float32 ones by the update before.
    #: GPU: the casts take 0.1 of 12.1 ms; kept was not measured.
    weights: typing.Literal["cast", "kept"] = "cast"

    def barrier(self, x):
        """`x`, with an optimization barrier for it, and for its gradient, according to `barriers`."""
        return _BARRIERS[self.barriers](x)


@jax.custom_jvp
def _forward_barrier(x):
    return lax.optimization_barrier(x)


@_forward_barrier.defjvp
def _forward_barrier_derivative(primals, tangents):
    return _forward_barrier(*primals), *tangents


_BARRIERS = {
    "none": lambda x: x,
    "both": lax.optimization_barrier,
    "forward": _forward_barrier,
}

PLAIN = Forms()
CPU = Forms(barriers="both", update_barrier=True, bias_gradient="ones", norm="sliced")
GPU = Forms(strided="blocks", barriers="both", bias_gradient="ones", norm="sliced", loops="scan")

#: Changes of GPU, each of several parts, that rank first by forecast; to be measured together.
_FEWER_BYTES = "barriers=forward,lrn_gradient=ratio,bias_gradient=sum,relu=of_output"
CANDIDATES = (
    _FEWER_BYTES,
    f"{_FEWER_BYTES},pool=repeat",
    f"{_FEWER_BYTES},towers=apart,weights=kept",
    f"{_FEWER_BYTES},towers=apart,weights=kept,images=packed",
)


def choose(platform: str) -> Forms:
    """The forms for a platform as JAX names it; the plainest for one that was not measured."""
    return {"cpu": CPU, "gpu": GPU, "cuda": GPU, "rocm": GPU}.get(platform, PLAIN)


def of_backend(forms: Forms | None) -> Forms:
    """`forms`, or those for the default backend."""
    return forms or choose(jax.default_backend())


def values(name: str) -> tuple:
    """All values of the field `name`."""
    kind = typing.get_type_hints(Forms)[name]
    return (False, True) if kind is bool else typing.get_args(kind)


def parse(text: str, base: Forms) -> Forms:
    """`base` with the changes of `text`, such as 'pool=repeat,barriers=none'. Raises ConfigError."""
    known = [field.name for field in dataclasses.fields(Forms)]
    changes = {}
    for change in filter(None, text.split(",")):
        name, _, value = change.partition("=")
        if name not in known:
            raise ConfigError(f"unknown form {name!r}; known: {', '.join(known)}")
        found = [allowed for allowed in values(name) if str(allowed) == value]
        if not found:
            allowed = ", ".join(map(str, values(name)))
            raise ConfigError(f"form {name}={value!r} is not one of {allowed}")
        changes[name] = found[0]
    return dataclasses.replace(base, **changes)


def undone(base: Forms) -> list[str]:
    """Every single change of `base`, as `parse` takes it."""
    return [
        f"{field.name}={value}"
        for field in dataclasses.fields(Forms)
        for value in values(field.name)
        if value != getattr(base, field.name)
    ]
