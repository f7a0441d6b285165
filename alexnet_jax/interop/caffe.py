"""Read Caffe's networks (.caffemodel, with V1LayerParameter or LayerParameter) and mean images (.binaryproto).

Field numbers are those of caffe.proto. Caffe's images are B, G, R from 0 to 255 minus the mean, and its maps are
flattened channel first; its LRN, pools and dropout are those of configs/caffe.py.
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.data.pipeline import statistics
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import CheckpointError, ConfigError
from alexnet_jax.inference import weights
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.interop import layout, protobuf
from alexnet_jax.interop.protobuf import BYTES, FOUR_BYTES, VARINT
from alexnet_jax.specs import Config

#: Of R, G, B over ILSVRC-2012: the mean_value of Caffe's models without a mean image.
MEAN = (123.0, 117.0, 104.0)
#: Fields of NetParameter that hold the V1LayerParameters, and the LayerParameters.
OLD_LAYERS, LAYERS = 2, 100
MOST_LAYERS, MOST_BLOBS = 1000, 10

# Type of a layer, a name in LayerParameter or a number in V1LayerParameter -> operation of a config.
OPERATIONS = {
    "ReLU": "act", "LRN": "lrn", "Pooling": "pool", "Dropout": "dropout",
    18: "act", 15: "lrn", 17: "pool", 6: "dropout",
}  # fmt: skip


class LRNParameter(NamedTuple):
    """Settings of an LRN layer, with the defaults of caffe.proto; alpha is divided by the number of squared terms."""

    local_size: int = 5
    alpha: float = 1.0
    beta: float = 0.75
    within_channel: bool = False
    k: float = 1.0

    @property
    def is_across_maps(self) -> bool:
        """Whether it is the normalization of a config here, with usable numbers."""
        numbers = (self.alpha, self.beta, self.k)
        return not self.within_channel and self.local_size > 0 and bool(np.isfinite(numbers).all())


class Transformation(NamedTuple):
    """What a data layer does to images, with the defaults of caffe.proto."""

    scale: float = 1.0
    #: 0: the whole image.
    crop_size: int = 0
    mean_file: str = ""
    #: Of B, G, R; or one of all three.
    mean_values: tuple[float, ...] = ()


class Layer(NamedTuple):
    name: str
    type: str | int
    #: float32 weights and biases.
    blobs: list[np.ndarray]
    #: None if the file sets nothing.
    lrn: LRNParameter | None = None
    transformation: Transformation | None = None


class Net(NamedTuple):
    name: str
    layers: list[Layer]

    @property
    def transformation(self) -> Transformation | None:
        """That of the first layer that crops images or subtracts means; None if the file states none."""
        found = (layer.transformation for layer in self.layers if layer.transformation)
        return next((one for one in found if one.crop_size or one.mean_values), None)

    @property
    def mean(self) -> tuple[float, ...] | None:
        """What is subtracted from R, G and B; None if the file does not state it, or names a mean image."""
        seen = self.transformation
        if seen is None or (seen.mean_file and not seen.mean_values):
            return None
        values = seen.mean_values or (0.0,)
        return 3 * values if len(values) == 1 else values[::-1]

    def operations(self) -> dict[str, tuple[str, ...]]:
        """Layer with weights -> the operations that follow it, by our names; {} if the file has weights alone."""
        found: dict[str, list[str]] = {}
        last: list[str] = []
        for layer in self.layers:
            if layer.blobs:
                last = found[layer.name] = []
            elif layer.type in OPERATIONS:
                last.append(OPERATIONS[layer.type])
        return {name: tuple(ops) for name, ops in found.items()} if any(found.values()) else {}

    def tensors(self) -> dict[str, np.ndarray]:
        """'params/conv1/kernel' -> array, for all weights."""
        return {
            f"params/{layer.name}/{('kernel', 'bias')[i] if i < 2 else i}": blob
            for layer in self.layers
            for i, blob in enumerate(layer.blobs)
        }


def load(
    path: str | Path,
    spec: Config,
    tree: dict,
    mean: str | Path | None = None,
    net: Net | None = None,
) -> TrainedModel:
    """Load the network of a .caffemodel.

    Args:
        spec: The checked config of the network.
        tree: The same config as nested dicts.
        mean: A .binaryproto with the mean image; None for the mean values in the file, or else MEAN.
        net: What `read_net` returned for the file, if it was read already.

    Raises:
        CheckpointError: Names the tensor that is missing, unknown, of another shape or not finite, or a wrong mean.
    """
    layout.refuse_local(spec.model, "Caffe")
    net = net or read_net(path)
    _check_order(path, spec, net.operations())
    tensors = net.tensors()
    if spec.model.num_classes is None:
        last = tensors.get(f"params/{spec.model.fcs[-1][0]}/bias", np.zeros(2))
        spec = configs.with_classes(spec, max(last.size, 2))
    shapes = weights.shapes(spec)
    if any(name.rpartition("/")[2] not in ("kernel", "bias") for name in shapes):
        raise ConfigError(f"{path}: batch normalization is not read from Caffe's files")
    expected = layout.shapes_channels_first(shapes)
    for name, shape in expected.items():
        while name in tensors and tensors[name].ndim > len(shape) and len(tensors[name]) == 1:
            tensors[name] = tensors[name][0]  # in old files every blob has four axes
    weights.check_shapes(path, tensors, expected)
    params = files.unflatten(layout.from_channels_first(path, spec, tensors))["params"]
    if spec.model.convs:
        first = params[spec.model.convs[0][0]]
        first["kernel"] = layout.swap_red_and_blue(first["kernel"])
    names = tuple(map(str, range(spec.model.num_classes or 0)))
    return TrainedModel(spec, tree, 0, params, {}, _statistics(path, spec, net, mean), names)


def read_net(path: str | Path) -> Net:
    """Read the layers of a .caffemodel, in at most twice the file's size of memory. Raises CheckpointError."""
    name, layers = "", []
    with protobuf.naming(path):
        for field in protobuf.fields(protobuf.read_file(path)):
            if field.type == BYTES and field.number in (OLD_LAYERS, LAYERS):
                layers.append(_layer(field.data, old=field.number == OLD_LAYERS))
            elif field.number == 1:
                name = protobuf.text(field.data)
            if len(layers) > MOST_LAYERS:
                raise CheckpointError(f"it has more than {MOST_LAYERS} layers")
        names = [layer.name for layer in layers if layer.blobs]
        if not names:
            raise CheckpointError("it has no layer with weights")
        if len(set(names)) < len(names):
            raise CheckpointError("two of its layers with weights have the same name")
    return Net(name, layers)


