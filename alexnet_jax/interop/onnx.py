"""Export of networks as ONNX files, which run without JAX, and import of these files.

The input of the graph is `images`, float32 [n 3 c c]: RGB center crops of config.augment.crop_size, from 0 to 255. The
graph subtracts the mean, scales, and evaluates the network in float32; its outputs are `logits` and `probabilities`
[n classes]. It uses opset 17. The metadata of the file are those of our own weights files and all input statistics, of
which the graph needs a part: so `load` gives the network back to the last bit.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import files
from alexnet_jax.errors import CheckpointError, ConfigError, StorageError
from alexnet_jax.inference import trained, weights
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.interop import inputs, layout, protobuf
from alexnet_jax.interop.protobuf import BYTES
from alexnet_jax.model import geometry, operations
from alexnet_jax.specs import FCSpec

OPSET, IR_VERSION = 17, 8
#: TensorProto.FLOAT.
FLOAT = 1
MOST_TENSORS = 10_000


def save(path: str | Path, run: TrainedModel) -> None:
    """Write a network as an ONNX file.

    Raises:
      ConfigError: ONNX cannot represent the network.
      StorageError: The file cannot be written.
    """
    size = sum(4 * array.size for array in files.flatten(run.params).values())
    if size > protobuf.LARGEST_FILE - 2**24:
        raise ConfigError(
            f"{run.config.name} has {size / 2**30:.1f} GiB of parameters, but an ONNX file is limited to 2 GiB; "
            "use --format safetensors"
        )
    encoded = model(run).SerializeToString(deterministic=True)
    try:
        files.write_atomically(Path(path), encoded)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None


def model(run: TrainedModel) -> Any:
    """Return the onnx.ModelProto of a network, validated by onnx.checker. Raises ConfigError as `save` does."""
    import onnx
    from onnx import TensorProto, helper

    layout.refuse_local(run.config.model, "ONNX")
    crop, classes = run.config.augment.crop_size, len(run.class_names)
    graph = _Graph(run)
    graph.build()
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, crop, crop])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", classes])
        for name in ("logits", "probabilities")
    ]
    proto = helper.make_model(
        helper.make_graph(graph.nodes, run.config.name, [image], outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="alexnet_jax",
    )
    helper.set_model_props(proto, inputs.metadata_of(run))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def load(path: str | Path, content: weights.Content | None = None) -> TrainedModel:
    """Load a network that `save` wrote; `content` is what `read` returned, if it was read. Raises CheckpointError."""
    tensors, metadata = content or read(path)
    if "config" not in metadata:
        raise CheckpointError(
            f"{path} has no configuration in its metadata: of ONNX files, only those of alexnet export can be imported"
        )
    described = trained.read_metadata(path, metadata)
    config = described.config
    expected = layout.shapes_channels_first(weights.shapes(config))
    theirs = {name: array for name, array in tensors.items() if name in expected}
    weights.check_shapes(path, theirs, expected)
    ours = layout.from_channels_first(path, config, theirs)
    return described.with_tensors(ours, inputs.statistics_of(path, metadata, config))


def read(path: str | Path) -> weights.Content:
    """The float32 constants of the graph and the metadata of an ONNX file. Raises CheckpointError."""
    tensors: dict[str, np.ndarray] = {}
    metadata: dict[str, str] = {}
    has_graph = False
    with protobuf.naming(path):
        for field in protobuf.fields(protobuf.read_file(path)):
            if field.type != BYTES or field.number not in (7, 14):
                continue
            if field.number == 14:  # metadata_props
                entry = {one.number: bytes(one.data) for one in protobuf.fields(field.data)}
                key, value = (entry.get(i, b"").decode(errors="replace") for i in (1, 2))
                metadata[key] = value
                continue
            has_graph = True
            for one in protobuf.fields(field.data):
                if one.number == 5 and one.type == BYTES:  # initializer
                    name, array = _tensor(one.data)
                    if array is not None:
                        tensors[name] = array
                if len(tensors) > MOST_TENSORS:
                    raise CheckpointError(f"it has more than {MOST_TENSORS} tensors")
        if not has_graph:
            raise CheckpointError("it has no graph: it is damaged or has another format")
    return tensors, metadata


def _tensor(message: memoryview) -> tuple[str, np.ndarray | None]:
    """The name and the values of a TensorProto; None for another type than float32, and for values in another file."""
    name, kind, shape, data = "", 0, [], bytearray()
    for field in protobuf.fields(message):
        if field.number == 1:
            shape += protobuf.integers(field)
        elif field.number == 2:
            kind = field.integer
        elif field.number in (4, 9):  # float_data, raw_data
            data += field.data
        elif field.number == 8:
            name = protobuf.text(field.data)
        if len(shape) > protobuf.MOST_AXES:
            raise CheckpointError(f"a tensor has more than {protobuf.MOST_AXES} axes")
    if kind != FLOAT or not data:
        return name, None
    if len(data) != 4 * math.prod(shape):
        raise CheckpointError(f"a tensor of shape {shape} has {len(data)} bytes")
    return name, np.frombuffer(data, "<f4").reshape(shape)


class _Graph(operations.Graph):
    """An ONNX graph under construction; values are referred to by name."""

    def __init__(self, run: TrainedModel) -> None:
        self.run, self.spec, self.model = run, run.config, run.config.model
        self.nodes, self.constants = [], []
        tree = files.flatten(run.variables)
        self.tensors = layout.to_channels_first(self.spec, tree)
        crop, classes = self.spec.augment.crop_size, len(run.class_names)
        self.walk = list(geometry.walk(self.model, crop, classes))

    def build(self) -> None:
        """Add the nodes of the whole network."""
        x, is_flat = self._centered("images"), False
        for node, _, _ in self.walk:
            if isinstance(node.spec, FCSpec) and not is_flat:
                x, is_flat = self.add("flat", "Flatten", x), True
            x = node.operation.to_onnx(self, node, x)
        self.add("logits", "Identity", x)
        self.add("probabilities", "Softmax", x, axis=1)

    def _centered(self, x: str) -> str:
        """Normalize center crops by config.augment.mean and config.augment.scale."""
        augment, mean = self.spec.augment, inputs.mean(self.run)
        if mean is not None:
            x = self.add("centered", "Sub", x, self.constant("mean", mean))
        elif augment.mean == "standardize":  # tf.image.per_image_standardization
            average = self.add("average", "ReduceMean", x, axes=[1, 2, 3])
            x = self.add("centered", "Sub", x, average)
            squares = self.add("squares", "Mul", x, x)
            variance = self.add("variance", "ReduceMean", squares, axes=[1, 2, 3])
            std = self.add("std", "Sqrt", variance)
            min_std = self.constant("min_std", (3 * augment.crop_size**2) ** -0.5)
            x = self.add("standardized", "Div", x, self.add("divisor", "Max", std, min_std))
        if augment.scale == 1:
            return x
        return self.add("scaled", "Mul", x, self.constant("scale", augment.scale))

    def size(self, node: operations.Node) -> int:
        """Return the height (= width) of the input of a node."""
        return next(inputs.size for other, inputs, _ in self.walk if other == node)

    def tensor(self, name: str) -> str:
        """Add a parameter of the network as a constant."""
        return self.constant(name, self.tensors[name])

    def constant(self, name: str, value: Any) -> str:
        """Add a float32 constant."""
        from onnx import numpy_helper

        array = np.ascontiguousarray(value, np.float32).reshape(np.shape(value))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, name: str, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one output, and return the name of the output."""
        self.add_node([name], operator, list(inputs), **attributes)
        return name

    def add_node(
        self, names: list[str], operator: str, inputs: list[str], **attributes: Any
    ) -> None:
        """Add an operator with the outputs `names`."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, names, name=names[0], **attributes))
