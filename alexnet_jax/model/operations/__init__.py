"""The operations of layers, by name. A new one is a module here and an entry of OPERATIONS."""

import itertools
from collections.abc import Iterator

from alexnet_jax.model.operations.activation import ACTIVATIONS, Act
from alexnet_jax.model.operations.base import Call, Graph, Inversion, Maps, Node, Operation, Window
from alexnet_jax.model.operations.batch_norm import BatchNorm
from alexnet_jax.model.operations.conv import Conv
from alexnet_jax.model.operations.dense import Dense
from alexnet_jax.model.operations.dropout import Dropout
from alexnet_jax.model.operations.local import Local
from alexnet_jax.model.operations.lrn import LRN
from alexnet_jax.model.operations.pool import Pool
from alexnet_jax.model.operations.spatial_norm import SpatialNorm
from alexnet_jax.specs import ConvSpec, FCSpec, ModelSpec, Registered

__all__ = ["ACTIVATIONS", "Call", "Graph", "Inversion", "Maps", "Node", "Operation", "Window"]

#: The convolution or matrix product of a layer, by the kind of the layer.
LINEAR: dict[str, Operation] = {linear.name: linear for linear in (Conv(), Local(), Dense())}

#: What can stand in `then`, and in `before` if `on_dense`.
OPERATIONS: dict[str, Operation] = {
    operation.name: operation
    for operation in (
        Act(),
        LRN(),
        SpatialNorm(),
        Pool(),
        BatchNorm(),
        Dropout(),
    )
}


def nodes(name: str, spec: ConvSpec | FCSpec) -> list[Node]:
    """The operations of a layer in their order."""
    linear = LINEAR[spec.kind if isinstance(spec, ConvSpec) else "dense"]
    return [
        *(Node(name, spec, f"before/{key}", OPERATIONS[key]) for key in spec.pre_ops),
        Node(name, spec, "linear", linear),
        *(Node(name, spec, key, OPERATIONS[key]) for key in spec.ops),
    ]


def all_nodes(model: ModelSpec) -> Iterator[Node]:
    """The operations of a net in their order."""
    for name, spec in model.layers:
        yield from nodes(name, spec)


def names(registered: Registered) -> tuple[str, ...]:
    """The names that a key of a config may have."""
    return {
        "activation": tuple(ACTIVATIONS),
        "operation": tuple(OPERATIONS),
        "dense operation": tuple(name for name, one in OPERATIONS.items() if one.on_dense),
    }[registered]


def faults(model: ModelSpec) -> Iterator[str]:
    """What is wrong with the operations of a config, each fault once."""
    for name, spec in model.layers:
        for node in {node.operation: node for node in nodes(name, spec)}.values():
            yield from node.operation.faults(node, model)


def sharding_faults(model: ModelSpec) -> Iterator[str]:
    """Why operations forbid towers on devices of their own, each reason once."""
    found = (node.operation.sharding_faults(node, model) for node in all_nodes(model))
    yield from dict.fromkeys(itertools.chain.from_iterable(found))
