"""Load a trained network, with its config and input statistics, from a run folder or a .safetensors file.

A weights file has no optimizer state, and reading it executes no code. Its tensors are named params/conv1/kernel,
batch_stats/..., statistics/mean_image; its metadata are the config, the class names and the step, as JSON. Shapes are
Flax's: convolution kernels [kh kw in out], dense kernels [in out].
"""

import json
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.data.pipeline import statistics
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import CheckpointError, ConfigError, StorageError
from alexnet_jax.inference import weights
from alexnet_jax.run import reading
from alexnet_jax.specs import MOST_STEPS, Config, Text

SCHEMA = "1"
#: The weights that come with the package.
SHIPPED = Path(__file__).parents[1] / "weights"
#: Which checkpoint of a run folder: the one of a step, the one with the lowest validation error, or (None) the newest;
#: in a finished run with train.patience, the one that its results are of.
Step = int | Literal["best"] | None


class TrainedModel(NamedTuple):
    """A trained network: configuration, parameters, input statistics and class names."""

    config: Config
    #: The same configuration as in config.json.
    config_tree: dict[str, Any]
    #: Training step of the parameters; 0 if they were imported.
    step: int
    #: Flax's collection "params", as nested dicts of NumPy arrays.
    params: dict[str, Any]
    #: Flax's collection "batch_stats"; {} without batch normalization.
    batch_stats: dict[str, Any]
    statistics: Statistics
    class_names: tuple[str, ...]

    @property
    def variables(self) -> dict[str, Any]:
        """The collections of Flax."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def load(path: str | Path, step: Step = None) -> TrainedModel:
    """Load a checkpoint of a run folder, a .safetensors file, or weights that come with the package, by their name.

    Raises:
        StorageError: `path` has no network or a damaged one.
        ConfigError: `step` is "best" and no checkpoint has a validation error, or a `step` is given for a file.
    """
    path = _shipped(path)
    if Path(path).suffix == ".safetensors":
        if step is not None:
            raise ConfigError(f"{path} is a single set of weights and has no other steps")
        return load_file(path)
    tree = reading.read_config(Path(path))
    if not files.is_utf8(Path(path).absolute()):
        raise StorageError(reading.not_utf8(Path(path).absolute()))
    from alexnet_jax.inference import checkpoints

    folder, spec = Path(path).absolute() / "checkpoints", configs.parse(tree)
    if step is None:
        step = _reported_step(Path(path), spec)
    found = checkpoints.latest(folder, _best_step(path, spec) if step == "best" else step)
    if found is None:
        raise StorageError(
            f"no checkpoint in {folder}: train first with python -m alexnet_jax.main --workdir {path}"
        )
    step, meta = found
    variables = checkpoints.load_variables(folder, step)
    spec = configs.with_classes(spec, len(meta["class_names"]))
    return TrainedModel(spec, tree, step, variables["params"], variables["batch_stats"],
                        checkpoints.load_statistics(folder, step), tuple(meta["class_names"]))  # fmt: skip


def _shipped(path: str | Path) -> str | Path:
    """Return the packaged weights file that `path` names, such as tiny_imagenet, or `path` itself."""
    if not re.fullmatch(r"\w+", str(path)) or Path(path).exists():
        return path
    return next(iter(sorted(SHIPPED.glob(f"{path}-*.safetensors"))), path)


def load_file(path: str | Path, content: weights.Content | None = None) -> TrainedModel:
    """Load a .safetensors file that `save` wrote.

    Args:
        content: What `weights.read` returned for the file, if it was read already.

    Raises:
        CheckpointError: The file is damaged, or its tensors are not those of the network in its config.
    """
    tensors, metadata = content or weights.read(path)
    if metadata.get("format") != "alexnet_jax":
        raise CheckpointError(
            f"{path} has weights of another program: convert it with alexnet import"
        )
    if metadata.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path} has schema {metadata.get('schema')!r}; this version reads {SCHEMA!r}"
        )
    described = read_metadata(path, metadata)
    spec = described.config
    means = statistics.shapes(spec.data.image_size)
    expected = weights.shapes(spec) | {f"statistics/{name}": shape for name, shape in means.items()}
    weights.check_shapes(path, tensors, expected)
    loaded = Statistics(**{name: tensors[f"statistics/{name}"] for name in means})
    return described.with_tensors(tensors, loaded)


class Description(NamedTuple):
    """What the metadata of a weights file say of its network; the fields are those of TrainedModel."""

    config: Config
    config_tree: dict[str, Any]
    step: int
    class_names: tuple[str, ...]

    def with_tensors(self, tensors: dict[str, np.ndarray], means: Statistics) -> TrainedModel:
        """Return the network with these tensors, named as 'params/conv1/kernel', and input statistics."""
        found = files.unflatten(tensors)
        return TrainedModel(self.config, self.config_tree, self.step, found["params"], found.get("batch_stats", {}),
                            means, self.class_names)  # fmt: skip


def read_metadata(path: str | Path, metadata: dict[str, str]) -> Description:
    """Read what `metadata_of` returned, from the file `path`. Raises CheckpointError."""
    try:
        tree = files.parse_json(metadata["config"], dict[str, Any])
        names = files.parse_json(metadata["class_names"], list[Text])
        step = files.parse_json(metadata["step"], int)
        if not 0 <= step <= MOST_STEPS:
            raise ValueError(f"step is {step}")
        spec = configs.with_classes(configs.parse(tree), len(names))
    except (KeyError, ValueError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"{path}: its metadata are damaged: {error}") from None
    return Description(spec, tree, step, tuple(names))


def metadata_of(model: TrainedModel) -> dict[str, str]:
    """Configuration, class names and step as the metadata of a weights file; no path but its last part."""
    tree = model.config_tree
    if data_path := tree["data"]["path"]:  # the rest is specific to one machine
        tree = tree | {"data": tree["data"] | {"path": Path(data_path).name}}
    return {
        "config": json.dumps(tree, sort_keys=True),
        "class_names": json.dumps(model.class_names),
        "step": str(model.step),
    }


def save(path: str | Path, model: TrainedModel) -> Path:
    """Write `model` to a .safetensors file; equal networks give equal bytes. Raises StorageError."""
    metadata = {"format": "alexnet_jax", "schema": SCHEMA, **metadata_of(model)}
    arrays = {
        "params": model.params,
        "batch_stats": model.batch_stats,
        "statistics": model.statistics._asdict(),
    }
    weights.write(Path(path), files.flatten(arrays), metadata)
    return Path(path)


def load_config(path: str | Path) -> Config:
    """Load the config of a run folder, with the number of classes of its data. Raises StorageError."""
    spec = configs.parse(reading.read_config(Path(path)))
    if spec.model.num_classes is None:
        from alexnet_jax.inference import checkpoints

        if found := checkpoints.latest(Path(path).absolute() / "checkpoints"):
            return configs.with_classes(spec, len(found[1]["class_names"]))
    return spec


def _reported_step(path: Path, spec: Config) -> int | None:
    """Return the step that the results of a finished run with train.patience are of; None for the newest."""
    from alexnet_jax.inference import checkpoints

    results = reading.read_results(path) if spec.train.patience is not None else None
    steps = checkpoints.committed_steps(path.absolute() / "checkpoints")
    is_newest = results and steps and results.get("last_step") == steps[-1]
    return results["step"] if results and is_newest and results["step"] in steps else None


def _best_step(path: str | Path, spec: Config) -> int:
    """Return the step of the checkpoint with the lowest validation error. Raises ConfigError."""
    from alexnet_jax.inference import checkpoints

    steps = checkpoints.committed_steps(Path(path) / "checkpoints")
    lines = reading.read_metrics(path, missing_ok=True)
    best = checkpoints.best_step(steps, reading.validation_errors(lines, spec))
    if best is None:
        raise ConfigError(
            f"no checkpoint of {path} has a validation error to choose the best by: leave --step out for the newest"
        )
    return best
