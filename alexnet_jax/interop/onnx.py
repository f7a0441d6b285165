"""Networks as ONNX files, which other programs run without JAX.

The graph takes `images`, float32 [n 3 c c]: center crops of config.augment.crop_size, R, G, B, 0 to 255. It subtracts
the mean and scales by itself, computes in float32 what the net computes at test time, and gives `logits` and
`probabilities` [n classes]. Operators are those of opset 17.
"""

import json
from pathlib import Path

import numpy as np

from alexnet_jax import files
from alexnet_jax.errors import ConfigError, StorageError
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.interop import layout
from alexnet_jax.model import geometry
from alexnet_jax.specs import PoolSpec

OPSET, IR_VERSION = 17, 8
LARGEST_FILE = 2**31 - 1
"""Bytes; a message of protocol buffers cannot be longer."""


def save(path: str | Path, run: TrainedModel) -> None:
    """Write the network of `run`. Raises ConfigError for what ONNX has not, StorageError."""
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
    """The ModelProto of `run`, checked by onnx.checker. Raises ConfigError for what ONNX has not."""
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


class _Graph:
    """Nodes and constants as they come to be; a method takes names of values and gives that of its result."""

    def __init__(self, run: TrainedModel) -> None:
        self.spec, self.run = run.config, run
        self.nodes, self.constants = [], []
        tree = files.flatten({"params": run.params, "batch_stats": run.batch_stats})
        self.tensors = layout.to_channels_first(self.spec, tree)
        layers = geometry.layers(self.spec.model, self.spec.augment.crop_size, len(run.class_names))
        self.sizes = {layer.name: layer.height for layer in layers}

    def network(self) -> None:
        x = self._centered("images")
        for name, row in self.spec.model.convs:
            pads = [row.pad[0], row.pad[0], row.pad[1], row.pad[1]]
            x = self._add(f"{name}/linear", "Conv", x, *self._weights(name), pads=pads,
                          strides=[row.stride] * 2, group=row.groups)  # fmt: skip
            for operation in row.ops:
                x = self._operate(f"{name}/{operation}", operation, x, name, row)
        x = self._add("flat", "Flatten", x)
        for name, row in self.spec.model.fcs:
            for operation in row.pre_ops:
                x = self._operate(f"{name}/before/{operation}", operation, x, name, row, "before_")
            x = self._add(f"{name}/linear", "Gemm", x, *self._weights(name), transB=1)
            for operation in row.ops:
                x = self._operate(f"{name}/{operation}", operation, x, name, row)
        self._add("logits", "Identity", x)
        self._add("probabilities", "Softmax", x, axis=1)

    def _centered(self, x: str) -> str:
        """The mean of config.augment.mean subtracted, as from every center crop, times its scale."""
        augment, means = self.spec.augment, self.run.statistics
        match augment.mean:
            case "pixel" | "image_center":
                x = self._add("centered", "Sub", x, self._constant("mean", self._mean_crop()))
            case "channel":
                mean = means.channel_mean[:, None, None]
                x = self._add("centered", "Sub", x, self._constant("mean", mean))
            case "standardize":  # tf.image.per_image_standardization
                average = self._add("average", "ReduceMean", x, axes=[1, 2, 3])
                x = self._add("centered", "Sub", x, average)
                squares = self._add("squares", "Mul", x, x)
                variance = self._add("variance", "ReduceMean", squares, axes=[1, 2, 3])
                std = self._add("std", "Sqrt", variance)
                least = self._constant("least", (3 * augment.crop_size**2) ** -0.5)
                x = self._add("standardized", "Div", x, self._add("divisor", "Max", std, least))
        if augment.scale == 1:
            return x
        return self._add("scaled", "Mul", x, self._constant("scale", augment.scale))

    def _mean_crop(self) -> np.ndarray:
        """[3 c c]: the center of the mean image, at the size to which images are resized."""
        from alexnet_jax.data.pipeline import augment

        size = self.spec.augment.resize or self.spec.data.image_size
        mean = np.asarray(augment.mean_image(self.run.statistics, size))
        crop = self.spec.augment.crop_size
        inner = slice((size - crop) // 2, (size - crop) // 2 + crop)
        return mean[inner, inner].transpose(2, 0, 1)

    def _operate(self, name: str, operation: str, x: str, row: str, spec, prefix: str = "") -> str:
        match operation:
            case "act":
                return self._activation(name, x)
            case "lrn":
                return self._response_normalization(name, x)
            case "spatial_norm":
                return self._spatial_normalization(name, x)
            case "pool":
                return self._pool(name, x, self.sizes[row], spec.pool)
            case "batch_norm":
                leaves = ("params/{}/{}scale", "params/{}/{}offset",
                          "batch_stats/{}/{}mean", "batch_stats/{}/{}var")  # fmt: skip
                return self._add(name, "BatchNormalization", x,
                                 *(self._tensor(leaf.format(row, prefix)) for leaf in leaves),
                                 epsilon=self.spec.model.batch_norm.epsilon)  # fmt: skip
            case "dropout":
                dropout = self.spec.model.dropout
                if dropout.scale_at == "train" or dropout.rate == 0:
                    return x
                return self._add(name, "Mul", x, self._constant(f"{name}/keep", 1 - dropout.rate))
        raise ConfigError(f"unknown operation {operation!r}")

    def _activation(self, name: str, x: str) -> str:
        match self.spec.model.activation:
            case "relu":
                return self._add(name, "Relu", x)
            case "scaled_tanh":
                x = self._add(f"{name}/in", "Mul", x, self._constant(f"{name}/in_scale", 2 / 3))
                x = self._add(f"{name}/tanh", "Tanh", x)
                return self._add(name, "Mul", x, self._constant(f"{name}/out_scale", 1.7159))
            case "abs_tanh":
                return self._add(name, "Abs", self._add(f"{name}/tanh", "Tanh", x))
            case other:
                return self._add(
                    name, {"tanh": "Tanh", "sigmoid": "Sigmoid", "softplus": "Softplus"}[other], x
                )

    def _response_normalization(self, name: str, x: str) -> str:
        """§3.3, within each tower or over all maps; ONNX divides alpha by the window."""
        lrn = self.spec.model.lrn_constants
        towers = self.spec.model.towers if lrn.within_towers else 1
        if lrn.n % 2 == 0:
            raise ConfigError(
                f"config.model.lrn_constants.n={lrn.n}: ONNX normalizes over odd windows only"
            )
        constants = dict(size=lrn.n, alpha=lrn.alpha * lrn.n, beta=lrn.beta, bias=lrn.k)
        if towers == 1:
            return self._add(name, "LRN", x, **constants)
        parts = [f"{name}/tower{i}" for i in range(towers)]
        self._node(parts, "Split", [x], axis=1)
        parts = [self._add(f"{part}/lrn", "LRN", part, **constants) for part in parts]
        return self._add(name, "Concat", *parts, axis=1)

    def _spatial_normalization(self, name: str, x: str) -> str:
        """x / (1 + alpha * sum of x^2 over size x size places)^beta: the sum is a mean that counts the padding."""
        norm = self.spec.model.spatial_norm
        before, after = norm.size // 2, norm.size - 1 - norm.size // 2
        squares = self._add(f"{name}/squares", "Mul", x, x)
        means = self._add(f"{name}/means", "AveragePool", squares, kernel_shape=[norm.size] * 2,
                          pads=[before, before, after, after], count_include_pad=1)  # fmt: skip
        alpha = self._constant(f"{name}/alpha", norm.alpha * norm.size**2)
        sums = self._add(f"{name}/sums", "Mul", means, alpha)
        bracket = self._add(f"{name}/bracket", "Add", sums, self._constant(f"{name}/one", 1))
        power = self._add(
            f"{name}/power", "Pow", bracket, self._constant(f"{name}/beta", norm.beta)
        )
        return self._add(name, "Div", x, power)

    def _pool(self, name: str, x: str, size: int, pool: PoolSpec) -> str:
        """A last window that hangs over the border sees padding, which neither maxima nor means count."""
        count = geometry.pool_size(size, pool.window, pool.stride, pool.rounding)
        over = max((count - 1) * pool.stride + pool.window - size, 0)
        kind = "MaxPool" if pool.kind == "max" else "AveragePool"
        return self._add(name, kind, x, kernel_shape=[pool.window] * 2,
                         strides=[pool.stride] * 2, pads=[0, 0, over, over])  # fmt: skip

    def _weights(self, row: str) -> tuple[str, str]:
        return self._tensor(f"params/{row}/kernel"), self._tensor(f"params/{row}/bias")

    def _tensor(self, name: str) -> str:
        return self._constant(name, self.tensors[name])

    def _constant(self, name: str, value) -> str:
        from onnx import numpy_helper

        array = np.ascontiguousarray(value, np.float32).reshape(np.shape(value))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def _add(self, name: str, operator: str, *inputs: str, **attributes) -> str:
        self._node([name], operator, list(inputs), **attributes)
        return name

    def _node(self, names: list[str], operator: str, inputs: list[str], **attributes) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node(operator, inputs, names, name=names[0], **attributes))