def read_mean(path: str | Path) -> np.ndarray:
    """The mean image float32 [h w 3] of a .binaryproto, R, G, B. Raises CheckpointError."""
    with protobuf.naming(path):
        blob = _blob(protobuf.read_file(path))
        if blob.ndim == 4 and len(blob) == 1:
            blob = blob[0]
        if blob.ndim != 3 or len(blob) != 3:
            raise CheckpointError(f"a mean has the shape (3, height, width), not {blob.shape}")
        if not np.isfinite(blob).all():
            raise CheckpointError("the mean is not finite")
    return blob[::-1].transpose(1, 2, 0)


def _layer(message: memoryview, old: bool) -> Layer:
    name_field, type_field, blobs_field = (4, 5, 6) if old else (1, 2, 7)
    lrn_field, transform_field = (18, 36) if old else (118, 100)
    name, type_, blobs, lrn, transformation = "", "", [], None, None
    for field in protobuf.fields(message):
        if old and field.number == 1:
            raise CheckpointError(
                "it has Caffe's first format: convert it with Caffe's upgrade_net_proto_binary"
            )
        if field.number == name_field:
            name = protobuf.text(field.data)
        elif field.number == type_field:
            type_ = field.integer if field.type == VARINT else protobuf.text(field.data)
        elif field.number == blobs_field:
            blobs.append(_blob(field.data))
        elif field.number == lrn_field:
            lrn = _lrn(field.data)
        elif field.number == transform_field:
            transformation = _transformation(field.data)
        if len(blobs) > MOST_BLOBS:
            raise CheckpointError(f"a layer has more than {MOST_BLOBS} blobs")
    return Layer(name, type_, blobs, lrn, transformation)


