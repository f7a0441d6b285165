"""Export of networks as modules of PyTorch: one Python file, and its parameters beside it as .safetensors.

The Python file needs torch, numpy, Pillow and safetensors, and nothing of this project. Its modules have the names of
our features: the output of conv1.lrn is the feature conv1/lrn with channels first. The operations write their own
modules (Operation.to_torch); classes that PyTorch lacks are copied from interop/pytorch_parts.py.

The tensors are those of the module's state_dict: all parameters, running averages, and the mean that is subtracted. The
metadata of the .safetensors file are those of our own weights files, and all input statistics: so `load` gives the
network back to the last bit.
"""

import ast
import functools
import itertools
import keyword
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import alexnet_jax
from alexnet_jax import files
from alexnet_jax.errors import ConfigError, StorageError
from alexnet_jax.inference import trained, weights
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.interop import inputs, layout
from alexnet_jax.model import geometry, operations
from alexnet_jax.specs import Config, ModelSpec

PARTS = Path(__file__).with_name("pytorch_parts.py")
#: What the metadata of a .safetensors file say of its names.
NAMES = {"format": "pt", "names": "alexnet_jax.interop.pytorch"}
#: What the Python file imports besides the standard library.
LIBRARIES = ("PIL", "numpy", "safetensors", "torch")
#: The only method of nn.Module whose name ends in a digit, as the names of layers must.
RESERVED = "bfloat16"


def save(path: str | Path, run: TrainedModel) -> None:
    """Write the module as `path`, which ends in .py, and its parameters as .safetensors beside it.

    Raises:
        ConfigError: The module cannot represent the network.
        StorageError: A file cannot be written.
    """
    path = Path(path)
    text = source(run.config, step=run.step, module=path.stem)
    names = tensor_names(run.config.model)
    ours = layout.to_torch(run.config, files.flatten(run.variables))
    tensors = {names[name]: array for name, array in ours.items()}
    if (mean := inputs.mean(run)) is not None:
        tensors["mean"] = mean
    weights.write(path.with_suffix(".safetensors"), tensors, NAMES | inputs.metadata_of(run))
    try:
        files.write_atomically(path, text)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None


def check_path(path: Path) -> None:
    """Raise ConfigError if Python could not import `path`, or if the file beside it is no export.

    Raises:
        CheckpointError: The file beside it cannot be read.
    """
    name, beside = path.stem, path.with_suffix(".safetensors")
    is_taken = name in sys.stdlib_module_names or name in LIBRARIES
    if is_taken or not name.isidentifier() or keyword.iskeyword(name):
        reason = "hides a module of this name" if is_taken else "cannot be imported by its name"
        raise ConfigError(f"--out={path} {reason}: choose another, such as mynet.py")
    if beside.exists() and not is_export(weights.read_metadata(beside)):
        raise ConfigError(
            f"--out={path} would replace {beside}, which is no export of this format: choose another name"
        )


def is_export(metadata: dict[str, str]) -> bool:
    """Whether these are the metadata of a .safetensors file that `save` wrote."""
    return NAMES.items() <= metadata.items()


