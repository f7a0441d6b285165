"""The images that a figure is about: a split of the data of a run, some of it by chance, or files."""

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.evaluation import target

if TYPE_CHECKING:
    from alexnet_jax.data.pipeline.splits import Dataset, Split
    from alexnet_jax.inference.network import Network
    from alexnet_jax.inference.trained import TrainedModel


log = logging.getLogger(__name__)


class Pictures(NamedTuple):
    pixels: np.ndarray
    """uint8 [n s s 3], as the network was trained on."""
    labels: np.ndarray | None
    """int [n], or None of files."""
    names: list[str]
    """'test 42', the 42nd of a split from 0, or the path of a file."""


def add_arguments(parser: argparse.ArgumentParser, count: int | None = None) -> None:
    """Those that say which images: a split; with `count` also those that `chosen` reads, and their default number."""
    parser.add_argument("--split", help=target.SPLIT_HELP)
    parser.add_argument(
        "--data-path", help="where the images are now; default: where they were in training"
    )
    if count is None:
        return
    parser.add_argument(
        "--images", nargs="+", metavar="PATH", help="image files or folders of them, instead of --split"
    )  # fmt: skip
    parser.add_argument(
        "--count", type=int, default=count, help=f"how many of the split; default: {count}"
    )
    parser.add_argument("--seed", type=int, default=0, help="of their choice by chance; default: 0")


def chosen(net: "Network", options: argparse.Namespace) -> Pictures:
    """The images that the command line asks for. Raises ConfigError, DataError."""
    if options.images:
        paths = listed(options.images)
        return Pictures(net.pixels(paths), None, list(map(str, paths)))
    name, dataset = load_split(net.run, options.data_path, options.split)
    return drawn(dataset.splits[name], name, options.count, options.seed)


def drawn(split: "Split", name: str, count: int, seed: int) -> Pictures:
    """`count` images of a split, by chance, in the order of their numbers. Raises ConfigError."""
    if not 0 < count <= len(split.labels) or seed < 0:
        raise ConfigError(
            f"--count is from 1 to the {len(split.labels)} images of {name}, and --seed not below 0"
        )
    numbers = np.sort(np.random.default_rng(seed).permutation(len(split.labels))[:count])
    names = [f"{name} {number}" for number in numbers]
    return Pictures(np.asarray(split.images[numbers]), split.labels[numbers], names)


def load(run: "TrainedModel", data_path: str | None) -> "Dataset":
    """The data that a network was trained on, wherever they are now. Raises DataError."""
    data = run.config.data
    return target.open_dataset(run, dataclasses.replace(data, path=data_path or data.path))


def load_split(run: "TrainedModel", data_path: str | None, name: str | None) -> "tuple[str, Dataset]":
    """The same, with at least the split `name`; and that name, by default splits.default. Raises DataError."""
    from alexnet_jax.data.pipeline import splits

    dataset = load(run, data_path)
    if name and name not in dataset.splits:
        where = data_path or run.config.data.path or run.config.data.source
        raise DataError(f"{where} has no split {name!r}; it has {', '.join(dataset.splits)}")
    return name or splits.default(dataset.splits), dataset


def listed(paths: Sequence[str | Path]) -> list[Path]:
    """The files among `paths`, and all image files in its folders, in sorted order. Raises DataError."""
    from alexnet_jax.data.sources.tree import SUFFIXES, images_below

    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        inside, notes = images_below(path)
        for note in notes:
            log.warning("%s: %s", path, note)
        if not inside:
            raise DataError(f"no image in {path}: none of {', '.join(SUFFIXES)}")
        found += inside
    return found


def crops(net: "Network", pixels: np.ndarray) -> np.ndarray:
    """uint8 [n c c 3]: what the center crop shows of uint8 [n s s 3], at the size at which the net sees it."""
    from alexnet_jax.data.pipeline import augment, views

    spec = net.run.config.augment
    images = np.asarray(augment.resized(pixels, spec))
    [(top, left, _)] = views.center(images.shape[1], spec.crop_size)
    cropped = images[:, top : top + spec.crop_size, left : left + spec.crop_size]
    return np.clip(np.rint(cropped), 0, 255).astype(np.uint8)
