"""The ablation switches `model.lrn` and `model.overlapping_pooling`, applied to the layers."""

import dataclasses

from alexnet_jax.errors import ConfigError
from alexnet_jax.specs import ConvSpec, ModelSpec


def apply(model: ModelSpec) -> ModelSpec:
    """Apply the switches that are off to the layers. Raises ConfigError if one of them changes nothing."""
    convs = model.convs
    if not model.lrn:  # experiment #148 removed every response normalization
        convs = tuple((name, _without_response_norm(layer)) for name, layer in convs)
        if convs == model.convs:
            raise ConfigError("config.model.lrn=False changes nothing: no layer has 'lrn'")
    if not model.overlapping_pooling:
        overlapping = convs
        convs = tuple(
            (name, _without_overlap(layer, first=i == 0)) for i, (name, layer) in enumerate(convs)
        )
        if convs == overlapping:
            raise ConfigError(
                "config.model.overlapping_pooling=False changes nothing: no pool overlaps"
            )
    return dataclasses.replace(model, convs=convs)


def _without_response_norm(layer: ConvSpec) -> ConvSpec:
    kept = tuple(op for op in layer.ops if op not in ("lrn", "spatial_norm"))
    return dataclasses.replace(layer, ops=kept)


def _without_overlap(layer: ConvSpec, *, first: bool) -> ConvSpec:
    """Set the window to the stride; later layers lose a pixel of padding to keep their size (experiment #147)."""
    if layer.pool is None or layer.pool.window <= layer.pool.stride:
        return layer
    pad = layer.pad if first else (max(layer.pad[0] - 1, 0), max(layer.pad[1] - 1, 0))
    pool = dataclasses.replace(layer.pool, window=layer.pool.stride)
    return dataclasses.replace(layer, pad=pad, pool=pool)
