"""The published AlexNets, and which of them fit what is in a weights file.

Shapes, the names of PyTorch's modules (which count the operations between the layers) and the order of Caffe's layers
leave no doubt. Biases are a likelihood only: training moves their means little from where they begin (0, 0.1 or 1), and
that of the last layer not at all without weight decay, because the gradients of the softmax add up to zero.
"""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.interop import torchvision
from alexnet_jax.interop.contents import Contents
from alexnet_jax.model import geometry
from alexnet_jax.specs import Config, ConvSpec

#: Config -> the published net.
NETS = {
    "paper": "the net of the paper",
    "krizhevsky2012": "the net of the authors' 2012 program",
    "krizhevsky2012:conv6": "the authors' net with a sixth convolution",
    "caffe:alexnet": "Caffe's bvlc_alexnet",
    "caffe:caffenet": "Caffe's CaffeNet (bvlc_reference_caffenet)",
    "torchvision": "torchvision's alexnet",
    "cuda_convnet2": 'the one-GPU net of cuda-convnet2 ("One weird trick")',
}
#: Of the name field of .caffemodel files.
CAFFE_NAMES = {"AlexNet": "caffe:alexnet", "CaffeNet": "caffe:caffenet"}
#: Largest mean distance of the biases of a net from where they begin, and the margin to the next net.
BIAS_LIMIT, BIAS_MARGIN = 0.3, 0.15

Specs = dict[str, Config]
#: A test of a config by its name, and the evidence that it stands for.
Rule = tuple[Callable[[str], bool], str]


class Layer(NamedTuple):
    name: str
    #: [out in/groups kh kw] or [out in].
    weight: np.ndarray
    bias: np.ndarray | None

    def __str__(self) -> str:
        return f"{self.name} {'x'.join(map(str, self.weight.shape))}"


class Fits(NamedTuple):
    """The configs that fit a file, by name."""

    #: Those that nothing in the file contradicts.
    possible: Specs
    #: Of these, those that statistics and conventions leave.
    likely: Specs
    #: Whether the file shows which operations come after which, and not only weights.
    shows_order: bool
    evidence: tuple[str, ...]


def fits(contents: Contents, layers: list[Layer]) -> Fits:
    """Find the published nets that fit a file, whose layers are `layers_of` its tensors."""
    possible = {name: spec for name, spec in _specs().items() if _has_shapes(spec, layers)}
    evidence = [f"the shapes of {len(layers)} layers with weights"] if possible else []
    orders = [rule(contents, possible) for rule in (_by_operations, _by_names)]
    for rule in (_by_program(contents), *orders):
        possible = _narrowed(possible, rule, evidence)
    likely = possible
    if possible:
        for rule in (_by_input, _by_net_name, functools.partial(_by_biases, layers)):
            likely = _narrowed(likely, rule(contents, likely), evidence)
    return Fits(possible, likely, any(orders), tuple(evidence))


def layers_of(tensors: dict[str, np.ndarray]) -> list[Layer]:
    """The layers with weights, convolutions first, in the order of the numbers in their names.

    Kernels [kh kw in out] and [in out], as of Flax and TensorFlow, are turned to [out in kh kw] and [out in].
    """
    names = sorted((n for n, a in tensors.items() if a.ndim in (2, 4)), key=_natural)
    names.sort(key=lambda name: -tensors[name].ndim)
    biases = {_stem(name): array for name, array in tensors.items() if array.ndim == 1}
    first = tensors[names[0]].shape if names else ()
    is_last = len(first) == 4 and first[1] != 3 and first[2] == 3  # where the colors are
    found = []
    for name in names:
        weight = tensors[name]
        if is_last:
            weight = weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight.T
        bias = biases.get(_stem(name))
        found.append(Layer(_stem(name) or name, weight, bias))
    return found


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts conv10 after conv9."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def _stem(name: str) -> str:
    """The name of a layer from that of its weight or bias."""
    stem = re.sub(r"[./_]?(weights?|kernel|bias(es)?|[wWbB])(:0)?$", "", name)
    return stem.removeprefix("params/")


