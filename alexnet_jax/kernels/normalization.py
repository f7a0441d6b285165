"""Response normalization, x / (k + alpha * window sum of x^2)^beta.

Its gradient has several forms (Forms.lrn_gradient, lrn_power).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels.forms import Forms, or_default
from alexnet_jax.kernels.linear import linear
from alexnet_jax.kernels.windows import lrn_reach

#: (axis, elements before, elements after) for each axis of a window; elements outside the array count as zero.
Windows = tuple[tuple[int, int, int], ...]


class _How(NamedTuple):
    k: float
    alpha: float
    beta: float
    windows: Windows
    forms: Forms


def local_response_normalization(
    x: Float[Array, "*place c"],
    *,
    k: float,
    n: int,
    alpha: float,
    beta: float,
    towers: int = 1,
    forms: Forms | None = None,
    dtype=None,
) -> Float[Array, "*place c"]:
    """Normalize over adjacent maps (§3.3): b_f = a_f / (k + alpha * sum of a_g^2 over n maps)^beta.

    Args:
        x: Activations; the last axis is that of the maps.
        n: The window of map f is from f - n//2 to f - n//2 + n - 1, within its tower.
        alpha: Per squared term, as in the paper; `lrn_constants` converts the numbers of other programs.
        towers: Number of equal parts of the maps that are normalized separately.
        dtype: The type of the result, by default that of `x`. Sums are float32.
    """
    shape = x.shape
    x = x.reshape(*shape[:-1], towers, shape[-1] // towers)
    windows = ((x.ndim - 1, *lrn_reach(n)),)
    y = response_normalization(
        x, k=k, alpha=alpha, beta=beta, windows=windows, forms=or_default(forms), dtype=dtype
    )
    return y.reshape(shape)


def spatial_response_normalization(
    x: Float[Array, "b h w c"],
    *,
    size: int,
    alpha: float,
    beta: float,
    forms: Forms | None = None,
    dtype=None,
) -> Float[Array, "b h w c"]:
    """Normalize within each map, as the 2012 program: the sum is over size x size elements, and k is 1."""
    before, after = lrn_reach(size)
    windows = ((1, before, after), (2, before, after))
    return response_normalization(
        x, k=1.0, alpha=alpha, beta=beta, windows=windows, forms=or_default(forms), dtype=dtype
    )


def response_normalization(
    x: Float[Array, "..."],
    *,
    k: float,
    alpha: float,
    beta: float,
    windows: Windows,
    forms: Forms,
    dtype=None,
) -> Float[Array, "..."]:
    """Compute x / (k + alpha * sum of x^2 over `windows`)^beta in float32; the result has `dtype` (None: x's)."""
    how = _How(k, alpha, beta, windows, forms)
    normalize: Any = _value if forms.lrn_gradient == "derived" else _normalized
    wide = normalize(x, how)
    return wide.astype(dtype or x.dtype)


def _value(x, how: _How):
    """Return the normalized values, in float32."""
    wide = x.astype(jnp.float32)
    bracket = how.k + how.alpha * _window_sum(wide * wide, how.windows)
    return wide * _inverse_power(bracket, how)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _normalized(x, how: _How):
    return _value(x, how)


@_normalized.defjvp
def _derivative(how: _How, primals, tangents):
    [x] = primals
    apply, transpose = functools.partial(_forward, how), functools.partial(_backward, how)
    return _value(x, how), linear(apply, transpose, primals, tangents)


def _forward(how: _How, residuals, tangent):
    """Return the derivative in the direction of `tangent`."""
    wide, tangent = (array.astype(jnp.float32) for array in (*residuals, tangent))
    bracket = how.k + how.alpha * _window_sum(wide * wide, how.windows)
    inverse = _inverse_power(bracket, how)
    received = _window_sum(wide * tangent, how.windows)
    return inverse * (tangent - 2 * how.alpha * how.beta * wide * received / bracket)


def _backward(how: _How, residuals, gradient):
    [x] = residuals
    form = how.forms.lrn_gradient
    if form in ("recomputed", "ratio"):
        # The barrier makes this a new value, so that XLA does not keep the float32 bracket of the forward pass.
        x = lax.optimization_barrier(x)
    wide, gradient = x.astype(jnp.float32), gradient.astype(jnp.float32)
    bracket = how.k + how.alpha * _window_sum(wide * wide, how.windows)
    scaled = gradient * _inverse_power(bracket, how)
    ratio = scaled * wide / bracket
    if form in ("two_pass", "recomputed"):
        # The barrier writes these to memory; fused, each term of the second sum would compute the first sum again.
        parts = lax.optimization_barrier((scaled.astype(x.dtype), ratio.astype(x.dtype)))
        scaled, ratio = (part.astype(jnp.float32) for part in parts)
    if form == "ratio":
        x, ratio = lax.optimization_barrier((x, ratio.astype(x.dtype)))
        wide, ratio = x.astype(jnp.float32), ratio.astype(jnp.float32)
        bracket = how.k + how.alpha * _window_sum(wide * wide, how.windows)
        scaled = gradient * _inverse_power(bracket, how)
    # Map f receives a gradient from every map with f in its window: the same windows, mirrored.
    mirrored = tuple((axis, after, before) for axis, before, after in how.windows)
    received = _window_sum(ratio, mirrored)
    return ((scaled - 2 * how.alpha * how.beta * wide * received).astype(x.dtype),)


def _inverse_power(x, how: _How):
    """Return x^-beta; for the usual 0.75, two square roots avoid logarithm and exponential."""
    if how.beta == 0.75 and how.forms.lrn_power == "roots":
        root = lax.rsqrt(x)
        return root * lax.sqrt(root)
    return x**-how.beta


def _window_sum(x, windows: Windows):
    for axis, before, after in windows:
        padding = [(0, 0, 0)] * x.ndim
        padding[axis] = (before, after, 0)
        padded, size = lax.pad(x, jnp.zeros((), x.dtype), padding), x.shape[axis]
        shifted = [
            lax.slice_in_dim(padded, i, i + size, 1, axis) for i in range(before + after + 1)
        ]
        x = functools.reduce(jnp.add, shifted)
    return x


def lrn_constants(
    framework: str, *, size: int, alpha: float, beta: float, k: float
) -> dict[str, Any]:
    """Convert another program's numbers to arguments of `local_response_normalization`.

    `size` is the window; for "tensorflow", the depth_radius. Raises ConfigError for an unknown framework, and for a
    window that has no equivalent here.
    """
    if framework not in ALPHA_DIVISORS:
        raise ConfigError(f"lrn_constants: {framework!r} is not one of {', '.join(ALPHA_DIVISORS)}")
    n = 2 * size + 1 if framework == "tensorflow" else size
    if n % 2 == 0 and framework in ("caffe", "matconvnet"):
        # Caffe rejects even windows; MatConvNet puts the extra map after the center, the 2012 program before it.
        raise ConfigError(
            f"lrn_constants: {framework} with an even window of {n} has no equivalent here"
        )
    return dict(k=k, n=n, alpha=alpha / ALPHA_DIVISORS[framework](n), beta=beta)


#: Program -> the divisor that converts its alpha to ours, as a function of the window.
ALPHA_DIVISORS = {
    "paper": lambda n: 1,
    "cuda-convnet": lambda n: n,  # layer.py: scale /= size
    "caffe": lambda n: n,
    "torch": lambda n: n,
    "tensorflow": lambda n: 1,
    "matconvnet": lambda n: 1,
}
