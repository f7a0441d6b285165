"""Operations without weights: response normalization (§3.3), pooling (§3.4), activations (§3.1).

Normalizations and max-pool carry their own gradients: those that XLA derives take several times as
long and keep several times the memory.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from alexnet_jax.errors import ConfigError
from alexnet_jax.geometry import pool_size


def local_response_normalization(x, *, k, n, alpha, beta, towers=1):
    """§3.3: b_f = a_f / (k + alpha * sum of a_g^2 over n adjacent maps)^beta, within each tower.

    Map f's window runs from f - n//2 to f - n//2 + n - 1, clipped at the tower's ends.
    alpha is per squared term, as printed; `lrn_constants` converts other programs' numbers.
    """
    shape = x.shape
    x = x.reshape(*shape[:-1], towers, shape[-1] // towers)
    windows = ((x.ndim - 1, n // 2, n - 1 - n // 2),)
    return jnp.reshape(_response_normalization(x, k, alpha, beta, windows), shape)


def spatial_response_normalization(x, *, size, alpha, beta):
    """The 2012 program's same-map form: squares over size x size places of a map; k is 1."""
    before, after = size // 2, size - 1 - size // 2
    return _response_normalization(x, 1.0, alpha, beta, ((1, before, after), (2, before, after)))


def lrn_constants(framework, *, size, alpha, beta, k):
    """Another program's numbers as arguments of `local_response_normalization`.

    `size` is the window, but for "tensorflow" its depth_radius. Raises ConfigError for an unknown
    framework and for a window that ours cannot express.
    """
    if framework not in ALPHA_DIVISORS:
        raise ConfigError(f"lrn_constants: {framework!r} is not one of {', '.join(ALPHA_DIVISORS)}")
    n = 2 * size + 1 if framework == "tensorflow" else size
    if n % 2 == 0 and framework in ("caffe", "matconvnet"):
        # Caffe refuses even windows; MatConvNet puts the odd map above, the 2012 program below.
        raise ConfigError(
            f"lrn_constants: {framework} with an even window of {n} has no equal here"
        )
    return dict(k=k, n=n, alpha=alpha / ALPHA_DIVISORS[framework](n), beta=beta)


def max_pool(x, *, window, stride, rounding):
    """§3.4: maxima over window x window places, `stride` apart, of [b h w c].

    'ceil' keeps a last window that hangs over the border, 'floor' drops it. Every place that equals
    its window's maximum receives the full gradient, as in the 2012 program.
    """
    sizes = tuple(_pool_size(size, window, stride, rounding) for size in x.shape[1:3])
    return _max_pool(x, window, stride, sizes)


def average_pool(x, *, window, stride, rounding):
    """Means over the same windows as `max_pool`; a clipped window counts only its real places."""
    for axis in (1, 2):
        count = _pool_size(x.shape[axis], window, stride, rounding)
        places = (
            np.minimum(np.arange(count) * stride + window, x.shape[axis])
            - np.arange(count) * stride
        )
        shape = [1] * x.ndim
        shape[axis] = count
        total = functools.reduce(
            jnp.add, _windows(x.astype(jnp.float32), axis, window, stride, count, 0)
        )
        x = (total / jnp.asarray(places.reshape(shape), jnp.float32)).astype(x.dtype)
    return x


def _pool_size(size, window, stride, rounding):
    count = pool_size(size, window, stride, rounding)
    if (count - 1) * stride >= size:
        raise ConfigError(
            f"a {window}x{window} pool with stride {stride} has an empty last window on {size} "
            f"places; use rounding='floor'"
        )
    return count


def _windows(x, axis, window, stride, count, fill):
    """For each offset within a window, the elements there of all `count` windows along `axis`."""
    end = (count - 1) * stride + window
    if end > x.shape[axis]:
        padding = [(0, 0, 0)] * x.ndim
        padding[axis] = (0, end - x.shape[axis], 0)
        x = lax.pad(x, jnp.asarray(fill, x.dtype), padding)
    return [
        lax.slice_in_dim(x, offset, offset + (count - 1) * stride + 1, stride, axis)
        for offset in range(window)
    ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x, window, stride, sizes):
    for axis, count in zip((1, 2), sizes, strict=True):
        x = functools.reduce(jnp.maximum, _windows(x, axis, window, stride, count, -jnp.inf))
    return x


