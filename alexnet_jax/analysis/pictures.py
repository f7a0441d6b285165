"""Select the images of a figure: a split of the data, a random sample of it, or files."""

import argparse
import dataclasses
import glob
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax import files
from alexnet_jax.data.pipeline import splits
from alexnet_jax.data.pipeline.splits import Dataset, Split
from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.evaluation import target

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network
    from alexnet_jax.inference.trained import TrainedModel


log = logging.getLogger(__name__)


class Pictures(NamedTuple):
    """The images of a figure."""

    #: uint8 [n s s 3], at the size of the training images.
    pixels: np.ndarray
    #: int [n]; None for files.
    labels: np.ndarray | None
    #: The path of a file, or split and index, such as 'test 42'.
    names: list[str]


def add_arguments(parser: argparse.ArgumentParser, count: int | None = None) -> None:
    """Add --split and --data-path; if `count` is given, also --images, --count (with this default) and --seed."""
    parser.add_argument("--split", help=target.SPLIT_HELP)
    parser.add_argument(
        "--data-path", help="where the images are now; default: where they were in training"
    )
    if count is None:
        return
    parser.add_argument(
        "--images", nargs="+", metavar="PATH", help="image files, folders and patterns in quotes, instead of --split"
    )  # fmt: skip
    parser.add_argument(
        "--count", type=int, default=count, help=f"number of images of the split; default: {count}"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the selection; default: 0")


def select(net: "Network", options: argparse.Namespace, dataset: Dataset | None = None) -> Pictures:
    """Load the images selected on the command line. Raises ConfigError and DataError.

    `dataset` is the training data, if it is open already.
    """
    if options.images:
        paths = list_files(options.images)
        return Pictures(net.pixels(paths), None, list(map(str, paths)))
    name, dataset = load_split(net.trained, options.data_path, options.split, dataset)
    return sample(dataset.splits[name], name, options.count, options.seed)


def sample(split: Split, name: str, count: int, seed: int) -> Pictures:
    """Choose `count` random images of a split, in its order. Raises ConfigError."""
    if not 0 < count <= len(split.labels) or seed < 0:
        raise ConfigError(
            f"--count must be from 1 to {len(split.labels)}, the images of {name}, and --seed at least 0"
        )
    numbers = splits.drawn(len(split.labels), count, seed)
    names = [f"{name} {number}" for number in numbers]
    return Pictures(np.asarray(split.images[numbers]), split.labels[numbers], names)


def load_dataset(run: "TrainedModel", data_path: str | None) -> Dataset:
    """Open the training data of a network, at `data_path` if it has moved. Raises DataError."""
    data = run.config.data
    return target.open_dataset(run, dataclasses.replace(data, path=data_path or data.path))


def load_split(
    run: "TrainedModel", data_path: str | None, name: str | None, dataset: Dataset | None = None
) -> tuple[str, Dataset]:
    """Return the split to use (`name`, or splits.default) and the training data, opened here unless it is given.

    Raises DataError.
    """
    dataset = dataset or load_dataset(run, data_path)
    if name and name not in dataset.splits:
        where = data_path or run.config.data.path or run.config.data.source
        raise DataError(f"{where} has no split {name!r}; it has {', '.join(dataset.splits)}")
    return name or splits.default(dataset.splits), dataset


def list_files(paths: Sequence[str | Path]) -> list[Path]:
    """List the files in `paths`, and, sorted, the image files below folders and those that match glob patterns.

    Raises DataError if there is no such file or image.
    """
    from alexnet_jax.data.sources.tree import SUFFIXES, images_below

    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists() and glob.has_magic(str(path)):
            found += _matching(str(path))
            continue
        if not path.is_dir():
            if fault := files.not_regular(path):
                raise DataError(f"cannot read {path}: {fault}")
            if not path.exists():
                raise DataError(f"there is no file {path}")
            found.append(path)
            continue
        inside, notes = images_below(path)
        for note in notes:
            log.warning("%s: %s", path, note)
        if not inside:
            raise DataError(f"no image in {path}: none of {', '.join(SUFFIXES)}")
        found += inside
    return found


def _matching(pattern: str) -> list[Path]:
    """The image files that match a glob pattern, sorted. Raises DataError if there is none."""
    from alexnet_jax.data.sources.tree import SUFFIXES

    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
    images = [path for path in matches if path.is_file() and path.suffix.lower() in SUFFIXES]
    if not images:
        others = f"; its {len(matches):,} matches are no image files" if matches else ""
        raise DataError(f"no image matches {pattern}{others}")
    return images


def crops(net: "Network", pixels: np.ndarray) -> np.ndarray:
    """Cut the center crops of images [n s s 3] as for the network, but return them as uint8 [n c c 3]."""
    import jax.numpy as jnp

    from alexnet_jax.data.pipeline import augment, views

    spec = net.trained.config.augment
    images = np.asarray(augment.resized(jnp.asarray(pixels), spec))
    [(top, left, _)] = views.center(images.shape[1], spec.crop_size)
    cropped = images[:, top : top + spec.crop_size, left : left + spec.crop_size]
    return np.clip(np.rint(cropped), 0, 255).astype(np.uint8)


def inputs(net: "Network", crops: Any) -> Any:
    """Return the inputs float32 [n c c 3] of the network for center crops [n c c 3] with values from 0 to 255.

    Preprocessed as `Network.inputs` does it with whole images; for functions to jit and to differentiate.
    """
    import jax.numpy as jnp

    from alexnet_jax.data.pipeline import views

    size = net.trained.config.uncropped_size
    [(before, _, _)] = views.center(size, crops.shape[1])
    after = size - before - crops.shape[1]
    return net.inputs(jnp.pad(crops, [(0, 0), *2 * [(before, after)], (0, 0)]))[:, 0]
