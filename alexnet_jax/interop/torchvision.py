"""Networks as state dicts of PyTorch, with the names of torchvision's alexnet: features.0.weight ... classifier.6.bias.

Names go by position: `features` counts the operations of the convolutional layers in the order of the config (conv,
relu, pool, conv, ...), `classifier` those of the dense layers, as nn.Sequential does. So configs/torchvision.py has the
names of torchvision, and every other config follows the same rule.

The metadata describe the expected inputs. Where a config subtracts the mean of each channel, they are torchvision's
Normalize(mean, std). Our inputs are scaled by one `augment.scale` instead, and so the division by three std is folded
into the first kernel; padding is zero in both. Inputs of any other net follow its config: pixels from 0 to 255, minus
the tensor mean_image [3 s s] if there is one, times `augment.scale`. The metadata also hold the configuration, the step
and the names of the classes, as those of our own weights files do.
"""

import json
import warnings
from pathlib import Path

import numpy as np

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.data.pipeline import statistics
from alexnet_jax.errors import CheckpointError, ConfigError
from alexnet_jax.inference import trained, weights
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.interop import layout
from alexnet_jax.model import operations
from alexnet_jax.specs import Config, ModelSpec, Text

#: Of R, G, B in [0, 1], with which torchvision's weights were trained.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def save(path: str | Path, run: TrainedModel) -> None:
    """Write the state dict of `run` as .safetensors. Raises StorageError, and ConfigError for a local layer.

    The first kernel of a net with channel means is float64, so that the folding can be undone to the last bit;
    PyTorch's load_state_dict makes it float32.
    """
    spec, means = run.config, run.statistics
    names = tensor_names(spec.model)
    ours = files.flatten(run.variables)
    theirs = layout.to_channels_first(spec, ours)
    tensors = {names[name]: array for name, array in theirs.items()}
    metadata = {"format": "pt", **trained.metadata_of(run)}
    if spec.augment.mean == "channel":
        tensors["features.0.weight"] = tensors["features.0.weight"] * _factors(spec, STD)
        metadata["mean"] = json.dumps([float(mean) / 255 for mean in means.channel_mean])
        metadata["std"] = json.dumps(STD)
    else:
        seen = {key: getattr(spec.augment, key) for key in ("mean", "scale", "crop_size")}
        metadata["input"] = json.dumps(seen)
    if spec.augment.mean in ("pixel", "image_center"):
        tensors["mean_image"] = means.mean_image.transpose(2, 0, 1)
    weights.write(Path(path), tensors, metadata)


def load(
    path: str | Path, spec: Config, tree: dict, content: weights.Content | None = None
) -> TrainedModel:
    """Load the network of a .safetensors file or, if PyTorch is installed, of a .pth file.

    Args:
        spec: The checked config of the network.
        tree: The same config as nested dicts.
        content: What `read` returned for the file, if it was read already.

    Raises:
        CheckpointError: Names the tensor that is missing, unknown, of another shape or type, or not finite.
    """
    tensors, metadata = content or read(path)
    names = tensor_names(spec.model)
    if spec.model.num_classes is None:
        last = tensors.get(names[f"params/{spec.model.fcs[-1][0]}/bias"], np.zeros(2))
        spec = configs.with_classes(spec, max(last.size, 2))
    shapes = layout.shapes_channels_first(weights.shapes(spec))
    expected = {names[name]: shape for name, shape in shapes.items()}
    means = statistics.zeros(spec.data.image_size)
    if spec.augment.mean == "channel":
        mean = (255 * _numbers(path, metadata, "mean", MEAN)).astype(np.float32)
        mean_image = np.broadcast_to(mean, means.mean_image.shape)
        means = means._replace(mean_image=mean_image, channel_mean=mean)
        kernel = tensors.get("features.0.weight", np.zeros(0))
        if kernel.shape == expected["features.0.weight"] and kernel.dtype.kind == "f":
            factors = _factors(spec, _numbers(path, metadata, "std", STD))
            with np.errstate(all="ignore"):  # values that are not finite are refused below
                tensors["features.0.weight"] = (kernel / factors).astype(np.float32)
    elif spec.augment.mean in ("pixel", "image_center"):
        expected["mean_image"] = means.mean_image.transpose(2, 0, 1).shape
    weights.check_shapes(path, tensors, expected)
    if "mean_image" in expected:
        mean_image = tensors["mean_image"].transpose(1, 2, 0)
        means = means._replace(mean_image=mean_image, channel_mean=mean_image.mean((0, 1)))
    theirs = {name: tensors[names[name]] for name in names}
    ours = layout.from_channels_first(path, spec, theirs)
    described = trained.Description(spec, tree, 0, _class_names(path, metadata, spec.model))
    return described.with_tensors(ours, means)


