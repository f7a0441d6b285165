"""A trained network, from a run folder or a weights file."""

from pathlib import Path
from typing import Literal

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.errors import ConfigError, StorageError
from alexnet_jax.inference import weights
from alexnet_jax.inference.weights import Run
from alexnet_jax.run import workdir
from alexnet_jax.specs import Config

Step = int | Literal["best"] | None
"""Which checkpoint: that of a step, the one with the lowest validation error, or the newest."""


def load(path: str | Path, step: Step = None) -> Run:
    """The newest checkpoint of a run folder, the one that `step` says, or a .safetensors file.

    Arrays are NumPy. Raises StorageError, and ConfigError where no checkpoint has a validation error.
    """
    if Path(path).suffix == ".safetensors":
        if step is not None:
            raise ConfigError(f"{path} is one set of weights: it has no other steps")
        return weights.load(path)
    tree = workdir.read_config(Path(path))
    if not files.is_utf8(Path(path).absolute()):
        raise StorageError(workdir.not_utf8(Path(path).absolute()))
    from alexnet_jax.inference import checkpoints

    folder, spec = Path(path).absolute() / "checkpoints", configs.parse(tree)
    found = checkpoints.latest(folder, _best(path, spec) if step == "best" else step)
    if found is None:
        raise StorageError(
            f"no checkpoint in {folder}: train first with python -m alexnet_jax.main --workdir {path}"
        )
    step, meta = found
    variables = checkpoints.load_variables(folder, step)
    spec = configs.with_classes(spec, len(meta["class_names"]))
    return Run(spec, tree, step, variables["params"], variables["batch_stats"],
               checkpoints.load_statistics(folder, step), tuple(meta["class_names"]))  # fmt: skip


def _best(path: str | Path, spec: Config) -> int:
    """The step of the checkpoint with the lowest validation error. Raises ConfigError."""
    from alexnet_jax.inference import checkpoints

    steps = checkpoints.committed_steps(Path(path) / "checkpoints")
    errors = workdir.validation_errors(path, spec)
    best = checkpoints.best_step(steps, errors)
    if best is None:
        raise ConfigError(
            f"no checkpoint of {path} has a validation error, so none is the best: leave --step out for the newest"
        )
    return best


def load_config(path: str | Path) -> Config:
    """The checked config a run folder was trained with, with the classes that were counted. Raises StorageError."""
    spec = configs.parse(workdir.read_config(Path(path)))
    if spec.model.num_classes is None:
        from alexnet_jax.inference import checkpoints

        if found := checkpoints.latest(Path(path).absolute() / "checkpoints"):
            return configs.with_classes(spec, len(found[1]["class_names"]))
    return spec
