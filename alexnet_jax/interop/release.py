"""Release trained networks as .safetensors files, each with a card that describes its origin and errors.

alexnet release --workdir W --out DIR [--steps all] [--data-path PATH]

A card is a JSON file beside the weights with the configuration, seed, step, commit, machine, images, errors and their
protocol, and the SHA-256 of the weights. alexnet verify checks the weights against the card. A run trained with
--config.train.keep_powers_of_two=True keeps the checkpoints of steps 0, 1, 2, 4, 8 ..., and --steps all releases them.
"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_jax import cli, files
from alexnet_jax.errors import ConfigError, StorageError
from alexnet_jax.run import reading

if TYPE_CHECKING:
    from alexnet_jax.evaluation.target import EvalTarget


def main(arguments: list[str]) -> None:
    """Run `alexnet release`."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", required=True, help="the run folder")
    parser.add_argument("--out", required=True, help="output folder")
    parser.add_argument("--steps", nargs="+", help="'all', or step numbers; default: the latest")
    parser.add_argument("--data-path", help="where the images are now; default: as in training")
    options = parser.parse_args(arguments)
    if Path(options.workdir).suffix == ".safetensors":
        raise ConfigError("--workdir must be a run folder, which has the history that a card needs")
    from alexnet_jax.evaluation.target import EvalTarget

    dataset = None
    for step in _steps(options.workdir, options.steps):
        target = EvalTarget(options.workdir, step, data_path=options.data_path)
        # The checkpoints of a run share its images, which are opened once, before anything is written.
        dataset = target.dataset = dataset or target.dataset
        print(release(target, Path(options.out)))


def release(target: "EvalTarget", out: Path) -> Path:
    """Write NAME.safetensors and NAME.json of a checkpoint into `out`, and return the path of the weights.

    Raises:
      DataError: The images do not have the classes of the run.
      StorageError: A file cannot be read or written.
    """
    from alexnet_jax.inference import trained

    run = target.trained
    config = run.config.name.replace(":", "-").replace(",", "-")
    try:
        out.mkdir(parents=True, exist_ok=True)
        path = trained.save(out / f"{config}-seed{run.config.seed}-step{run.step}.safetensors", run)
        content = json.dumps(card(target, path), indent=1)
        files.write_atomically(path.with_suffix(".json"), content + "\n")
    except OSError as error:
        raise StorageError(f"cannot write to {out}: {error.strerror}") from None
    return path


def card(target: "EvalTarget", path: Path) -> dict[str, Any]:
    """Return the card of the weights at `path`, exported from the run folder of `target`."""
    from alexnet_jax.model import alexnet

    run, data = target.trained, target.trained.config.data
    environment = reading.read_environment(target.path) or {}
    init_from = reading.begun_from(target.path)
    return {
        "schema": 1,
        "file": path.name,
        "sha256": files.sha256_of(path),
        "config": run.config.name,
        "seed": run.config.seed,
        "step": run.step,
        "begun_from": Path(init_from).name if init_from else None,
        "parameters": alexnet.count_parameters(run.params),
        "commit": environment.get("commit"),
        "uncommitted_changes": environment.get("uncommitted_changes"),
        "trained_on": {
            key: environment.get(key) for key in ("platform", "processor", "cores", "versions")
        },
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "data": {
            "source": data.source,
            "name": data.name or (Path(data.path).name if data.path else None),
            "images": {name: len(split.labels) for name, split in target.dataset.splits.items()},
            "fingerprint": target.dataset.fingerprint,
        },
        "splits": errors_of(target),
    }


def errors_of(target: "EvalTarget") -> dict[str, Any]:
    """Return {split: {"center": errors}} of the held-out splits, as in results.json."""
    from alexnet_jax.inference import metrics

    held_out = {name: target.dataset.splits.get(name) for name in ("val", "test")}
    return {
        name: {"center": metrics.summarize(target.probabilities(split, "center"), split.labels)}
        for name, split in held_out.items()
        if split
    }


def _steps(folder: str, wanted: list[str] | None) -> list[int | None]:
    if wanted is None:
        return [None]
    if wanted == ["all"]:
        from alexnet_jax.inference import checkpoints

        steps = checkpoints.committed_steps(Path(folder).absolute() / "checkpoints")
        if not steps:
            raise StorageError(f"{folder} has no checkpoint; train first")
        return list(steps)
    try:
        return [int(step) for step in wanted]
    except ValueError:
        raise ConfigError(f"--steps must be numbers or all, not {' '.join(wanted)}") from None


if __name__ == "__main__":
    cli.run(main)