def tensor_names(model: ModelSpec) -> dict[str, str]:
    """Map the name of each tensor to PyTorch's, such as 'params/conv1/kernel' to 'features.0.weight'.

    Raises ConfigError for a local layer, and for a net without convolutions.
    """
    layout.refuse_local(model, "torchvision")
    if not model.convs:
        raise ConfigError("config.model.convs is empty: torchvision's format needs a convolution")
    names = {}
    for sequence, layers in (("features", model.convs), ("classifier", model.fcs)):
        nodes = [node for name, spec in layers for node in operations.nodes(name, spec)]
        for position, node in enumerate(nodes):
            for ours, theirs in node.tensors.items():
                names[ours] = f"{sequence}.{position}.{theirs}"
    return names


def _factors(spec: Config, std) -> np.ndarray:
    """Return the float64 ratios of our inputs to (pixels / 255 - mean) / std, by channel, for [out 3 kh kw]."""
    return (255 * spec.augment.scale * np.asarray(std, np.float64))[:, None, None]


def read(path: str | Path) -> weights.Content:
    """The tensors and metadata of a state dict, without the names that DataParallel adds.

    PyTorch reads it unless the file ends in .safetensors. Raises CheckpointError, and ConfigError without PyTorch.
    """
    path = Path(path)
    is_safetensors = path.suffix == ".safetensors"
    tensors, metadata = weights.read(path) if is_safetensors else (_read_pth(path), {})
    return {
        ".".join(part for part in name.split(".") if part != "module"): array
        for name, array in tensors.items()
        if not name.endswith(".num_batches_tracked")
    }, metadata


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    """Read with PyTorch, which with weights_only=True executes nothing in the file."""
    needed = (
        f"{path}: a .pth file needs torch 2.10 or newer; where torch is installed, safetensors.torch.save_file("
        "torch.load(FILE, weights_only=True), OUT) converts it to .safetensors"
    )
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise ConfigError(needed) from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10):
        raise ConfigError(needed)
    if other := files.not_regular(path):
        raise CheckpointError(f"cannot read {path}: {other}")
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        # The unpickler warns of what the error below reports.
        with warnings.catch_warnings(action="ignore"):
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)  # a checkpoint of PyTorch's ImageNet example
        return {str(name): tensor.detach().numpy() for name, tensor in state.items()}
    # A damaged file can raise nearly anything, with a message that advises to execute the file.
    except Exception:
        raise CheckpointError(
            f"{path} is not a readable state dict: it is damaged, or holds objects other than tensors, which are not "
            "loaded because that can execute code in the file"
        ) from None


def _numbers(path, metadata: dict[str, str], key: str, default) -> np.ndarray:
    """Read three numbers from the metadata; return `default` if there are none."""
    try:
        three = list[float]
        numbers = np.asarray(files.parse_json(metadata[key], three) if key in metadata else default)
    except ValueError:
        numbers = np.zeros(0)
    lowest = 1e-6 if key == "std" else -1e6
    if numbers.shape != (3,) or not ((numbers >= lowest) & (numbers <= 1e6)).all():
        raise CheckpointError(f"{path}: {key} of its metadata is not three numbers")
    return numbers


def _class_names(path, metadata: dict[str, str], model: ModelSpec) -> tuple[str, ...]:
    """Return the class names in the metadata, or numbers if there are none."""
    numbers = tuple(map(str, range(model.num_classes or 0)))
    try:
        found = metadata.get("class_names")
        names = list(numbers) if found is None else files.parse_json(found, list[Text])
    except ValueError:
        names = []
    if len(names) != len(numbers):
        raise CheckpointError(f"{path}: class_names of its metadata is not {len(numbers)} names")
    return tuple(names)
