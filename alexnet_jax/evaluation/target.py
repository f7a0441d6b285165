"""A trained model and the dataset that it is evaluated on."""

import argparse
import dataclasses
import logging
import typing
from functools import cached_property
from pathlib import Path

import numpy as np

from alexnet_jax import cli, specs
from alexnet_jax.data.pipeline import identity, splits
from alexnet_jax.errors import ConfigError, DataError, listed
from alexnet_jax.inference import predictions, trained
from alexnet_jax.inference.predictions import Predictions
from alexnet_jax.inference.trained import Step, TrainedModel

log = logging.getLogger(__name__)

SPLIT_HELP = "test, val or train; default: the first of these that exists"
SOURCES = typing.get_args(specs.DataSpec.__annotations__["source"])


class EvalTarget:
    """A trained model and a dataset: that of its training, or another one with the same classes.

    Args:
        path: a run folder, or a .safetensors file.
        step: which checkpoint, as for trained.load.
        source: what kind of dataset `data_path` is; default: as in training.
        data_path: where the images are now; default: as in training.
        out: folder for predictions and figures; default: the run folder.

    Raises:
        StorageError: there is no trained model at `path`.
    """

    def __init__(
        self,
        path: str | Path,
        step: Step = None,
        source: str | None = None,
        data_path: str | None = None,
        out: str | Path | None = None,
    ) -> None:
        self.path, self.trained = Path(path), trained.load(path, step)
        data = self.trained.config.data
        if source not in (None, data.source):
            if not data_path and source not in specs.NO_FILES:
                raise ConfigError(f"--source {source} needs --data-path, which says where it is")
            data = dataclasses.replace(data, source=source, path=None, validation=0.0)
        self._data_spec = dataclasses.replace(data, path=data_path or data.path)
        self._is_other_data, self._out = bool(source or data_path), out
        self._predictors: dict[str, predictions.Predictor] = {}

    @property
    def _is_file(self) -> bool:
        return self.path.suffix == ".safetensors"

    @property
    def data(self) -> str:
        """The dataset in words, for messages."""
        return _describe(self._data_spec)

    @cached_property
    def dataset(self) -> splits.Dataset:
        """The dataset, with its classes in the order of the model. Raises DataError if they are not the same."""
        return open_dataset(self.trained, self._data_spec)

    @cached_property
    def folder(self) -> Path:
        """The folder for predictions and figures. Raises ConfigError if --out must be given."""
        if self._out:
            return Path(self._out)
        if self._is_file:
            raise ConfigError(f"{self.path} is not a folder: --out DIR says where the results go")
        if self._is_other_data:
            self.check_images()
        return self.path

    def check_images(self) -> None:
        """Raise ConfigError if results for other images than the run's would go into the run folder."""
        if self._out or self._is_file:
            return
        fingerprint = self._training_fingerprint
        if fingerprint is None and not self._is_other_data:
            return
        if fingerprint != self.dataset.fingerprint:
            why = (
                f"{self.data} does not have the images that {self.path} was trained with"
                if fingerprint
                else f"{self.path} was begun by an earlier version, which recorded no digests of its images"
            )
            raise ConfigError(
                f"{why}: --out DIR says where the results go, as they must not replace those of the run"
            )

    def split(self, name: str) -> splits.Split:
        """The split `name`. Raises DataError if there is none."""
        if name not in self.dataset.splits:
            raise DataError(
                f"{self.data} has no split {name!r}; it has {', '.join(self.dataset.splits)}"
            )
        return self.dataset.splits[name]

    def split_name(self, name: str | None, view: str) -> str:
        """`name`, or the default split (splits.default) of the dataset, or of saved predictions if it is gone."""
        if name:
            return name
        saved = [one for one in splits.PREFERRED if self._has_predictions(one, view)]
        if "test" in saved:  # the default in any case, which spares opening the dataset
            return "test"
        try:
            return splits.default(self.dataset.splits)
        except DataError:
            if not saved:
                raise
            return splits.default(saved)

    def compute(self, name: str, view: str) -> Predictions:
        """Compute and save the predictions for the split `name`."""
        split, folder = self.split(name), self.folder
        self.check_images()
        found = Predictions(self.probabilities(split, view), split.labels)
        predictions.save(folder, name, view, self.trained.step, found)
        return found

    def obtain(self, name: str, view: str) -> Predictions:
        """Load the predictions for the split `name` if the run folder has them, else compute them.

        Those of a weights file are saved only with `out`.
        """
        if self._is_file and not self._out:
            split = self.split(name)
            return Predictions(self.probabilities(split, view), split.labels)
        # Predictions in `out` may be another model's.
        step = self.trained.step
        if self._out or not predictions.path(self.folder, name, view, step).exists():
            return self.compute(name, view)
        found = predictions.load(self.folder, name, view, step)
        if found.probabilities.shape[1] != len(self.trained.class_names):
            file = predictions.path(self.folder, name, view, step)
            raise DataError(f"{file} is of a net with other classes; delete it and try again")
        return found

    def digests(self, name: str) -> np.ndarray | None:
        """Digests of the images that `obtain` predicts; None for a run of an earlier version, which kept none."""
        if self._out or self._is_file or self._is_other_data:
            return self.split(name).digests
        return (identity.read_record(self.path) or {}).get(f"{name}_digests")

    def probabilities(self, split: splits.Split, view: str) -> np.ndarray:
        """Class probabilities float32 [n classes] of every image of `split`, computed on all devices."""
        from alexnet_jax.inference.predict_step import make_eval_step
        from alexnet_jax.model import alexnet
        from alexnet_jax.model.mesh import device_mesh

        model, mesh = self.trained, device_mesh()
        if view not in self._predictors:
            network = alexnet.from_config(model.config)
            # Every device has the whole net, whatever the number of devices in training was.
            train = dataclasses.replace(model.config.train, split_dense=False)
            config = dataclasses.replace(model.config, train=train)
            step = make_eval_step(config, network, model.statistics, mesh, view)
            self._predictors[view] = predictions.predictor(
                step, model.params, model.batch_stats, mesh
            )
        size = predictions.batch_size(model.config, view, mesh)
        return predictions.predict_split(self._predictors[view], split, size)

    @cached_property
    def _training_fingerprint(self) -> str | None:
        """The fingerprint of the images that the run was begun with; its checkpoint was verified when it was loaded."""
        from alexnet_jax.inference import checkpoints

        folder = self.path.absolute() / "checkpoints"
        saved = checkpoints.read_meta(folder, self.trained.step).get("dataset")
        return identity.run_fingerprint(self.path, saved if isinstance(saved, str) else "")

    def _has_predictions(self, name: str, view: str) -> bool:
        if self._is_file or self._out or self._is_other_data:
            return False
        return predictions.path(self.path, name, view, self.trained.step).exists()


