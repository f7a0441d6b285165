"""The device under test, the one it is compared with, and how far results may be apart."""

import os
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

STAND_IN = os.environ.get("ALEXNET_TEST_DEVICE") == "cpu"
DEVICE = jax.devices("cpu" if STAND_IN else "gpu")[0]
HOST = jax.devices("cpu")[-1]
"""Not the same as DEVICE in either case: what lies on the wrong one is an error."""

FLOAT32 = 2e-5
"""24 bits: sums of some thousand products in another order, each rounded; by transforms (Winograd's) some more."""
TF32 = 2.0**-8
"""Factors of float32 products with 10 bits behind the point: each is off by 2^-11 of itself where it is rounded and
by 2^-10 where it is cut off, a product by at most 2^-9. In sums of both signs most of it cancels."""
BFLOAT16 = 2.0**-7
"""8 bits: input, output and, in gradients, parts of sums are each off by up to 2^-9."""


def error(found, expected) -> float:
    """The largest difference in two arrays of one shape, as a share of the largest number that is expected."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def distance(found, expected) -> float:
    """Norm of the difference of two trees of arrays, as a share of the norm that is expected."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    difference = squares = 0.0
    for one, other in pairs:
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        difference += np.sum((one - other) ** 2)
        squares += np.sum(other**2)
    return float(np.sqrt(difference / squares))


class Computed:
    """What the tests of one function compare, computed side by side: most of the time goes into compiling."""

    def __init__(self, request, compute) -> None:
        """`compute(**parameters)` for each test of the function that asks first, as far as it was selected."""
        self._pool = ThreadPoolExecutor(2 if STAND_IN else os.cpu_count())
        self._made: dict[str, Future] = {}
        for item in request.session.items:
            if item.path == request.path and "computed" in item.fixturenames:
                self._made[item.nodeid] = self._pool.submit(compute, **item.callspec.params)

    def of(self, request):
        """Of the test that makes this `request`."""
        return self._made[request.node.nodeid].result()
