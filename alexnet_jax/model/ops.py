"""Operations without weights: response normalization (§3.3), pooling (§3.4), activations (§3.1).

`forms` says how they are written for the device, by default for that of the default backend.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels import elementwise, pooling
from alexnet_jax.kernels.forms import Forms, choose
from alexnet_jax.kernels.normalization import response_normalization
from alexnet_jax.model.geometry import lrn_reach, pool_size


def local_response_normalization(
    x, *, k, n, alpha, beta, towers=1, forms: Forms | None = None, dtype=None
):
    """§3.3: b_f = a_f / (k + alpha * sum of a_g^2 over n adjacent maps)^beta, within each of `towers` parts of x.

    Map f's window runs from f - n//2 to f - n//2 + n - 1 (geometry.lrn_reach), clipped at the ends of its part.
    alpha is per squared term, as printed; `lrn_constants` converts other programs' numbers.
    dtype: of the result, None for that of x; sums are float32.
    """
    shape = x.shape
    x = x.reshape(*shape[:-1], towers, shape[-1] // towers)
    windows = ((x.ndim - 1, *lrn_reach(n)),)
    y = response_normalization(
        x, k=k, alpha=alpha, beta=beta, windows=windows, forms=of_backend(forms), dtype=dtype
    )
    return y.reshape(shape)


def spatial_response_normalization(x, *, size, alpha, beta, forms: Forms | None = None, dtype=None):
    """The 2012 program's same-map form: squares over size x size places of a map; k is 1."""
    before, after = size // 2, size - 1 - size // 2
    windows = ((1, before, after), (2, before, after))
    return response_normalization(
        x, k=1.0, alpha=alpha, beta=beta, windows=windows, forms=of_backend(forms), dtype=dtype
    )


def of_backend(forms: Forms | None) -> Forms:
    """`forms`, or those for the default backend."""
    return forms or choose(jax.default_backend())


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


def max_pool(x, *, window, stride, rounding, forms: Forms | None = None, dtype=None):
    """§3.4: maxima over window x window places, `stride` apart, of [b h w c].

    'ceil' keeps a last window that hangs over the border, 'floor' drops it. Every place that equals
    its window's maximum receives the full gradient, as in the 2012 program; of bfloat16 values, which tie by
    rounding, the first does. dtype: of the maxima, None for that of x.
    """
    height, width = (_pool_size(size, window, stride, rounding) for size in x.shape[1:3])
    sizes = (height, width)
    return pooling.max_pool(
        x, window=window, stride=stride, sizes=sizes, forms=of_backend(forms), dtype=dtype
    )


def average_pool(x, *, window, stride, rounding, dtype=None):
    """Means over the same windows as `max_pool`; a clipped window counts only its real places."""
    dtype, x = dtype or x.dtype, x.astype(jnp.float32)
    for axis in (1, 2):
        count = _pool_size(x.shape[axis], window, stride, rounding)
        places = (
            np.minimum(np.arange(count) * stride + window, x.shape[axis])
            - np.arange(count) * stride
        )
        shape = [1] * x.ndim
        shape[axis] = count
        taps = pooling.windows_along(x, axis, window, stride, count, 0)
        x = functools.reduce(jnp.add, taps) / jnp.asarray(places.reshape(shape), jnp.float32)
    return x.astype(dtype)


def _pool_size(size, window, stride, rounding):
    count = pool_size(size, window, stride, rounding)
    if (count - 1) * stride >= size:
        raise ConfigError(
            f"a {window}x{window} pool with stride {stride} has an empty last window on {size} "
            f"places; use rounding='floor'"
        )
    return count


def activation(x, name: str, forms: Forms | None = None):
    """One of ACTIVATIONS (§3.1)."""
    return elementwise.relu(x, of_backend(forms)) if name == "relu" else ACTIVATIONS[name](x)


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