def _max_pool_forward(x, window, stride, sizes):
    y = _max_pool(x, window, stride, sizes)
    return y, (x, y)


def _max_pool_backward(window, stride, sizes, residuals, gradient):
    """Each place gathers the gradients of the windows whose maximum it equals.

    On CPU (conv1's pool, 3x3) 13 ms, against 149 for the select-and-scatter that XLA derives from
    reduce_window. On GPU one loop without atomic additions.
    """
    x, y = residuals
    (height, width), total = x.shape[1:3], None
    for i, rows in enumerate(_windows(x, 1, window, stride, sizes[0], -jnp.inf)):
        for j, elements in enumerate(_windows(rows, 2, window, stride, sizes[1], -jnp.inf)):
            part = jnp.where(elements == y, gradient, jnp.zeros_like(gradient))
            back = [
                _back(o, s, stride, n) for o, s, n in ((i, height, sizes[0]), (j, width, sizes[1]))
            ]
            part = lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), *back, (0, 0, 0)])
            total = part if total is None else total + part
    return (total,)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _back(offset, size, stride, count):
    """Padding that puts `count` elements, `stride` apart, back into `size` places from `offset` on."""
    return (offset, size - offset - (count - 1) * stride - 1, stride - 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _response_normalization(x, k, alpha, beta, windows) -> jax.Array:
    """x / (k + alpha * window sum of x^2)^beta; windows are (axis, places before, after)."""
    wide = x.astype(jnp.float32)
    bracket = k + alpha * _window_sum(wide * wide, windows)
    return (wide * _inverse_power(bracket, beta)).astype(x.dtype)


def _response_normalization_forward(x, k, alpha, beta, windows):
    return _response_normalization(x, k, alpha, beta, windows), x


def _response_normalization_backward(k, alpha, beta, windows, x, gradient):
    wide, gradient = x.astype(jnp.float32), gradient.astype(jnp.float32)
    bracket = k + alpha * _window_sum(wide * wide, windows)
    scaled = gradient * _inverse_power(bracket, beta)
    # x_f receives from every map whose window contains f: the same windows, mirrored.
    mirrored = tuple((axis, after, before) for axis, before, after in windows)
    received = _window_sum(scaled * wide / bracket, mirrored)
    return ((scaled - 2 * alpha * beta * wide * received).astype(x.dtype),)


_response_normalization.defvjp(_response_normalization_forward, _response_normalization_backward)


def _inverse_power(x, beta):
    """x^-beta; 0.75, which everybody uses, without logarithm and exponential."""
    if beta == 0.75:
        root = lax.rsqrt(x)
        return root * lax.sqrt(root)
    return x**-beta


def _window_sum(x, windows):
    for axis, before, after in windows:
        padding = [(0, 0, 0)] * x.ndim
        padding[axis] = (before, after, 0)
        padded, size = lax.pad(x, jnp.zeros((), x.dtype), padding), x.shape[axis]
        shifted = [
            lax.slice_in_dim(padded, i, i + size, 1, axis) for i in range(before + after + 1)
        ]
        x = functools.reduce(jnp.add, shifted)
    return x


def _scaled_tanh(x):
    """LeCun's tanh, which is 1 at 1 and -1 at -1."""
    return 1.7159 * jnp.tanh(x * (2 / 3))


def _abs_tanh(x):
    """|tanh x|, the nonlinearity of Jarrett et al. that §3.1 mentions."""
    return jnp.abs(jnp.tanh(x))


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "scaled_tanh": _scaled_tanh,
    "abs_tanh": _abs_tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
}

# What the alpha of each program is divided by to become ours, as a function of the window.
ALPHA_DIVISORS = {
    "paper": lambda n: 1,
    "cuda-convnet": lambda n: n,  # layer.py: scale /= size
    "caffe": lambda n: n,
    "torch": lambda n: n,
    "tensorflow": lambda n: 1,
    "matconvnet": lambda n: 1,
}
