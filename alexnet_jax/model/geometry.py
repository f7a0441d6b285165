"""Compute sizes, parameters, multiply-adds and receptive fields of a network from its config, without JAX."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from alexnet_jax.errors import ConfigError
from alexnet_jax.model.operations import Maps, Node, nodes
from alexnet_jax.model.operations.dense import features_of
from alexnet_jax.specs import FCSpec, ModelSpec


class Applied(NamedTuple):
    """An operation of a net, with the sizes of its inputs and outputs for one image."""

    node: Node
    inputs: Maps
    outputs: Maps


class Layer(NamedTuple):
    """A layer of a network, or the pool of a layer.

    Attributes:
        name: The name of the layer; "conv1/pool" for its pool.
        height: Side of its maps.
        channels: Number of its maps or units.
        parameters: Number of parameters; 0 for a pool.
        multiply_adds: For one image, in the forward pass; 0 for a pool.
        receptive_field: Side, in input pixels, of the patch on which an output depends.
        step: Distance, in input pixels, between the patches of neighboring outputs.
    """

    name: str
    height: int
    channels: int
    parameters: int
    multiply_adds: int
    receptive_field: int
    step: int


def walk(model: ModelSpec, input_size: int, num_classes: int) -> Iterator[Applied]:
    """Iterate over the operations of `model`, in order. The config's switches must be applied already.

    Raises ConfigError if a layer has no outputs, or if a number of groups does not divide its channels.
    """
    model, maps = dataclasses.replace(model, num_classes=num_classes), Maps(input_size, 3)
    for name, spec in model.layers:
        if isinstance(spec, FCSpec):  # its inputs are flattened, group by group
            if maps.channels % spec.groups:
                raise ConfigError(
                    f"config.model.fcs.{name}: groups={spec.groups} must divide its {maps.channels} inputs"
                )
            maps = Maps(1, maps.channels * maps.size**2)
        for node in nodes(name, spec):
            outputs = node.operation.output(node, model, maps)
            yield Applied(node, maps, outputs)
            maps = outputs


def layers(model: ModelSpec, input_size: int, num_classes: int) -> list[Layer]:
    """List the layers of `model` in order, each pool as an entry of its own. Raises ConfigError as `walk`."""
    model = dataclasses.replace(model, num_classes=num_classes)
    found, field, step = [], 1, 1
    walked = walk(model, input_size, num_classes)
    for name, group in itertools.groupby(walked, key=lambda applied: applied.node.layer):
        applied = list(group)
        parameters = sum(n.operation.parameters(n, model, inputs) for n, inputs, _ in applied)
        products = sum(n.operation.multiply_adds(n, model, inputs) for n, inputs, _ in applied)
        for node, _, (size, features) in applied:
            if window := node.operation.window(node):
                field, step = field + (window.size - 1) * step, step * window.stride
            elif isinstance(node.spec, FCSpec):
                field, step = input_size, 1
            if node.operation.is_linear:
                found.append(Layer(name, size, features, parameters, products, field, step))
            elif node.operation.has_own_line:
                found.append(Layer(node.feature, size, features, 0, 0, field, step))
    return found


class Crossing(NamedTuple):
    """The values that towers on separate devices exchange for one image at one layer (§3.2).

    Attributes:
        name: The layer that takes the maps or units of all towers, or "conv1/lrn" if LRN windows extend into the
            neighboring tower.
        forward: Number of values sent by all towers in the forward pass.
        backward: The same in the backward pass.
    """

    name: str
    forward: int
    backward: int


def is_replicated(model: ModelSpec, name: str) -> bool:
    """Whether towers on separate devices each compute all of a layer: the last one, if it joins the towers (§3.2)."""
    return any(name == last and layer.groups == 1 for last, layer in model.fcs[-1:])


def towers_of(model: ModelSpec, feature: str) -> int:
    """Return the number of towers that the maps or units of a feature, such as "conv5/act", belong to."""
    return 1 if is_replicated(model, feature.partition("/")[0]) else model.towers


def tower_of(number: Any, units: int, towers: int) -> Any:
    """Return the tower, from 0, that a map or unit of `units` belongs to; of an array of numbers, an array."""
    return number * towers // units


def is_divided(model: ModelSpec, name: str, devices: int) -> bool:
    """Whether the units of a layer are split: those of each fully-connected layer whose number `devices` divides.

    For train.split_dense; the last layer, which has one unit per class, may remain whole.
    """
    layer = dict(model.layers)[name]
    return devices > 1 and isinstance(layer, FCSpec) and features_of(layer, model) % devices == 0


def indivisible(model: ModelSpec, devices: int) -> list[str]:
    """List the hidden fully-connected layers whose units do not divide over `devices`."""
    return [name for name, layer in model.fcs if layer.features and layer.features % devices]


def crossings(model: ModelSpec, input_size: int, num_classes: int) -> list[Crossing]:
    """List where the towers of `model` communicate: in the paper at conv3, fc6, fc7 and fc8.

    In the forward pass each value is sent to the other towers. In the backward pass each tower returns its part of
    the gradient of the values that it received, except for a replicated last layer. LRN windows that extend into the
    neighboring tower need its maps next to the border, whose gradient is sent back.
    """
    found: list[Crossing] = []
    others, previous = model.towers - 1, None
    for node, inputs, outputs in walk(model, input_size, num_classes):
        if previous and node.layer != previous.node.layer and node.spec.groups == 1:
            size, maps = previous.outputs
            values = others * size**2 * maps
            backward = 0 if is_replicated(model, node.layer) else values
            found.append(Crossing(node.layer, values, backward))
        if border := sum(node.operation.border(model)):
            values = others * outputs.size**2 * border
            found.append(Crossing(node.feature, values, values))
        previous = Applied(node, inputs, outputs)
    if model.layers[-1][1].groups > 1:  # the softmax joins the towers, not the last layer
        found.append(Crossing("softmax", others * num_classes, 0))
    return found