@functools.cache
def _specs() -> Specs:
    return {name: configs.parse(configs.load(name, []), needs_images=False) for name in NETS}


def _has_shapes(spec: Config, layers: list[Layer]) -> bool:
    """Whether the weights have the shapes of a config, whatever the number of classes."""
    found = [layer.weight.shape for layer in layers]
    classes = found[-1][0] if found else 0
    expected = []
    for node, inputs, outputs in geometry.walk(spec.model, spec.augment.crop_size, max(classes, 2)):
        if node.operation.is_linear:
            is_conv = isinstance(node.spec, ConvSpec)
            sides = (node.spec.kernel,) * 2 if is_conv else ()
            expected.append((outputs.channels, inputs.channels // node.spec.groups, *sides))
    return found == expected


def _narrowed(fits: Specs, rule: Rule | None, evidence: list[str]) -> Specs:
    """The configs that pass the test of a rule; what excludes some is added to the evidence."""
    if rule is None:
        return fits
    passed = {name: spec for name, spec in fits.items() if rule[0](name)}
    if len(passed) < len(fits):
        evidence.append(rule[1])
    return passed


def _by_program(contents: Contents) -> Rule | None:
    if contents.format != "caffe":
        return None
    return lambda name: name.startswith("caffe:"), "it is a file of Caffe"


def _by_operations(contents: Contents, fits: Specs) -> Rule | None:
    """The order of Caffe's layers, matched by position: a fine-tuned layer has another name."""
    order = contents.net.operations() if contents.net else {}
    if not order:
        return None
    shown = "; ".join(f"{name}: {', '.join(ops)}" for name, ops in list(order.items())[:2])
    orders = {name: [layer.ops for _, layer in spec.model.layers] for name, spec in fits.items()}
    return lambda name: orders[name] == list(order.values()), f"its order of layers ({shown})"


def _by_names(contents: Contents, fits: Specs) -> Rule | None:
    """The names of PyTorch's modules count the operations between the layers."""
    found = contents.tensors.keys() - {"mean_image"}
    same = {n for n, s in fits.items() if found == set(torchvision.tensor_names(s.model).values())}
    if not same:
        return None
    return same.__contains__, "the names count the modules between the layers"


def _by_input(contents: Contents, fits: Specs) -> Rule | None:
    """The metadata of an alexnet export that has no configuration, of an earlier version."""
    try:
        found = files.parse_json(contents.metadata["input"], dict[str, object])
    except (KeyError, ValueError):
        return None
    same = {
        name
        for name, spec in fits.items()
        if all(getattr(spec.augment, key, None) == value for key, value in found.items())
    }
    return (same.__contains__, "its metadata describe the input") if same else None


def _by_net_name(contents: Contents, fits: Specs) -> Rule | None:
    config = CAFFE_NAMES.get(contents.net.name) if contents.net else None
    if config not in fits or contents.net is None:
        return None
    return config.__eq__, f"the net is named {contents.net.name}"


def _by_biases(layers: list[Layer], contents: Contents, fits: Specs) -> Rule | None:
    """The means of the biases, which training moves little from where they begin."""
    if any(layer.bias is None for layer in layers):
        return None
    means = np.array([np.mean(layer.bias) for layer in layers if layer.bias is not None])
    begun = {name: [layer.bias for _, layer in spec.model.layers] for name, spec in fits.items()}
    distances = {name: float(np.abs(means - begun[name]).mean()) for name in fits}
    nearest = min(distances, key=lambda name: distances[name])
    if not distances[nearest] <= BIAS_LIMIT:  # nor NaN
        return None
    limit = distances[nearest] + BIAS_MARGIN
    text = ", ".join(f"{mean:.2g}" for mean in means)
    start = ", ".join(f"{bias:g}" for bias in begun[nearest])
    return (
        lambda name: distances[name] <= limit,
        f"the means of its biases, {text}, are near {start}, where those of {nearest} begin",
    )
