"""Linear maps with hand-written transposes, for custom gradients in forward and in reverse mode.

`jax.custom_vjp` does not support forward mode (jax.jvp, jax.jacfwd, jax.hessian). Here an operation is a
`jax.custom_jvp` whose tangent is `linear(apply, transpose, residuals, tangents)`: forward mode calls `apply`, reverse
mode calls `transpose`. jax.custom_derivatives.linear_call does the same, but supports neither vmap nor derivatives
with respect to the residuals.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def linear(apply: Callable, transpose: Callable, residuals: tuple, tangents: tuple) -> Any:
    """Compute apply(residuals, *tangents), an array that is linear in the tangents.

    Args:
        apply: The linear map.
        transpose: f(residuals, cotangent) -> a tuple of the cotangents of the tangents. It is not checked against
            `apply`: tests/kernels/test_linear.py compares them.
        residuals: Arrays on which the map depends.
        tangents: Arrays to which the map is applied.
    """
    leaves, tree = jax.tree.flatten(tuple(residuals))

    def apply_leaves(*operands):
        return apply(jax.tree.unflatten(tree, operands[: len(leaves)]), *operands[len(leaves) :])

    def transpose_leaves(*operands):
        *kept, cotangent = operands
        return tuple(transpose(jax.tree.unflatten(tree, kept), cotangent))

    return _linear.bind(
        *leaves, *tangents, apply=apply_leaves, transpose=transpose_leaves, count=len(leaves)
    )


_linear = Primitive("linear")


@_linear.def_impl
def _implementation(*operands, apply, transpose, count):
    return apply(*operands)


@_linear.def_abstract_eval
def _abstract(*operands, apply, transpose, count):
    [made] = jax.make_jaxpr(apply)(*operands).out_avals
    return made


def _jvp(primals, tangents, *, apply, transpose, count):
    """Apply the map to its tangents; for second derivatives, add JAX's derivative with respect to the residuals."""
    residuals, linears = primals[:count], primals[count:]
    call = functools.partial(_linear.bind, apply=apply, transpose=transpose, count=count)
    y, total = call(*primals), None
    if any(not isinstance(one, ad.Zero) for one in tangents[count:]):
        total = call(*residuals, *map(ad.instantiate_zeros, tangents[count:]))
    moved = [i for i, one in enumerate(tangents[:count]) if not isinstance(one, ad.Zero)]
    if moved:

        def apply_moved(*some):
            operands = list(residuals)
            for place, one in zip(moved, some, strict=True):
                operands[place] = one
            return apply(*operands, *linears)

        some = [residuals[i] for i in moved]
        _, part = jax.jvp(apply_moved, some, [tangents[i] for i in moved])
        total = part if total is None else total + part
    assert total is not None  # JAX skips the derivative if all tangents are zero
    return y, total


def _transpose(cotangent, *operands, apply, transpose, count):
    if isinstance(cotangent, ad.Zero):
        return [None] * len(operands)
    return [None] * count + list(transpose(*operands[:count], cotangent))


def _batch(operands, axes, *, apply, transpose, count):
    [size] = {x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None}
    linears = [
        jax.numpy.broadcast_to(x, (size, *x.shape)) if axis is None else jax.numpy.moveaxis(x, axis, 0)
        for x, axis in zip(operands[count:], axes[count:], strict=True)
    ]  # fmt: skip
    residual_axes = tuple(axes[:count])
    y = _linear.bind(
        *operands[:count],
        *linears,
        apply=jax.vmap(apply, (*residual_axes, *[0] * len(linears))),
        transpose=jax.vmap(transpose, (*residual_axes, 0)),
        count=count,
    )
    return y, 0


ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _batch
mlir.register_lowering(_linear, mlir.lower_fun(_implementation, multiple_results=False))
