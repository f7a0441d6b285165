"""Choose, for each device, the form (implementation) of each part of a training step.

This is the only place that chooses an implementation by platform. All forms of a part compute the same values and
gradients up to rounding (tests/kernels). XLA compiles them to code of different speed, so the choice is by measurement:

CPU: two cores of an AMD EPYC (AVX2), `configs/paper.py`, batch 32, float32, jax 0.10.2.
GPU: one H200, batch 512, bfloat16, jax 0.11.2, 2026-11-26.

The times below are those of a whole step, unless another part is named. `python -m bench.step` measures the step with
each choice reversed. "Forecast" times are estimates for an H200 from the compiled program, the sum over all fusions
except the crops: 7.4 ms for the forms in GPU, right within a factor of two (docs/results/2026-11-26-h200.md).
"""

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax

from alexnet_jax.errors import ConfigError


@dataclass(frozen=True)
class Forms:
    """The form of each part; the other modules of this package implement them."""

    #: Grouped convolutions: one convolution per group, or XLA's feature groups. CPU: 3.2 times slower with feature
    #: groups (kernel gradient of conv2 at batch 16: 814 ms instead of 34). GPU: 20.4 ms instead of 17.2; cuDNN has no
    #: input gradient for them.
    groups: typing.Literal["split", "feature_groups"] = "split"

    #: Strided convolutions with few input channels: as they are, or with stride 1 over blocks of pixels (space to
    #: depth). GPU: 17.2 ms plain, 12.1 in blocks (conv1 alone: 5.8 and 0.74). CPU: blocks are 1.15 times slower.
    strided: typing.Literal["plain", "blocks"] = "plain"

    #: Optimization barriers after each operation: none, in the forward pass, or in both passes. A barrier makes XLA
    #: write the result to memory once, instead of recomputing cheap operations in every consumer. CPU: 1.10 times
    #: slower without. GPU: 12.1 ms without, 11.2 with both; 'forward', for gradients with barriers of their own
    #: (CANDIDATES), was not measured.
    barriers: typing.Literal["none", "both", "forward"] = "none"

    #: Whether there is no such barrier between an operation and the activation after it, which XLA then computes in one
    #: pass over the maps. CPU: 1.04 times slower without in small nets (Xeon). GPU: not measured.
    fused_activations: bool = False

    #: A barrier after the update of the momentum. CPU: without it XLA computes the momentum twice and copies its
    #: inputs first, because each computation overwrites those of the other: 1.05 times slower, and 0.5 GB more. GPU:
    #: not measured with a barrier.
    update_barrier: bool = False

    #: Gradient of biases: a matrix product with ones, a sum over the gradient after a barrier, or JAX's gradient.
    #: CPU: that of conv1 takes 5 ms by the product, which is multithreaded, and 29 with JAX's. GPU: only the product
    #: was measured; the forecasts are equal.
    bias_gradient: typing.Literal["ones", "sum", "derived"] = "derived"

    #: Gradient of ReLU: JAX's, which keeps the input for the backward pass, or one computed from the output, so that
    #: XLA can fuse ReLU into the convolution before it. GPU: not measured; forecast as part of CANDIDATES.
    relu: typing.Literal["derived", "of_output"] = "derived"

    #: x^-0.75 by two square roots, or by logarithm and exponential. CPU: the latter is 1.03 times slower.
    lrn_power: typing.Literal["roots", "power"] = "roots"

    #: Gradient of response normalization, all but the last written by hand:
    #:   nested: one expression with a window sum inside a window sum.
    #:   two_pass: the two window sums in sequence, with a barrier between them.
    #:   recomputed: two_pass, with nothing kept from the forward pass.
    #:   ratio: recomputed, with one array between the sums instead of two.
    #:   derived: JAX's gradient.
    #: CPU: 1.18 times slower derived. GPU: only nested was measured: 3.2 ms for pool, LRN, ReLU and bias of conv1,
    #: where the memory traffic alone takes 0.16; forecast with the other changes of CANDIDATES: 6.6 ms recomputed,
    #: 6.3 ratio.
    lrn_gradient: typing.Literal["nested", "two_pass", "recomputed", "ratio", "derived"] = "nested"

    #: Max pooling and its gradient:
    #:   compared: each input is compared with the maximum of every window around it.
    #:   separable: compared, along the width and then along the height.
    #:   parity, repeat: each window marks its maximum and each input collects the marks, with the inputs split by
    #:     their position modulo the stride, or with the windows repeated.
    #:   derived: the maximum of shifted inputs, with JAX's gradient.
    #:   reduce_window: XLA's pool, with select-and-scatter as its gradient.
    #: CPU: compared is 1.12 times slower in small nets (`cifar10:80sec`, Xeon); in the paper's net derived is 1.11 and
    #: reduce_window 1.08 times slower than compared, and separable as fast. GPU: only compared was measured; repeat is
    #: forecast 0.1 ms faster than parity. In bfloat16 compared and separable run as parity, because values are often
    #: equal (kernels/pooling.py).
    pool: typing.Literal[
        "compared", "separable", "parity", "repeat", "derived", "reduce_window"
    ] = "compared"

    #: Sum of the squared gradient, for its norm: over 16 slices that are added first, or plain. CPU: plain is 1.04
    #: times slower and writes 0.2 GB of squares. GPU: only sliced was measured; the forecasts are equal.
    norm: typing.Literal["sliced", "plain"] = "plain"

    #: The steps of one dispatch: unrolled, or in a lax.scan. CPU: convolutions inside a loop compile to much slower
    #: code. GPU: an unrolled program frees the intermediate arrays of all its steps only at its end.
    loops: typing.Literal["unrolled", "scan"] = "unrolled"

    #: Layout of the training crops: plain images; the blocks of pixels that the first convolution takes (strided);
    #: or those blocks, with the three bytes of a pixel copied as one integer. GPU: plain crops take 0.7 of 12.1 ms,
    #: where the memory traffic alone takes 0.05; the others were not measured.
    images: typing.Literal["plain", "blocks", "packed"] = "plain"

    #: The maps between layers with groups: joined in one array, or apart, in one array per group, which saves
    #: splitting and joining them (model/grouping.py). GPU: splitting and joining takes 0.3 of 12.1 ms; apart was not
    #: measured, and is forecast 1.0 ms faster.
    towers: typing.Literal["joined", "apart"] = "joined"

    #: Weights in a compute type narrower than float32: cast at the start of each step, or kept as a second copy that
    #: the update writes. GPU: the casts take 0.1 of 12.1 ms; kept was not measured.
    weights: typing.Literal["cast", "kept"] = "cast"

    def barrier(self, x: Any) -> Any:
        """Return the arrays `x` behind the optimization barriers that `barriers` chooses."""
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
CPU = Forms(
    barriers="both",
    fused_activations=True,
    update_barrier=True,
    bias_gradient="ones",
    pool="separable",
    norm="sliced",
)
GPU = Forms(strided="blocks", barriers="both", bias_gradient="ones", norm="sliced", loops="scan")