def open_dataset(model: TrainedModel, data: specs.DataSpec) -> splits.Dataset:
    """Open a dataset with its classes in the order of the model. Raises DataError if they are not the same."""
    from alexnet_jax.data import sources

    try:
        found = sources.open_dataset(data, model.config.seed)
    except DataError as error:
        where = (
            "; --data-path PATH says where the images are now" if data == model.config.data else ""
        )
        raise DataError(f"{error}{where}") from None
    for note in found.notes:
        log.warning("%s", note)
    known, there = set(model.class_names), set(found.class_names)
    if known != there:
        raise DataError(
            f"the classes of {_describe(data)} are not those that the net was trained on: missing there "
            f"{_some(known - there)}; not known to the net {_some(there - known)}"
        )
    return splits.keep_classes(found, model.class_names)


def open_all(paths: typing.Sequence[str | Path], data_path: str | None = None) -> list[EvalTarget]:
    """Load several models, before any is evaluated. Raises DataError if their classes or the order of them differ."""
    targets = [EvalTarget(path, data_path=data_path) for path in paths]
    for target in targets[1:]:
        if target.trained.class_names != targets[0].trained.class_names:
            raise DataError(f"{targets[0].path} and {target.path} do not have the same classes")
    return targets


def obtain_all(
    targets: typing.Sequence[EvalTarget], split: str | None, view: str
) -> tuple[str, list[Predictions]]:
    """Obtain the predictions of several models for one split, by default the first model's.

    Returns:
        The name of the split, and the predictions of each model.

    Raises:
        DataError: the images or labels differ.
    """
    found: list[Predictions] = []
    first: np.ndarray | None = None
    for target in targets:
        split = target.split_name(split, view)
        obtained = target.obtain(split, view)
        different = f"{targets[0].path} and {target.path} predict different images"
        if found and not np.array_equal(obtained.labels, found[0].labels):
            raise DataError(f"{different}: the labels of their {split} differ")
        digests = target.digests(split)
        if digests is not None:
            first = digests if first is None else first
            if not np.array_equal(digests, first):
                raise DataError(f"{different}: the files of their {split} differ")
        found.append(obtained)
    return split or "", found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --workdir, --step, --source, --data-path and --out, for `from_arguments`."""
    # fmt: off
    parser.add_argument("--workdir", required=True, help="a run folder, or a .safetensors file")
    cli.add_step(parser)
    parser.add_argument("--source", choices=SOURCES, help="what the images come from; default: as in training")
    parser.add_argument("--data-path", metavar="PATH", help="where the images are now; default: as in training")
    parser.add_argument("--out", metavar="DIR", help="folder for the results; default: the run folder")
    # fmt: on


def from_arguments(options: argparse.Namespace) -> EvalTarget:
    """The target that the arguments of `add_arguments` name. Raises StorageError if there is no trained model."""
    return EvalTarget(options.workdir, options.step, options.source, options.data_path, options.out)


def add_protocol(parser: argparse.ArgumentParser, views: str = "center") -> None:
    """Add --split and --views, `views` being the default."""
    parser.add_argument("--split", help=SPLIT_HELP)
    parser.add_argument("--views", choices=specs.VIEWS, default=views, help=f"default: {views}")


def _describe(data: specs.DataSpec) -> str:
    return f"{data.source} at {data.path}" if data.path else data.source


def _some(names: set[str]) -> str:
    return listed(sorted(names)) or "none"
