"""How many outputs windows have and how far they reach. Imports no JAX, so that a config is checked without it."""

import math


def conv_size(size: int, kernel: int, stride: int, pad: tuple[int, int]) -> int:
    """Outputs per side of a convolution, rounded down: the padding decides what the border sees."""
    return (size + sum(pad) - kernel) // stride + 1


def pool_size(size: int, window: int, stride: int, rounding: str) -> int:
    """Outputs per side of a pool; 'ceil' (layer.py of the 2012 release) keeps a last, clipped window."""
    if rounding == "floor":
        return (size - window) // stride + 1
    return max(math.ceil((size - window) / stride), 0) + 1


def lrn_reach(n: int) -> tuple[int, int]:
    """Maps before and after its own in a window of §3.3 over n maps; for an even n, one more before."""
    return n // 2, n - 1 - n // 2
