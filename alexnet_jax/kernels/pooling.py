"""Max pooling of [b h w c], with its gradient in several forms (Forms.pool), and average pooling.

Every element that equals the maximum of its window receives the full gradient of the window, as in the 2012 program.
bfloat16 values are often equal by rounding, which would inflate gradients (LRN and pool of conv1: 8 % of the norm). So
a normalization before the pool returns unrounded float32, and the pool rounds its maxima (`dtype`); if the inputs are
bfloat16, only the first of equal elements receives the gradient.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels.forms import Forms, or_default
from alexnet_jax.kernels.linear import linear
from alexnet_jax.kernels.windows import pool_size


class _How(NamedTuple):
    window: int
    stride: int
    sizes: tuple[int, int]
    shape: tuple[int, ...]
    #: Whether only the first of several equal maxima counts.
    first: bool
    forms: Forms


def max_pool(
    x: Float[Array, "b h w c"],
    *,
    window: int,
    stride: int,
    rounding: str,
    forms: Forms | None = None,
    dtype=None,
) -> Float[Array, "b oh ow c"]:
    """Max pooling (§3.4) over window x window elements, with results of type `dtype` (None: that of `x`).

    Args:
        rounding: 'ceil' keeps a last window that extends over the border, 'floor' drops it.
    """
    forms = or_default(forms)
    height, width = (_outputs(size, window, stride, rounding) for size in x.shape[1:3])
    sizes = (height, width)
    dtype, form = jnp.dtype(dtype or x.dtype), forms.pool
    narrow = jnp.finfo(dtype).bits < 32
    how = _How(window, stride, sizes, x.shape, jnp.finfo(x.dtype).bits < 32, forms)
    if form in ("compared", "separable") and narrow:
        form = "parity"
    y: Any
    if form == "reduce_window":
        y = _reduce_window(x, how)
    elif form == "derived":
        y = _shifted_maxima(x, how)
    elif form in ("compared", "separable"):
        y = _compared(x, how)
    else:
        gather = {"parity": _by_parity, "repeat": _by_repeating}[form]
        y = _marked(x, how, gather, dtype)
    return y.astype(dtype)


def average_pool(
    x: Float[Array, "b h w c"], *, window: int, stride: int, rounding: str, dtype=None
) -> Float[Array, "b oh ow c"]:
    """Average pooling over the windows of `max_pool`; the mean of a clipped window is over its elements only."""
    dtype, x = dtype or x.dtype, x.astype(jnp.float32)
    for axis in (1, 2):
        count = _outputs(x.shape[axis], window, stride, rounding)
        starts = np.arange(count) * stride
        lengths = np.minimum(starts + window, x.shape[axis]) - starts
        shape = [1] * x.ndim
        shape[axis] = count
        taps = windows_along(x, axis, window, stride, count, 0)
        x = functools.reduce(jnp.add, taps) / jnp.asarray(lengths.reshape(shape), jnp.float32)
    return x.astype(dtype)


def _outputs(size: int, window: int, stride: int, rounding: str) -> int:
    count = pool_size(size, window, stride, rounding)
    if (count - 1) * stride >= size:
        raise ConfigError(
            f"a {window}x{window} pool with stride {stride} has an empty last window on maps of side {size}; "
            "use rounding='floor'"
        )
    return count


def windows_along(
    x: Float[Array, "..."], axis: int, window: int, stride: int, count: int, fill: float
) -> list[Float[Array, "..."]]:
    """List, for each offset within a window, the elements at that offset of all `count` windows along `axis`."""
    size, taps = x.shape[axis], []
    for offset in range(window):
        inside = min(count, len(range(offset, size, stride)))
        start, end = min(offset, size), min(offset + inside * stride, size)
        tap = lax.slice_in_dim(x, start, end, stride, axis)
        if inside < count:  # padding x before would copy all of it
            padding = [(0, 0, 0)] * x.ndim
            padding[axis] = (0, count - inside, 0)
            tap = lax.pad(tap, jnp.asarray(fill, x.dtype), padding)
        taps.append(tap)
    return taps


def _taps(x, how: _How, fill=-jnp.inf):
    """Yield, for each offset within a window, row by row, the elements at that offset of all windows: [b *sizes c]."""
    for rows in windows_along(x, 1, how.window, how.stride, how.sizes[0], fill):
        yield from windows_along(rows, 2, how.window, how.stride, how.sizes[1], fill)


def _shifted_maxima(x, how: _How):
    return _maxima_along(_maxima_along(x, 1, how), 2, how)


def _maxima_along(x, axis: int, how: _How):
    taps = windows_along(x, axis, how.window, how.stride, how.sizes[axis - 1], -jnp.inf)
    return functools.reduce(jnp.maximum, taps)


def _reduce_window(x, how: _How):
    hanging = [
        (count - 1) * how.stride + how.window - size
        for count, size in zip(how.sizes, x.shape[1:3], strict=True)
    ]
    x = x[:, : x.shape[1] + min(hanging[0], 0), : x.shape[2] + min(hanging[1], 0)]
    padding = [(0, 0), *((0, max(high, 0)) for high in hanging), (0, 0)]
    sides, steps = (1, how.window, how.window, 1), (1, how.stride, how.stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, sides, steps, padding)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _compared(x, how: _How):
    return _shifted_maxima(x, how)


@_compared.defjvp
def _compared_derivative(how: _How, primals, tangents):
    [x] = primals
    y = _shifted_maxima(x, how)
    apply = functools.partial(_compared_forward, how)
    backward = _separable_backward if how.forms.pool == "separable" else _compared_backward
    return y, linear(apply, functools.partial(backward, how), (x, y), tangents)


def _compared_forward(how: _How, residuals, tangent):
    """Sum, in each window, the tangents of the elements that equal its maximum."""
    x, y = residuals
    pairs = zip(_taps(x, how), _taps(tangent, how, 0), strict=True)
    return sum(jnp.where(place == y, part, jnp.zeros_like(part)) for place, part in pairs)


def _compared_backward(how: _How, residuals, gradient):
    """Sum, for each element, the gradients of the windows of which it is the maximum.

    On CPU this takes 13 ms for conv1's 3x3 pool, and the select-and-scatter that XLA derives from reduce_window 149.
    On GPU it is one loop without atomic additions.
    """
    x, y = residuals
    (height, width), total = x.shape[1:3], None
    for number, elements in enumerate(_taps(x, how)):
        part = jnp.where(elements == y, gradient, jnp.zeros_like(gradient))
        back = [
            _back(offset, size, how.stride, count)
            for offset, size, count in zip(
                divmod(number, how.window), (height, width), how.sizes, strict=True
            )
        ]
        part = lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), *back, (0, 0, 0)])
        total = part if total is None else total + part
    return (total,)


def _separable_backward(how: _How, residuals, gradient):
    """Compute the same sums as `_compared_backward`, first along the width, then along the height.

    An element is the maximum of a window if it is the maximum of its column in the window, and that is the maximum of
    the window. So there are 2 x 3 comparisons for a 3x3 window instead of 9, most of them over fewer elements.
    """
    x, y = residuals
    maxima = _maxima_along(x, 1, how)  # of each column of a window
    return (_spread(x, maxima, _gather(maxima, y, gradient, how), how),)


def _gather(x, y, gradient, how: _How):
    """Sum, for each element, the gradients of the windows along the width of which it is the maximum.

    The elements at the same position modulo the stride belong to windows at the same distances.
    """
    size = x.shape[2]
    length, parts = math.ceil(size / how.stride), []
    for first in range(how.stride):
        elements = lax.slice_in_dim(x, min(first, size), size, how.stride, 2)
        total = jnp.zeros_like(elements)
        for offset in range(first, how.window, how.stride):
            before = offset // how.stride
            after = elements.shape[2] - y.shape[2] - before
            padding = [(0, 0, 0), (0, 0, 0), (before, after, 0), (0, 0, 0)]
            maxima = lax.pad(y, jnp.asarray(jnp.inf, y.dtype), padding)
            part = lax.pad(gradient, jnp.zeros((), gradient.dtype), padding)
            total += jnp.where(elements == maxima, part, jnp.zeros_like(part))
        missing = length - elements.shape[2]
        parts.append(jnp.pad(total, ((0, 0), (0, 0), (0, missing), (0, 0))))
    joined = jnp.stack(parts, axis=3)
    b, height, _, _, c = joined.shape
    return joined.reshape(b, height, length * how.stride, c)[:, :, :size]


def _spread(x, y, gradient, how: _How):
    """Sum, for each element, the gradients of the windows along the height of which it is the maximum."""
    height, total = x.shape[1], None
    taps = windows_along(x, 1, how.window, how.stride, how.sizes[0], -jnp.inf)
    for offset, elements in enumerate(taps):
        part = jnp.where(elements == y, gradient, jnp.zeros_like(gradient))
        back = _back(offset, height, how.stride, how.sizes[0])
        part = lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), back, (0, 0, 0), (0, 0, 0)])
        total = part if total is None else total + part
    return total


def _back(offset, size, stride, count):
    """Return the padding that spreads `count` elements `stride` apart over `size` elements, from `offset` on."""
    return (offset, size - offset - (count - 1) * stride - 1, stride - 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _marked(x, how: _How, gather, dtype):
    return _shifted_maxima(x, how)


@_marked.defjvp
def _marked_derivative(how: _How, gather, dtype, primals, tangents):
    [x] = primals
    y, residuals = _marks(x, how, dtype)
    apply = functools.partial(_marked_forward, how)
    transpose = functools.partial(_marked_backward, how, gather, dtype)
    return y, linear(apply, transpose, residuals, tangents)


def _marks(x, how: _How, dtype):
    """Return the maxima, and for each window an integer with a bit for each element that equals the maximum."""
    if x.dtype != dtype:  # without a barrier, each tap would compute the unrounded value again
        x = how.forms.barrier(x)
    bits = np.uint8 if how.window**2 <= 8 else np.uint16 if how.window**2 <= 16 else np.uint32
    if how.window**2 > 32:
        raise ValueError(f"windows of {how.window}x{how.window} have more than 32 elements")
    best: Any = None
    marks: Any = None
    for number, tap in enumerate(_taps(x, how)):
        bit = jnp.full(tap.shape, 1 << number, bits)
        if best is None:
            best, marks = tap, bit
            continue
        tied = marks if how.first else marks | bit
        marks = jnp.where(tap > best, bit, jnp.where(tap == best, tied, marks))
        best = jnp.maximum(best, tap)
    # The empty array records the type of x, which is also that of the gradient.
    return best, (marks, jnp.zeros((0,), x.dtype))


def _marked_forward(how: _How, residuals, tangent):
    """Sum, in each window, the tangents of the marked elements."""
    marks, _ = residuals
    total = 0
    for number, part in enumerate(_taps(tangent, how, 0)):
        bit = marks.dtype.type(1 << number)
        total += jnp.where(marks & bit != 0, part, jnp.zeros_like(part))
    return total


def _marked_backward(how: _How, gather, dtype, residuals, gradient):
    marks, like = residuals
    # The sums have few terms, so they are in the compute type, which halves the bytes in bfloat16.
    total = how.forms.barrier(gather(marks, gradient.astype(dtype), how))
    return (total.astype(like.dtype),)


def _by_parity(marks, gradient, how: _How):
    """Gather the gradient separately for elements with equal position modulo the stride, which share window offsets."""
    rows = [
        jnp.stack([_gather_at(marks, gradient, how, i, j) for j in range(how.stride)], axis=3)
        for i in range(how.stride)
    ]
    total = jnp.stack(rows, axis=2)  # [b h/s s w/s s c]
    b, h, s, w, _, c = total.shape
    height, width = how.shape[1:3]
    return total.reshape(b, h * s, w * s, c)[:, :height, :width]


def _gather_at(marks, gradient, how: _How, i: int, j: int):
    """Gather the gradient [b h/s w/s c] of the elements at positions i, j modulo the stride."""
    outputs = [math.ceil(size / how.stride) for size in how.shape[1:3]]
    total = jnp.zeros((marks.shape[0], *outputs, marks.shape[3]), gradient.dtype)
    for row in range(i, how.window, how.stride):
        for column in range(j, how.window, how.stride):
            bit = marks.dtype.type(1 << (row * how.window + column))
            part = jnp.where(marks & bit != 0, gradient, jnp.zeros_like(gradient))
            shifts = [
                (offset // how.stride, size - count - offset // how.stride, 0)
                for offset, size, count in zip((row, column), outputs, how.sizes, strict=True)
            ]
            zero = jnp.zeros((), part.dtype)
            total += lax.pad(part, zero, [(0, 0, 0), *shifts, (0, 0, 0)])
    return total


def _by_repeating(marks, gradient, how: _How):
    """Repeat the marks and gradient of each window `stride` times, and add those of the windows over each element."""
    (height, width), reach = how.shape[1:3], math.ceil(how.window / how.stride)
    rows, columns = np.arange(height) % how.stride, np.arange(width) % how.stride
    total = None
    for down in range(reach):
        for right in range(reach):
            row, column = rows + how.stride * down, columns + how.stride * right
            inside = (row < how.window)[:, None] & (column < how.window)
            number = row[:, None] * how.window + column
            bit = np.where(inside, 1 << number, 0).astype(marks.dtype)[..., None]
            is_marked = _repeated(marks, how, down, right) & bit != 0
            part = _repeated(gradient, how, down, right)
            part = jnp.where(is_marked, part, jnp.zeros_like(part))
            total = part if total is None else total + part
    return total


def _repeated(x, how: _How, down: int, right: int):
    """Return, for each element, the value of the window `down` rows and `right` columns before its own: [b h w c]."""
    for axis, shift in ((1, down), (2, right)):
        size = how.shape[axis]
        padding = [(0, 0, 0)] * 4
        padding[axis] = (shift, math.ceil(size / how.stride) - x.shape[axis] - shift, 0)
        x = lax.pad(x, jnp.zeros((), x.dtype), padding)
        x = lax.slice_in_dim(jnp.repeat(x, how.stride, axis), 0, size, axis=axis)
    return x