def _lrn(message: memoryview) -> LRNParameter:
    found = LRNParameter()
    for field in protobuf.fields(message):
        if field.type == VARINT and field.number == 1:
            found = found._replace(local_size=field.integer)
        elif field.type == VARINT and field.number == 4:
            found = found._replace(within_channel=bool(field.integer))
        elif field.type == FOUR_BYTES and field.number in (2, 3, 5):
            name = {2: "alpha", 3: "beta", 5: "k"}[field.number]
            found = found._replace(**{name: _float(field.data)})
    return found


def _transformation(message: memoryview) -> Transformation:
    found = Transformation()
    for field in protobuf.fields(message):
        if field.type == FOUR_BYTES and field.number == 1:
            found = found._replace(scale=_float(field.data))
        elif field.type == VARINT and field.number == 3:
            found = found._replace(crop_size=field.integer)
        elif field.type == BYTES and field.number == 4:
            found = found._replace(mean_file=protobuf.text(field.data))
        # More than three are refused where the mean is used.
        elif field.type == FOUR_BYTES and field.number == 5 and len(found.mean_values) < 4:
            found = found._replace(mean_values=(*found.mean_values, _float(field.data)))
    return found


def _float(encoded: memoryview) -> float:
    """A float32 in the fewest digits that give it again."""
    return float(str(np.float32(struct.unpack("<f", encoded)[0])))


def _blob(message: memoryview) -> np.ndarray:
    """A BlobProto: its data, or its double_data, as float32 in its shape."""
    old, shape = {1: 0, 2: 0, 3: 0, 4: 0}, None  # num, channels, height, width
    data = {5: bytearray(), 8: bytearray()}
    for field in protobuf.fields(message):
        if field.number == 7:
            shape = _shape(field.data)
        elif field.number in old:
            old[field.number] = field.integer
        elif field.number in data:
            data[field.number] += field.data  # packed, or one by one
    encoded, dtype = (data[5], np.dtype("<f4")) if data[5] else (data[8], np.dtype("<f8"))
    count, rest = divmod(len(encoded), dtype.itemsize)
    shape = list(old.values()) if shape is None else shape
    size = 1
    for length in shape:  # Python integers do not overflow
        size *= length
    if rest or not count or size != count:
        raise CheckpointError(f"a blob of shape {shape} has {len(encoded)} bytes")
    with np.errstate(over="ignore"):  # infinite values are refused later
        return np.frombuffer(encoded, dtype).astype(np.float32, copy=False).reshape(shape)


def _shape(message: memoryview) -> list[int]:
    lengths: list[int] = []
    for field in protobuf.fields(message):
        if field.number == 1:
            lengths += protobuf.integers(field)
        if len(lengths) > protobuf.MOST_AXES:
            raise CheckpointError(f"a blob has more than {protobuf.MOST_AXES} axes")
    return lengths


def _check_order(path, spec: Config, order: dict[str, tuple[str, ...]]) -> None:
    """Refuse a net whose operations come in another order than in the config, which shapes cannot show."""
    for name, layer in spec.model.layers:
        if name in order and order[name] != layer.ops:
            raise CheckpointError(
                f"{path}: {name} is followed by {', '.join(order[name]) or 'nothing'}, in the config by "
                f"{', '.join(layer.ops) or 'nothing'}: choose its --config, such as configs/caffe.py:caffenet"
            )


def _statistics(
    path: str | Path, spec: Config, net: Net, mean_file: str | Path | None
) -> Statistics:
    means = statistics.zeros(spec.data.image_size)
    if mean_file is None:
        values = MEAN if net.mean is None else net.mean
        if len(values) != 3 or not np.isfinite(values).all():
            raise CheckpointError(
                f"{path}: mean_value of its data layer is not 1 or 3 numbers: {values}; --mean gives another mean"
            )
        mean = np.asarray([[values]], np.float32)
    else:
        mean = read_mean(mean_file)
    if mean.shape not in ((1, 1, 3), means.mean_image.shape):
        raise CheckpointError(
            f"{mean_file} is the mean of {mean.shape[0]}x{mean.shape[1]} images, but config.data.image_size "
            f"is {spec.data.image_size}"
        )
    mean_image = np.broadcast_to(mean, means.mean_image.shape)
    return means._replace(mean_image=mean_image, channel_mean=mean.mean((0, 1)))
