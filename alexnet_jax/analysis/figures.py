"""What the figures share: their command line, the images they show, and the two files they write."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_jax import cli, files
from alexnet_jax.errors import ConfigError, DataError, StorageError

if TYPE_CHECKING:
    from alexnet_jax.data.splits import Split
    from alexnet_jax.network import Network

DPI = 120


def parser(description: str) -> argparse.ArgumentParser:
    """With the arguments that every figure of a network takes."""
    made = cli.parser(description)
    made.add_argument("--workdir", required=True, help="a run folder, or a .safetensors file")
    made.add_argument("--step", type=int, help="the checkpoint of a run; default: the newest")
    made.add_argument("--out", metavar="DIR", help="folder of the figure; default: WORKDIR/figures")
    made.add_argument(
        "--data-path", help="where the images are now; default: where they were in training"
    )
    return made


def folder(options: argparse.Namespace) -> Path:
    """Where the figure goes, made if need be. Raises ConfigError, StorageError."""
    if options.out is None and Path(options.workdir).suffix == ".safetensors":
        raise ConfigError(
            f"{options.workdir} is a file: say with --out which folder the figure goes to"
        )
    if options.out is None and not (Path(options.workdir) / "config.json").is_file():
        raise StorageError(f"{options.workdir} is not a run folder: it has no config.json")
    path = Path(options.out) if options.out else Path(options.workdir) / "figures"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path}: {error.strerror}") from None
    return path


def load_split(net: "Network", name: str, data_path: str | None = None) -> "Split":
    """The split `name` of the data that `net` was trained on, wherever they are now. Raises DataError."""
    import dataclasses

    from alexnet_jax.data import sources

    spec = net.run.config
    data = dataclasses.replace(spec.data, path=data_path or spec.data.path)
    where = data.path or data.source
    dataset = sources.open_dataset(data, spec.seed)
    if tuple(dataset.class_names) != net.class_names:
        raise DataError(f"the classes of {where} are not those the network was trained on")
    if name not in dataset.splits:
        raise DataError(f"{where} has no split {name!r}; it has {', '.join(dataset.splits)}")
    return dataset.splits[name]


def crops(net: "Network", pixels: np.ndarray) -> np.ndarray:
    """uint8 [n c c 3]: what the center crop shows of uint8 [n s s 3], at the size at which the net sees it."""
    from alexnet_jax.data import augment
    from alexnet_jax.evaluation import views

    spec = net.run.config.augment
    images = np.asarray(augment.resized(pixels, spec))
    [(top, left, _)] = views.center(images.shape[1], spec.crop_size)
    cropped = images[:, top : top + spec.crop_size, left : left + spec.crop_size]
    return np.clip(np.rint(cropped), 0, 255).astype(np.uint8)


def save(figure, numbers: dict, path: Path) -> Path:
    """Write a matplotlib figure to `path`, a PNG, and its numbers as JSON beside it. Raises StorageError."""
    try:
        figure.savefig(path, dpi=DPI)
        text = json.dumps({"schema": 1, **numbers}, indent=1, allow_nan=False)
        files.write_atomically(path.with_suffix(".json"), text + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None
    return path
