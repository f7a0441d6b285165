"""Networks as ONNX files, which other programs run without JAX.

The graph takes `images`, float32 [n 3 c c]: center crops of config.augment.crop_size, R, G, B, 0 to 255. It includes
the subtraction of the mean and the scaling, computes the net at test time in float32, and returns `logits` and
`probabilities` [n classes]. Operators are those of opset 17.
"""

import json
from pathlib import Path

import numpy as np

from alexnet_jax import files
from alexnet_jax.errors import ConfigError, StorageError
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.interop import layout
from alexnet_jax.model import geometry, operations
from alexnet_jax.specs import FCSpec

OPSET, IR_VERSION = 17, 8
#: Bytes; a message of protocol buffers cannot be longer.
LARGEST_FILE = 2**31 - 1


def save(path: str | Path, run: TrainedModel) -> None:
    """Write the network of `run`. Raises ConfigError for what ONNX lacks, StorageError."""
    size = sum(4 * array.size for array in files.flatten(run.params).values())
    if size > LARGEST_FILE - 2**20:
        raise ConfigError(
            f"{run.config.name} has {size / 2**30:.1f} GiB of parameters, but one ONNX file holds 2 GiB: "
            "--format safetensors keeps them"
        )
    encoded = model(run).SerializeToString(deterministic=True)
    try:
        files.write_atomically(Path(path), encoded)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None


def model(run: TrainedModel):
    """The ModelProto of `run`, checked by onnx.checker. Raises ConfigError for what ONNX lacks."""
    import onnx
    from onnx import TensorProto, helper

    layout.refuse_local(run.config.model, "ONNX")
    crop, classes = run.config.augment.crop_size, len(run.class_names)
    graph = _Graph(run)
    graph.network()
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, crop, crop])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", classes])
        for name in ("logits", "probabilities")
    ]
    made = helper.make_model(
        helper.make_graph(graph.nodes, run.config.name, [image], outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="alexnet_jax",
    )
    helper.set_model_props(made, {"class_names": json.dumps(run.class_names)})
    onnx.checker.check_model(made, full_check=True)
    return made


class _Graph(operations.Graph):
    """The graph of a network; values are known by their names."""

    def __init__(self, run: TrainedModel) -> None:
        self.run, self.spec, self.model = run, run.config, run.config.model
        self.nodes, self.constants = [], []
        tree = files.flatten({"params": run.params, "batch_stats": run.batch_stats})
        self.tensors = layout.to_channels_first(self.spec, tree)
        crop, classes = self.spec.augment.crop_size, len(run.class_names)
        self.walk = list(geometry.walk(self.model, crop, classes))

    def network(self) -> None:
        x, is_flat = self._centered("images"), False
        for node, _, _ in self.walk:
            if isinstance(node.spec, FCSpec) and not is_flat:
                x, is_flat = self.add("flat", "Flatten", x), True
            x = node.operation.to_onnx(self, node, x)
        self.add("logits", "Identity", x)
        self.add("probabilities", "Softmax", x, axis=1)

    def _centered(self, x: str) -> str:
        """Subtract the mean of config.augment.mean, as from every center crop, and scale."""
        augment, means = self.spec.augment, self.run.statistics
        match augment.mean:
            case "pixel" | "image_center":
                x = self.add("centered", "Sub", x, self.constant("mean", self._mean_crop()))
            case "channel":
                mean = means.channel_mean[:, None, None]
                x = self.add("centered", "Sub", x, self.constant("mean", mean))
            case "standardize":  # tf.image.per_image_standardization
                average = self.add("average", "ReduceMean", x, axes=[1, 2, 3])
                x = self.add("centered", "Sub", x, average)
                squares = self.add("squares", "Mul", x, x)
                variance = self.add("variance", "ReduceMean", squares, axes=[1, 2, 3])
                std = self.add("std", "Sqrt", variance)
                least = self.constant("least", (3 * augment.crop_size**2) ** -0.5)
                x = self.add("standardized", "Div", x, self.add("divisor", "Max", std, least))
        if augment.scale == 1:
            return x
        return self.add("scaled", "Mul", x, self.constant("scale", augment.scale))

    def _mean_crop(self) -> np.ndarray:
        """[3 c c]: the center of the mean image, at the size to which images are resized."""
        from alexnet_jax.data.pipeline import augment

        size = self.spec.augment.resize or self.spec.data.image_size
        mean = np.asarray(augment.mean_image(self.run.statistics, size))
        crop = self.spec.augment.crop_size
        inner = slice((size - crop) // 2, (size - crop) // 2 + crop)
        return mean[inner, inner].transpose(2, 0, 1)

    def size(self, node: operations.Node) -> int:
        return next(inputs.size for one, inputs, _ in self.walk if one == node)

    def tensor(self, name: str) -> str:
        return self.constant(name, self.tensors[name])

    def constant(self, name: str, value) -> str:
        from onnx import numpy_helper

        array = np.ascontiguousarray(value, np.float32).reshape(np.shape(value))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, name: str, operator: str, *inputs: str, **attributes) -> str:
        self.add_node([name], operator, list(inputs), **attributes)
        return name

    def add_node(self, names: list[str], operator: str, inputs: list[str], **attributes) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, names, name=names[0], **attributes))
