"""Sizes, parameters, multiply-adds and receptive fields of a network, from its specs alone (no JAX)."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from alexnet_jax.model.operations import Maps, Node, nodes
from alexnet_jax.specs import FCSpec, ModelSpec


class Applied(NamedTuple):
    """An operation of a net, with what goes into it and comes out of it for one image."""

    node: Node
    inputs: Maps
    outputs: Maps


class Layer(NamedTuple):
    """One layer of a network, or the pool of one.

    Attributes:
        name: Of a pool "conv1/pool".
        height: Side of its maps.
        channels: Number of its maps or units.
        parameters: All of the layer.
        multiply_adds: For one image, forward.
        receptive_field: Side, in input pixels, of the patch that one output sees.
        step: Distance, in input pixels, between the patches of neighboring outputs.
    """

    name: str
    height: int
    channels: int
    parameters: int
    multiply_adds: int
    receptive_field: int
    step: int


def walk(
    model: ModelSpec, input_size: int, num_classes: int, channels: int = 3
) -> Iterator[Applied]:
    """The operations of `model`, its switches applied, in order.

    Raises ConfigError where a layer has nothing left to look at, or where groups do not divide.
    """
    model, maps = dataclasses.replace(model, num_classes=num_classes), Maps(input_size, channels)
    for name, spec in model.layers:
        if isinstance(spec, FCSpec):  # sees its inputs as one row of units
            maps = Maps(1, maps.channels * maps.size**2)
        for node in nodes(name, spec):
            outputs = node.operation.output(node, model, maps)
            yield Applied(node, maps, outputs)
            maps = outputs


def layers(model: ModelSpec, input_size: int, num_classes: int, channels: int = 3) -> list[Layer]:
    """The layers of `model` in order, each pool on a line of its own. Raises ConfigError as `walk` does."""
    model = dataclasses.replace(model, num_classes=num_classes)
    found, field, step = [], 1, 1
    walked = walk(model, input_size, num_classes, channels)
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
    """Values of one image that towers on devices of their own send each other (§3.2), in all.

    Attributes:
        name: The layer that needs the maps or units of all towers, or "conv1/lrn", whose windows cross borders.
        forward: Values sent in the forward pass.
        backward: Values sent in the backward pass.
    """

    name: str
    forward: int
    backward: int


def is_replicated(model: ModelSpec, name: str) -> bool:
    """Whether towers on devices of their own each compute all of a layer: the last, if it joins them (§3.2)."""
    return any(name == last and layer.groups == 1 for last, layer in model.fcs[-1:])


def crossings(
    model: ModelSpec, input_size: int, num_classes: int, channels: int = 3
) -> list[Crossing]:
    """Where the towers of `model`, its switches applied, meet: in the paper at conv3, fc6, fc7 and fc8.

    Forward each value goes to the other towers. Backward each tower sends its part of the gradient of their values,
    except from the last layer, which all compute. An LRN whose windows do not end with their tower needs the maps
    beside each border, and their gradient goes back.
    """
    found: list[Crossing] = []
    others, before = model.towers - 1, None
    for node, inputs, outputs in walk(model, input_size, num_classes, channels):
        if before and node.layer != before.node.layer and node.spec.groups == 1:
            size, maps = before.outputs
            values = others * size**2 * maps
            backward = 0 if is_replicated(model, node.layer) else values
            found.append(Crossing(node.layer, values, backward))
        if border := sum(node.operation.border(model)):
            values = others * outputs.size**2 * border
            found.append(Crossing(node.feature, values, values))
        before = Applied(node, inputs, outputs)
    if model.layers[-1][1].groups > 1:  # towers that meet in the softmax only
        found.append(Crossing("softmax", others * num_classes, 0))
    return found
