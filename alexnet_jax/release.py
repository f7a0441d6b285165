"""Trained networks as files for others: .safetensors, each with a card that says what it is and how well it does.

python -m alexnet_jax.release --workdir W --out DIR [--steps all] [--data-path PATH]

A card is a JSON file beside the weights: configuration, seed, step, commit, machine, images, errors with their
protocol, and the SHA-256 of the weights. python -m alexnet_jax.verify checks the one against the other. With
--config.train.keep_powers_of_two=True a run keeps its states of steps 0, 1, 2, 4, 8 ..., which --steps all releases.
"""

import json
import time
from pathlib import Path

import numpy as np

from alexnet_jax import cli, files, workdir
from alexnet_jax.errors import ConfigError, StorageError


def main(arguments: list[str]) -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", required=True, help="the run folder")
    parser.add_argument("--out", required=True, help="the folder for the files")
    parser.add_argument("--steps", nargs="+", help="all, or some; default: the newest")
    parser.add_argument(
        "--data-path", help="where the images are now; default: where they were in training"
    )
    options = parser.parse_args(arguments)
    if Path(options.workdir).suffix == ".safetensors":
        raise ConfigError("--workdir: a release is made from a run folder, which knows its history")
    for step in _steps(options.workdir, options.steps):
        print(release(options.workdir, step, Path(options.out), options.data_path))


def release(folder: str | Path, step: int | None, out: Path, data_path: str | None = None) -> Path:
    """Write NAME.safetensors and NAME.json of a checkpoint into `out`; the path of the weights.

    Raises StorageError, and DataError where the images are not those the run was trained on.
    """
    from alexnet_jax import network, weights

    net = network.load(folder, step)
    run = net.run
    name = f"{run.config.name.replace(':', '-').replace(',', '-')}-seed{run.config.seed}-step{run.step}"
    results, data = evaluate(net, data_path)
    try:
        out.mkdir(parents=True, exist_ok=True)
        path = weights.save(out / f"{name}.safetensors", run)
        content = card(run, path, Path(folder), results, data)
        files.write_atomically(path.with_suffix(".json"), json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise StorageError(f"cannot write to {out}: {error.strerror}") from None
    return path


def card(run: workdir.Run, path: Path, folder: Path, results: dict, data: dict) -> dict:
    """What a card says of the weights at `path`, from a checkpoint of the run in `folder`."""
    import jax

    environment = workdir.Workdir(folder).environment() or {}
    return {
        "schema": 1,
        "file": path.name,
        "sha256": files.sha256_of(path),
        "config": run.config.name,
        "seed": run.config.seed,
        "step": run.step,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(run.params)),
        "commit": environment.get("commit"),
        "uncommitted_changes": environment.get("uncommitted_changes"),
        "trained_on": {
            key: environment.get(key) for key in ("platform", "processor", "cores", "versions")
        },
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "data": data,
        "splits": results,
    }


def evaluate(net, data_path: str | None) -> tuple[dict, dict]:
    """Errors of the center crop by split, as in results.json, and what the images were."""
    import dataclasses

    from alexnet_jax.data import sources
    from alexnet_jax.errors import DataError
    from alexnet_jax.evaluation import errors

    spec = net.run.config
    data = dataclasses.replace(spec.data, path=data_path or spec.data.path)
    dataset = sources.open_dataset(data, spec.seed)
    if tuple(dataset.class_names) != net.class_names:
        raise DataError(
            f"the classes of {data.path or data.source} are not those the run was trained on"
        )
    results = {}
    for name in [name for name in ("val", "test") if name in dataset.splits]:
        split = dataset.splits[name]
        chunks = np.array_split(np.arange(len(split.labels)), -(-len(split.labels) // 1024))
        probabilities = np.concatenate([net.predict(split.images[chunk]) for chunk in chunks])
        results[name] = {"center": errors.summarize(probabilities, split.labels)}
    described = {
        "source": data.source,
        "name": data.name or (Path(data.path).name if data.path else None),
        "images": {name: len(split.labels) for name, split in dataset.splits.items()},
        "fingerprint": dataset.fingerprint,
    }
    return results, described


def _steps(folder: str, wanted: list[str] | None) -> list[int | None]:
    if wanted is None:
        return [None]
    if wanted == ["all"]:
        from alexnet_jax.training import checkpoint

        steps = checkpoint.committed_steps(Path(folder).absolute() / "checkpoints")
        if not steps:
            raise StorageError(f"{folder} has no checkpoint; train first")
        return list(steps)
    try:
        return [int(step) for step in wanted]
    except ValueError:
        raise ConfigError(f"--steps takes numbers or all, not {' '.join(wanted)}") from None


if __name__ == "__main__":
    cli.run(main)
