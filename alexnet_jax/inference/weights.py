"""A trained network as one .safetensors file: its parameters, its input statistics and its configuration.

Unlike a run folder it holds nothing of training, executes nothing when it is read, and other programs can read it.
Tensors are named params/conv1/kernel, batch_stats/..., statistics/mean_image; the metadata hold the config, the
names of the classes and the step, as JSON. Shapes are Flax's: kernels [kh kw in out], dense ones [in out].
"""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.errors import CheckpointError, ConfigError, StorageError
from alexnet_jax.specs import MOST_STEPS, Config, Text

if TYPE_CHECKING:
    from alexnet_jax.data.pipeline.statistics import Statistics

SCHEMA = "1"
_READABLE = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
"""Types that NumPy has; others are refused before they are read."""


class Run(NamedTuple):
    """A trained network as evaluation and analysis take it."""

    config: Config
    config_tree: dict
    """The same as config.json has it."""
    step: int
    params: dict
    batch_stats: dict
    statistics: "Statistics"
    class_names: tuple[str, ...]


def save(path: str | Path, run: Run) -> Path:
    """Write the network of `run` to `path`, the same bytes for the same network. Raises StorageError."""
    trees = {"params": run.params, "batch_stats": run.batch_stats, "statistics": run.statistics._asdict()}  # fmt: skip
    config_tree = run.config_tree
    if where := config_tree["data"]["path"]:  # its name alone: the rest is of one machine
        config_tree = config_tree | {"data": config_tree["data"] | {"path": Path(where).name}}
    metadata = {
        "format": "alexnet_jax",
        "schema": SCHEMA,
        "config": json.dumps(config_tree, sort_keys=True),
        "class_names": json.dumps(run.class_names),
        "step": str(run.step),
    }
    write(Path(path), flat(trees), metadata)
    return Path(path)


def load(path: str | Path) -> Run:
    """The network of a file that `save` wrote; arrays are NumPy.

    Raises CheckpointError unless it has every tensor that its configuration asks for, in its shape, and no other.
    """
    from alexnet_jax.data.pipeline.statistics import Statistics

    tensors, metadata = read(path)
    if metadata.get("format") != "alexnet_jax":
        raise CheckpointError(f"{path} holds weights of another program: alexnet import reads them")
    if metadata.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path} has schema {metadata.get('schema')!r}; this version reads {SCHEMA!r}"
        )
    try:
        tree = files.parse_json(metadata["config"], dict[str, Any])
        names = files.parse_json(metadata["class_names"], list[Text])
        step = files.parse_json(metadata["step"], int)
        if not 0 <= step <= MOST_STEPS:
            raise ValueError(f"step is {step}")
        spec = configs.with_classes(configs.parse(tree), len(names))
    except (KeyError, ValueError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"{path}: its metadata are damaged: {error}") from None
    expected = _expected(spec)
    check_shapes(path, tensors, expected)
    found = nested(tensors)
    statistics = Statistics(**found["statistics"])
    return Run(
        spec, tree, step, found["params"], found.get("batch_stats", {}), statistics, tuple(names)
    )


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """A .safetensors file, the same bytes for the same tensors and metadata. Raises StorageError."""
    import safetensors.numpy

    # safetensors writes what an array's memory holds, and so must be given it in order.
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    encoded = _with_sorted_metadata(safetensors.numpy.save(tensors), metadata)
    try:
        files.write_atomically(path, encoded)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a .safetensors file, and its metadata. Raises CheckpointError."""
    import safetensors

    if other := files.not_regular(path):
        raise CheckpointError(f"cannot read {path}: {other}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            for name in names:
                dtype = file.get_slice(name).get_dtype()
                if dtype not in _READABLE:
                    raise CheckpointError(f"{path}: {name} is {dtype}, not float32")
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}") from None
    except (safetensors.SafetensorError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from None


def check_shapes(path: str | Path, tensors: dict, expected: dict[str, tuple[int, ...]]) -> None:
    """Raises CheckpointError unless `tensors` are float32, finite, and just those of `expected`, name -> shape."""
    for name in sorted(expected.keys() - tensors.keys()):
        raise CheckpointError(f"{path} has no tensor {name}")
    for name, array in tensors.items():
        if name not in expected:
            raise CheckpointError(f"{path} has a tensor {name}, which its network has not")
        if array.shape != expected[name]:
            raise CheckpointError(
                f"{path}: {name} has shape {array.shape}, but its network has {expected[name]}"
            )
        if array.dtype != np.float32:
            raise CheckpointError(f"{path}: {name} is {array.dtype}, not float32")
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} is not finite")


def looks_untrained(kernel: np.ndarray) -> bool:
    """Whether first-layer kernels [kh kw c n] look like independent random numbers, as initial weights are.

    Those of trained nets are smooth: weights that are neighbors in a row or column correlate by 0.3 and more.
    Independent ones correlate by chance, by 1 / root of their number.
    """
    centered = kernel - kernel.mean()
    pairs = [(centered[1:], centered[:-1]), (centered[:, 1:], centered[:, :-1])]
    number = sum(a.size for a, _ in pairs)
    if number == 0:  # kernels of one pixel
        return False
    products = sum(float((a * b).sum()) for a, b in pairs)
    energy = sum(float(np.sqrt((a**2).sum() * (b**2).sum())) for a, b in pairs)
    return products <= max(0.1, 4 / number**0.5) * energy


def shapes(spec) -> dict[str, tuple[int, ...]]:
    """'params/conv1/kernel' -> shape, of every parameter and running average of the network of a Config."""
    return dict(_shapes(spec.model, spec.augment.crop_size))


@functools.cache
def _shapes(model, input_size: int) -> dict[str, tuple[int, ...]]:
    import jax

    from alexnet_jax.model import alexnet

    init = functools.partial(alexnet.init, alexnet.AlexNet(model), input_size=input_size)
    made = jax.eval_shape(init, jax.random.key(0))
    return {name: leaf.shape for name, leaf in flat(made).items()}


def _expected(spec) -> dict[str, tuple[int, ...]]:
    from alexnet_jax.data.pipeline import statistics

    means = statistics.shapes(spec.data.image_size)
    return shapes(spec) | {f"statistics/{name}": shape for name, shape in means.items()}


def flat(tree: dict) -> dict:
    """{'params/conv1/kernel': array, ...} of nested dicts."""
    from flax import traverse_util

    return traverse_util.flatten_dict(tree, sep="/")


def nested(tensors: dict) -> dict:
    """The inverse of `flat`."""
    from flax import traverse_util

    return traverse_util.unflatten_dict(tensors, sep="/")


def _with_sorted_metadata(encoded: bytes, metadata: dict[str, str]) -> bytes:
    """A safetensors file with metadata in a fixed order: the library's own order changes from run to run."""
    size = int.from_bytes(encoded[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(encoded[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + encoded[8 + size :]
