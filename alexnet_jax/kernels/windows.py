"""Output sizes of convolutions and pools, and the extent of LRN windows.

Imports no JAX, so that a config can be checked without it.
"""

import math


def conv_size(size: int, kernel: int, stride: int, pad: tuple[int, int]) -> int:
    """Return the outputs per side of a convolution, without a last window that does not fit."""
    return (size + sum(pad) - kernel) // stride + 1


def pool_size(size: int, window: int, stride: int, rounding: str) -> int:
    """Return the outputs per side of a pool; 'ceil' (layer.py of the 2012 release) keeps a clipped last window."""
    if rounding == "floor":
        return (size - window) // stride + 1
    return max(math.ceil((size - window) / stride), 0) + 1


def lrn_reach(n: int) -> tuple[int, int]:
    """Return how many maps (§3.3) or positions a normalization window of n has before and after its center.

    For an even n there is one more before than after.
    """
    return n // 2, n - 1 - n // 2
