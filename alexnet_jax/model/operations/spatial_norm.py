"""Response normalization over neighboring positions of the same feature map, from the 2012 program."""

from __future__ import annotations

from alexnet_jax.kernels.windows import lrn_reach
from alexnet_jax.model.operations.base import Operation


class SpatialNorm(Operation):
    """x / (1 + alpha * sum of x^2 over size x size positions)^beta."""

    name = "spatial_norm"
    keeps_float32 = True

    def apply(self, layer, x, call):
        from alexnet_jax.kernels import normalization

        s = layer.model.spatial_norm
        return normalization.spatial_response_normalization(
            x, size=s.size, alpha=s.alpha, beta=s.beta, forms=layer.forms, dtype=call.dtype
        )

    def to_onnx(self, graph, node, x):
        """Add the operation to an ONNX graph; AveragePool, counting the padding, computes the sum divided by size^2."""
        norm, name = graph.model.spatial_norm, node.feature
        before, after = lrn_reach(norm.size)
        squares = graph.add(f"{name}/squares", "Mul", x, x)
        means = graph.add(f"{name}/means", "AveragePool", squares, kernel_shape=[norm.size] * 2,
                          pads=[before, before, after, after], count_include_pad=1)  # fmt: skip
        alpha = graph.constant(f"{name}/alpha", norm.alpha * norm.size**2)
        sums = graph.add(f"{name}/sums", "Mul", means, alpha)
        bracket = graph.add(f"{name}/bracket", "Add", sums, graph.constant(f"{name}/one", 1))
        beta = graph.constant(f"{name}/beta", norm.beta)
        power = graph.add(f"{name}/power", "Pow", bracket, beta)
        return graph.add(name, "Div", x, power)

    def to_torch(self, node, model, inputs):
        s = model.spatial_norm
        return {node.module: f"SpatialNorm({s.size}, alpha={s.alpha}, beta={s.beta})"}