def load(
    path: str | Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> TrainedModel:
    """Return the network of a .safetensors file that `save` wrote, from what it holds. Raises CheckpointError."""
    described = trained.read_metadata(path, metadata)
    config = described.config
    names, shapes = tensor_names(config.model), weights.shapes(config)
    expected = {names[name]: shape for name, shape in layout.shapes_torch(shapes).items()}
    means = inputs.statistics_of(path, metadata, config)
    # The statistics have the mean, too.
    weights.check_shapes(path, {n: a for n, a in tensors.items() if n != "mean"}, expected)
    ours = {name: tensors[names[name]] for name in shapes}
    return described.with_tensors(layout.from_torch(config, ours, shapes), means)


def tensor_names(model: ModelSpec) -> dict[str, str]:
    """Map the name of each tensor to that of the module, such as 'params/fc6/kernel' to 'fc6.linear.weight'."""
    return {
        ours: f"{node.feature.replace('/', '.')}.{theirs}"
        for node in operations.all_nodes(model)
        for ours, theirs in node.tensors.items()
    }


def source(spec: Config, *, step: int = 0, module: str = "net") -> str:
    """Return the Python file of a network.

    Args:
        spec: Its config, with the number of classes.
        step: The training step that its docstring says.
        module: The name of the module that its docstring says.

    Raises:
        ConfigError: An operation cannot be exported, or a layer has a name that no attribute can have.
    """
    network = "\n".join(_network(spec))
    above, below = _parts(network)
    constants = (
        ("IMAGE_SIZE", spec.data.image_size, "the central square of an image is resized to this"),
        ("RESIZE", spec.augment.resize, "and then, if not None, to this"),
        ("CROP_SIZE", spec.augment.crop_size, "of which the network sees the center"),
        ("USE_EXIF", spec.data.exif == "apply", "whether images are rotated as EXIF says"),
    )
    values = "\n".join(f"{name} = {value}  # {comment}" for name, value, comment in constants)
    title = _docstring(spec, step, module)
    return "\n\n\n".join([f"{title}\n\n{_imports()}\n\n{values}", *above, network, *below]) + "\n"


def _docstring(spec: Config, step: int, module: str) -> str:
    config, module = (
        re.sub(r"[^\w.,:-]", "?", text, flags=re.ASCII) for text in (spec.name, module)
    )
    crop, classes = spec.augment.crop_size, spec.model.num_classes
    trained_for = f"after {step:,} training steps" if step else "as imported or before training"
    subtracted = {
        "pixel": "the mean image", "image_center": "the mean image", "channel": "the mean of each channel",
        "standardize": "the mean of each image, over its standard deviation", "none": "nothing",
    }[spec.augment.mean]  # fmt: skip
    scale = "" if spec.augment.scale == 1 else f" and multiplies by {spec.augment.scale:.6g}"
    first, last = spec.model.layers[0][0], spec.model.layers[-1][0]
    return f'''"""AlexNet in PyTorch: config {config}, {trained_for}.

    from {module} import load, preprocess
    net = load()  # reads {module}.safetensors beside this file
    logits = net(preprocess("image.jpg")[None])  # [1 {classes}]

Input: images [b 3 {crop} {crop}], RGB from 0 to 255, float or uint8, as `preprocess` makes them, one by one. The
network subtracts {subtracted}{scale}. Output: logits [b {classes}].

Each layer is a module, {first} to {last}, and each of its operations a module in it: the output of {first}.linear is
the feature {first}/linear of alexnet_jax, with channels first. Written by alexnet_jax {alexnet_jax.__version__}.
"""'''


def _network(spec: Config) -> Iterator[str]:
    """The lines of the class AlexNet."""
    augment, model = spec.augment, spec.model
    classes, crop = model.num_classes or 0, augment.crop_size
    yield "class AlexNet(nn.Module):"
    yield '    """The layers in order; see above for the input."""'
    yield ""
    yield from ("    def __init__(self) -> None:", "        super().__init__()")
    yield f"        self.class_names = [str(i) for i in range({classes})]"
    if shape := inputs.mean_shape(spec):
        yield f'        self.register_buffer("mean", torch.zeros{shape})'
    walked = geometry.walk(model, crop, classes)
    for layer, group in itertools.groupby(walked, key=lambda applied: applied.node.layer):
        _check_name(layer)
        yield f"        self.{layer} = layer("
        yield from _modules(model, list(group))
        yield "        )"
    yield from ("", "    def forward(self, images: Tensor) -> Tensor:", *_centered(spec))
    first_dense = model.fcs[0][0]
    for name, _ in model.layers:
        yield f"        x = self.{name}({'x.flatten(1)' if name == first_dense else 'x'})"
    yield "        return x"


def _modules(model: ModelSpec, applied: list[geometry.Applied]) -> Iterator[str]:
    """The arguments of `layer` for the operations of a layer."""
    before: list[tuple[str, str]] = []
    after: list[tuple[str, str]] = []
    for node, maps, _ in applied:
        found = before if node.key.startswith("before/") else after
        found += node.operation.to_torch(node, model, maps).items()
    if before:
        yield "            before=layer("
        yield from (f"                {name}={module}," for name, module in _distinct(before))
        yield "            ),"
    yield from (f"            {name}={module}," for name, module in _distinct(after))


def _distinct(modules: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Number modules whose name comes again: a feature is the output of the last one of its name."""
    names = [name for name, _ in modules]
    for i, (name, module) in enumerate(modules):
        yield (f"{name}_{i}" if name in names[i + 1 :] else name), module


def _check_name(layer: str) -> None:
    """Raise ConfigError for the name of a layer that could mean something else in the source."""
    if re.fullmatch(r"[a-z]\w*\d", layer, re.ASCII | re.IGNORECASE) is None or layer == RESERVED:
        raise ConfigError(
            f"a layer named {layer!r} cannot be exported to PyTorch: name it with letters and a digit at the end, "
            "such as conv1"
        )


def _centered(spec: Config) -> Iterator[str]:
    """The lines that normalize the images; bytes become floats, of the type of the parameters."""
    scale = spec.augment.scale
    floats = f"images.type_as(self.{spec.model.layers[-1][0]}.linear.bias)"
    times = "" if scale == 1 else f" * {scale}"
    if inputs.mean_shape(spec):
        yield (
            f"        x = (images - self.mean){times}"
            if times
            else "        x = images - self.mean"
        )
    elif spec.augment.mean == "none":
        yield f"        x = {floats}{times}"
    else:  # as tf.image.per_image_standardization
        least = (3 * spec.augment.crop_size**2) ** -0.5
        yield f"        x = {floats}"
        yield "        x = x - x.mean((1, 2, 3), keepdim=True)"
        yield "        std = x.square().mean((1, 2, 3), keepdim=True).sqrt()"
        yield f"        x = x / std.clamp(min={least}){times}"


@functools.cache
def _template() -> tuple[str, ast.Module]:
    text = PARTS.read_text(encoding="utf-8")
    return text, ast.parse(text)


def _imports() -> str:
    text, tree = _template()
    found = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    standard, others = found[:4], found[4:]
    return "\n\n".join(
        "\n".join(ast.get_source_segment(text, node) or "" for node in part)
        for part in (standard, others)
    )


def _parts(network: str) -> tuple[list[str], list[str]]:
    """The definitions that come before the network, of those that it uses, and those that come after it."""
    text, tree = _template()
    used = {node.id for node in ast.walk(ast.parse(network)) if isinstance(node, ast.Name)}
    above, below, found = [], [], None
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "AlexNet":
            found = below
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            code = ast.get_source_segment(text, node) or ""
            if found is not None:
                found.append(code)
            elif node.name in used:
                above.append(code)
    return above, below
