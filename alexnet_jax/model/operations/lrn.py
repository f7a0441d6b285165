"""Local response normalization (§3.3)."""

from __future__ import annotations

import functools

from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels.windows import lrn_reach
from alexnet_jax.model.operations.base import Operation


class LRN(Operation):
    """Divides each value by a power of the sum of squares over adjacent maps."""

    name = "lrn"
    keeps_float32 = True

    def apply(self, layer, x, call):
        from alexnet_jax.kernels import normalization

        c = layer.model.lrn_constants
        normalize = functools.partial(
            normalization.local_response_normalization, k=c.k, n=c.n, alpha=c.alpha, beta=c.beta,
            forms=layer.forms, dtype=call.dtype,
        )  # fmt: skip
        if c.within_towers:
            return normalize(x, towers=call.towers)
        return layer.sharding.with_neighbors(normalize, x, *lrn_reach(c.n))

    def mixes_groups(self, model):
        return not model.lrn_constants.within_towers

    def border(self, model):
        constants = model.lrn_constants
        return (0, 0) if constants.within_towers else lrn_reach(constants.n)

    def describe(self, node, model):
        across = model.towers > 1 and not model.lrn_constants.within_towers
        return "lrn over all maps" if across else "lrn"

    def faults(self, node, model):
        if node.spec.features % model.towers:
            yield f"{node.path}.features={node.spec.features} is not divisible by {model.towers} towers"

    def sharding_faults(self, node, model):
        maps, reach = node.spec.features // model.towers, max(self.border(model))
        if model.lrn and maps < reach:
            yield (
                f"layer {node.layer} has {maps} maps per tower, but the windows of its 'lrn' extend {reach} maps "
                "into the next tower"
            )

    def to_onnx(self, graph, node, x):
        """Add one LRN node, or one per tower. ONNX divides alpha by the window size."""
        c, model, name = graph.model.lrn_constants, graph.model, node.feature
        if c.n % 2 == 0:
            raise ConfigError(f"config.model.lrn_constants.n={c.n}: ONNX supports odd windows only")
        constants = dict(size=c.n, alpha=c.alpha * c.n, beta=c.beta, bias=c.k)
        if model.towers == 1 or not c.within_towers:
            return graph.add(name, "LRN", x, **constants)
        parts = [f"{name}/tower{i}" for i in range(model.towers)]
        graph.add_node(parts, "Split", [x], axis=1)
        parts = [graph.add(f"{part}/lrn", "LRN", part, **constants) for part in parts]
        return graph.add(name, "Concat", *parts, axis=1)

    def to_torch(self, node, model, inputs):
        """PyTorch divides alpha by the window size."""
        c = model.lrn_constants
        constants = f"{c.n}, alpha={c.alpha * c.n:.9g}, beta={c.beta}, k={c.k}"
        if model.towers == 1 or not c.within_towers:
            return {node.module: f"nn.LocalResponseNorm({constants})"}
        return {node.module: f"TowerNorm({constants}, towers={model.towers})"}