#: Sets of changes to GPU with the lowest forecast times; none of them has been measured.
_FEWER_BYTES = "barriers=forward,lrn_gradient=ratio,bias_gradient=sum,relu=of_output"
CANDIDATES = (
    _FEWER_BYTES,
    f"{_FEWER_BYTES},pool=repeat",
    f"{_FEWER_BYTES},towers=apart,weights=kept",
    f"{_FEWER_BYTES},towers=apart,weights=kept,images=packed",
)


def choose(platform: str) -> Forms:
    """Return the forms for a JAX platform; PLAIN for one that was not measured."""
    return {"cpu": CPU, "gpu": GPU, "cuda": GPU, "rocm": GPU}.get(platform, PLAIN)


def or_default(forms: Forms | None) -> Forms:
    """Return `forms` or, if None, those of the default backend."""
    return forms or choose(jax.default_backend())


def values(name: str) -> tuple[str | bool, ...]:
    """Return all values that the field `name` can have."""
    kind = typing.get_type_hints(Forms)[name]
    return (False, True) if kind is bool else typing.get_args(kind)


def parse(text: str, base: Forms) -> Forms:
    """Return `base` with the changes in `text`, such as 'pool=repeat,barriers=none'. Raises ConfigError."""
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
    """Return every change of a single field of `base`, in the syntax of `parse`."""
    return [
        f"{field.name}={value}"
        for field in dataclasses.fields(Forms)
        for value in values(field.name)
        if value != getattr(base, field.name)
    ]
