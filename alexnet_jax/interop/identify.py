"""Identify which published AlexNet a weights file has, and how its inputs are prepared.

What the net is follows from its weights (alexnet_jax/interop/variants.py). How its inputs are prepared follows from
metadata or by convention only. In particular, nothing in the weights tells RGB from BGR: natural images have nearly the
same distribution of colors with red and blue exchanged.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from alexnet_jax.inference import trained
from alexnet_jax.interop import caffe, torchvision, variants
from alexnet_jax.interop.contents import Contents
from alexnet_jax.interop.variants import NETS, Fits, Layer
from alexnet_jax.specs import Config

#: certain: the file says it, or nothing else fits; likely: by statistics or convention; undecided: several fit.
Confidence = Literal["certain", "likely", "undecided"]

DECIDED_BY = {
    "net": "what defines the net (its prototxt or code); or the errors on some hundred labeled images, imported with "
    "each --config",
    "lrn": "what defines the net, as LRN has no weights",
    "channels": "the predictions for a few images of known classes, with red and blue exchanged and not",
    "input": "the code that prepared the training images; or the errors on some hundred labeled images",
}


class Claim(NamedTuple):
    value: str
    confidence: Confidence
    evidence: tuple[str, ...] = ()
    #: What would settle it; "" if it is certain.
    decided_by: str = ""


class Identification(NamedTuple):
    net: Claim
    #: Response normalization.
    lrn: Claim
    #: Order of the channels that conv1 of the file expects; an imported net expects RGB in any case.
    channels: Claim
    #: How pixels become the input.
    input: Claim
    #: The configs that fit, of NETS; none for an unknown net and for one whose configuration is in the file.
    candidates: tuple[str, ...]
    #: Arguments that make a config fit, such as --config.model.num_classes=10.
    overrides: tuple[str, ...]
    classes: int | None
    #: Whether the file holds a configuration of alexnet_jax.
    has_config: bool = False

    @property
    def config(self) -> str | None:
        """The config to import with; None unless it is certain."""
        is_sure = self.net.confidence == "certain" and self.lrn.confidence != "undecided"
        return self.candidates[0] if is_sure and self.candidates else None

    @property
    def claims(self) -> dict[str, Claim]:
        return {name: getattr(self, name) for name in ("net", "lrn", "channels", "input")}


def identify(contents: Contents) -> Identification:
    """Identify the net of a weights file. Raises CheckpointError for damaged metadata of our own files."""
    if {"config", "class_names", "step"} <= contents.metadata.keys():
        return _of_metadata(contents)
    layers = variants.layers_of(contents.tensors)
    fits = variants.fits(contents, layers)
    if not fits.possible:
        return _unknown(layers, fits.evidence)
    classes = len(layers[-1].weight)
    return Identification(
        net=_claim("net", fits, lambda name: NETS[name], fits.evidence, fits.shows_order),
        lrn=_lrn(contents, fits),
        channels=_channels(contents, fits, layers),
        input=_input(contents, fits),
        candidates=tuple(fits.likely),
        overrides=_overrides(contents, next(iter(fits.likely.values())), classes),
        classes=classes,
    )


def _claim(
    topic: str,
    fits: Fits,
    value: Callable[[str], str],
    evidence: tuple[str, ...] = (),
    is_shown: bool = False,
) -> Claim:
    """The value on which the configs agree: the likely ones, or, for certainty, all possible ones.

    Args:
        value: Of a config, by its name.
        is_shown: Whether the file can show it with certainty.
    """
    remaining = list(dict.fromkeys(map(value, fits.likely)))
    if len(remaining) > 1:
        return Claim(" or ".join(remaining), "undecided", evidence, DECIDED_BY[topic])
    if is_shown and len(set(map(value, fits.possible))) == 1:
        return Claim(remaining[0], "certain", evidence)
    return Claim(remaining[0], "likely", evidence, DECIDED_BY[topic])


def _lrn(contents: Contents, fits: Fits) -> Claim:
    found = _caffe_lrn(contents)
    lrn = _certain_lrn(contents)
    if not found:
        is_shown = fits.shows_order and contents.net is None
        evidence = () if is_shown else ("by convention: the file does not state it",)
        return _claim("lrn", fits, lambda name: _lrn_text(fits.possible[name]), evidence, is_shown)
    if lrn is None:
        said = "; ".join(map(str, found))
        return Claim("not one that a config here can have", "undecided", (said,), DECIDED_BY["lrn"])
    n, alpha, beta, _, k = lrn
    text = _constants(k, n, alpha / n, beta, "all maps")
    return Claim(text, "certain", ("lrn_param in the file",))


def _caffe_lrn(contents: Contents) -> list[caffe.LRNParameter]:
    """The settings of the LRN layers of a .caffemodel, each once; none if the file has none."""
    layers = contents.net.layers if contents.net else []
    return list(dict.fromkeys(layer.lrn for layer in layers if layer.lrn))


def _certain_lrn(contents: Contents) -> caffe.LRNParameter | None:
    """The settings of all LRN layers of a .caffemodel; None if it has none, or some that no config here can have."""
    found = _caffe_lrn(contents)
    return found[0] if len(found) == 1 and found[0].is_across_maps else None


def _lrn_text(spec: Config) -> str:
    if not any("lrn" in layer.ops for _, layer in spec.model.convs):
        return "none"
    c = spec.model.lrn_constants
    is_within = c.within_towers and spec.model.towers > 1
    text = _constants(c.k, c.n, c.alpha, c.beta, "the maps of a tower" if is_within else "all maps")
    if any("spatial_norm" in layer.ops for _, layer in spec.model.convs):
        text += ", and the 2012 program's normalization of each map over 5x5 pixels after conv2"
    return text


def _constants(k: float, n: int, alpha: float, beta: float, extent: str) -> str:
    return (
        f"k={k:g}, n={n}, alpha={alpha:g} for each squared term ({alpha * n:g} where it is divided by n), "
        f"beta={beta:g}, over {extent}"
    )


def _channels(contents: Contents, fits: Fits, layers: list[Layer]) -> Claim:
    """RGB or BGR: by the mean image, or by the convention of the program."""
    if "class_names" in contents.metadata:
        return Claim("RGB", "certain", ("its metadata are those of alexnet export",))
    mean = contents.tensors.get("mean_image", np.zeros(0))
    if mean.ndim == 3 and len(mean) == 3:
        first, _, last = mean.mean((1, 2))
        order = "RGB" if first > last else "BGR"
        evidence = (
            f"mean_image has the means {first:.0f} first and {last:.0f} last, and in most photos red is above blue",
        )
        return Claim(order, "likely", evidence, DECIDED_BY["channels"])
    energy = np.square(layers[0].weight, dtype=np.float64).sum((0, 2, 3))
    shares = ", ".join(f"{share:.2f}" for share in energy / max(energy.sum(), 1e-30))
    evidence = (
        "by the convention of the program",
        f"conv1 has {shares} of its energy in the three channels, which decides nothing",
    )
    return _claim("channels", fits, lambda n: "BGR" if n.startswith("caffe:") else "RGB", evidence)


def _input(contents: Contents, fits: Fits) -> Claim:
    if {"mean", "std"} <= contents.metadata.keys():
        text = "(pixels / 255 - {mean}) / {std}".format_map(contents.metadata)
        return Claim(text, "certain", ("mean and std in its metadata",))
    if seen := _transformation(contents):
        numbers = ", ".join(f"{value:g}" for value in seen.mean_values)
        mean = f"{numbers} of B, G, R" if numbers else seen.mean_file or "nothing"
        crops = f", crops of {seen.crop_size}" if seen.crop_size else ""
        text = f"pixels from 0 to 255 minus {mean}, times {seen.scale:g}{crops}"
        evidence = ["transform_param in the file"]
        if seen.mean_file and not numbers:
            evidence.append("alexnet import takes this mean image as --mean")
        return Claim(text, "certain", tuple(evidence))
    evidence = ("by convention: weights do not show it",)
    return _claim("input", fits, lambda name: _input_by_convention(fits.possible[name]), evidence)


def _transformation(contents: Contents) -> caffe.Transformation | None:
    return contents.net.transformation if contents.net else None


def _input_by_convention(spec: Config) -> str:
    if spec.name != "torchvision":
        return _input_text(spec)
    mean, std = (list(three) for three in (torchvision.MEAN, torchvision.STD))
    return f"(pixels / 255 - {mean}) / {std}"


def _input_text(spec: Config) -> str:
    augment = spec.augment
    crops = f"crops of {augment.crop_size} from {spec.uncropped_size}"
    mean = {
        "pixel": " minus the mean image", "image_center": " minus the center of the mean image",
        "channel": " minus the mean of each channel", "none": "",
        "standardize": " minus the mean of each image, over its standard deviation",
    }[augment.mean]  # fmt: skip
    scale = "" if augment.scale == 1 else f", times {augment.scale:.4g}"
    return f"pixels from 0 to 255{mean}{scale}, {crops}"


def _overrides(contents: Contents, spec: Config, classes: int) -> tuple[str, ...]:
    """What the file says otherwise than the config."""
    found: dict[str, tuple[float, float | None]] = {
        "model.num_classes": (classes, spec.model.num_classes)
    }
    if lrn := _certain_lrn(contents):
        c = spec.model.lrn_constants
        found["model.lrn_constants.k"] = lrn.k, c.k
        found["model.lrn_constants.n"] = lrn.local_size, c.n
        found["model.lrn_constants.alpha"] = lrn.alpha / lrn.local_size, c.alpha
        found["model.lrn_constants.beta"] = lrn.beta, c.beta
    if seen := _transformation(contents):
        crop = seen.crop_size or spec.augment.crop_size
        found["augment.crop_size"] = crop, spec.augment.crop_size
        found["augment.scale"] = seen.scale, spec.augment.scale
    return tuple(
        f"--config.{key}={value!r}"
        for key, (value, in_config) in found.items()
        if in_config is None or not math.isclose(value, in_config, rel_tol=1e-6)
    )


def _of_metadata(contents: Contents) -> Identification:
    """What the configuration in a file of alexnet_jax says, which leaves nothing open."""
    spec = trained.read_metadata(contents.path, contents.metadata).config
    net = f"a net of alexnet_jax, config {spec.name}"
    if spec.name in NETS:
        net += f": {NETS[spec.name]}"
    source = ("the configuration in its metadata",)
    return Identification(
        net=Claim(net, "certain", source),
        lrn=Claim(_lrn_text(spec), "certain", source),
        channels=Claim("RGB", "certain", source),
        input=Claim(_input_text(spec), "certain", source),
        candidates=(),
        overrides=(),
        classes=spec.model.num_classes,
        has_config=True,
    )


def _unknown(layers: list[Layer], evidence: tuple[str, ...]) -> Identification:
    shapes = ", ".join(map(str, layers[:12])) + (" ..." if len(layers) > 12 else "")
    seen = f"its layers are {shapes}" if layers else "it has no layers with weights"
    net = Claim(
        "none of the published nets", "undecided", (*evidence, seen), "a config with these layers"
    )
    lrn, channels, input_ = (
        Claim("unknown", "undecided", (), DECIDED_BY[topic])
        for topic in ("lrn", "channels", "input")
    )
    classes = len(layers[-1].weight) if layers else None
    return Identification(net, lrn, channels, input_, (), (), classes)
