"""A trained model and the dataset that it is evaluated on."""

import argparse
import dataclasses
import logging
import typing
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from alexnet_jax import cli, specs
from alexnet_jax.data.pipeline import identity, splits
from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.evaluation import classes as class_matching
from alexnet_jax.inference import metrics, predictions, trained
from alexnet_jax.inference.predictions import Predictions
from alexnet_jax.inference.trained import Step, TrainedModel

log = logging.getLogger(__name__)

SPLIT_HELP = "test, val or train; default: the first of these that exists"
#: Which classes are predicted: those of the images, or all of the net.
Classes = Literal["present", "all"]
SOURCES = typing.get_args(specs.DataSpec.__annotations__["source"])


class EvalTarget:
    """A trained model and a dataset: that of its training, or another one whose classes are some of the model's.

    Args:
        path: a run folder, or a .safetensors file.
        step: which checkpoint, as for trained.load.
        source: what kind of dataset `data_path` is; default: as in training. Nothing is held out for validation from
            a dataset that is named so.
        data_path: where the images are now; default: as in training.
        out: folder for predictions and figures; default: the run folder.
        classes: "present": predict only the classes of the dataset, with a softmax over their logits alone, as for
            ImageNet-A and ImageNet-R; "all": predict all classes of the model.
        labels: file with sets of right labels (classes.read_label_sets), which replace the labels of the dataset.

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
        classes: Classes = "present",
        labels: str | Path | None = None,
    ) -> None:
        self.path, self.trained = Path(path), trained.load(path, step)
        data = self.trained.config.data
        if source not in (None, data.source):
            if not data_path and source not in specs.NO_FILES:
                raise ConfigError(f"--source {source} needs --data-path, which says where it is")
            data = dataclasses.replace(data, source=source, path=None)
        if source:
            data = dataclasses.replace(data, validation=0.0)
        self._data_spec = dataclasses.replace(data, path=data_path or data.path)
        self._is_other_data, self._out = bool(source or data_path), out
        self._all_classes, self._labels = classes == "all", Path(labels) if labels else None
        self._predictors: dict[str, predictions.Predictor] = {}
        self._sets: dict[str, np.ndarray] = {}

    @property
    def _is_file(self) -> bool:
        return self.path.suffix == ".safetensors"

    @property
    def data(self) -> str:
        """The dataset in words, for messages."""
        return _describe(self._data_spec)

    @cached_property
    def _opened(self) -> "_Opened":
        return _open(self.trained, self._data_spec)

    @cached_property
    def dataset(self) -> splits.Dataset:
        """The dataset, with the class numbers of the model. Raises DataError if it has classes that the model lacks."""
        return self._opened.dataset

    @cached_property
    def classes(self) -> np.ndarray | None:
        """The numbers of the classes that are predicted, ascending: int [k]; None for all."""
        numbers = np.sort(self._opened.match.numbers)
        is_all = self._all_classes or len(numbers) == len(self.trained.class_names)
        return None if is_all else numbers

    @property
    def has_label_sets(self) -> bool:
        """Whether images have sets of right labels."""
        return self._labels is not None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes that are predicted."""
        names = self.trained.class_names
        return names if self.classes is None else tuple(names[i] for i in self.classes)

    def scope(self) -> dict[str, Any]:
        """Describe which classes are predicted and which labels are right, as JSON.

        {"classes": {"predicted", "of", "matched_by"}} and, with sets of labels, {"labels": file, "undefined": [...]},
        which names the metrics that these do not have.
        """
        found: dict[str, Any] = {
            "classes": {
                "predicted": len(self.class_names),
                "of": len(self.trained.class_names),
                "matched_by": self._opened.match.by,
            }
        }
        if self._labels:
            found |= {"labels": str(self._labels), "undefined": list(metrics.UNDEFINED)}
        return found

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
        """Compute and save the predictions for the split `name`; those saved have the labels of the dataset."""
        split, folder = self.split(name), self.folder
        self.check_images()
        sets = self._label_sets(name)  # before anything is computed
        found = self.predict(split, view, self.classes)
        predictions.save(folder, name, view, self.trained.step, found)
        return self._with_sets(found, sets)

    def obtain(self, name: str, view: str) -> Predictions:
        """Load the predictions for the split `name` if the run folder has them, else compute them.

        Those of a weights file are saved only with `out`.
        """
        if self._is_file and not self._out:
            sets = self._label_sets(name)
            return self._with_sets(self.predict(self.split(name), view, self.classes), sets)
        file = predictions.path(self.folder, name, view, self.trained.step)
        # Predictions in `out` may be another model's.
        if self._out or not file.exists():
            return self.compute(name, view)
        found = predictions.load(self.folder, name, view, self.trained.step)
        if found.probabilities.shape[1] != len(self.trained.class_names):
            raise DataError(f"{file} is of a net with other classes; delete it and try again")
        if not self._labels:
            return found
        if not np.array_equal(found.labels, self.split(name).labels):
            raise DataError(f"{file} has predictions of other images; delete it and try again")
        return self._with_sets(found, self._label_sets(name))

    def digests(self, name: str) -> np.ndarray | None:
        """Digests of the images that `obtain` predicts; None for a run of an earlier version, which kept none."""
        if self._out or self._is_file or self._is_other_data:
            return self.split(name).digests
        return (identity.read_record(self.path) or {}).get(f"{name}_digests")

    def _label_sets(self, name: str) -> np.ndarray | None:
        """The sets of right labels of a split, read once for all views: bool [n k]; None if there are none."""
        if self._labels is None:
            return None
        if name not in self._sets:
            split, names = self.split(name), self.trained.class_names
            sets = class_matching.read_label_sets(self._labels, split, names)
            self._sets[name] = sets if self.classes is None else sets[:, self.classes]
        return self._sets[name]

    def _with_sets(self, found: Predictions, sets: np.ndarray | None) -> Predictions:
        """Replace the labels by sets; images without any are left out."""
        if sets is None:
            return found
        counted = sets.any(axis=1)
        return Predictions(found.probabilities[counted], sets[counted])

    def predict(self, split: splits.Split, view: str, classes: np.ndarray | None) -> Predictions:
        """Predict the images of `split`.

        Args:
            classes: Numbers of the classes to predict, ascending, to which the labels then refer; None for all.
        """
        probabilities = self.probabilities(split, view, classes)
        if classes is None:
            return Predictions(probabilities, split.labels)
        return Predictions(probabilities, np.searchsorted(classes, split.labels).astype(np.int32))

    def batch_size(self, view: str) -> int:
        """The number of images that are predicted at once."""
        from alexnet_jax.model.mesh import device_mesh

        return predictions.batch_size(self.trained.config, view, device_mesh())

    def probabilities(
        self, split: splits.Split, view: str, classes: np.ndarray | None = None
    ) -> np.ndarray:
        """Class probabilities float32 [n k] of every image of `split`, computed on all devices.

        Args:
            classes: Numbers of the classes to predict; None for all.
        """
        from alexnet_jax.inference.predict_step import make_eval_step
        from alexnet_jax.model import alexnet
        from alexnet_jax.model.mesh import device_mesh

        model, mesh = self.trained, device_mesh()
        key = view if classes is None else f"{view} {classes.tobytes().hex()}"
        if key not in self._predictors:
            network = alexnet.from_config(model.config)
            # Every device has the whole net, whatever the number of devices in training was.
            train = dataclasses.replace(model.config.train, split_dense=False)
            config = dataclasses.replace(model.config, train=train)
            step = make_eval_step(config, network, model.statistics, mesh, view, classes)
            self._predictors[key] = predictions.predictor(
                step, model.params, model.batch_stats, mesh
            )
        return predictions.predict_split(self._predictors[key], split, self.batch_size(view))

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


class _Opened(NamedTuple):
    dataset: splits.Dataset
    match: class_matching.Match


def open_dataset(model: TrainedModel, data: specs.DataSpec) -> splits.Dataset:
    """Open a dataset with the class numbers of the model. Raises DataError if it has classes that the model lacks."""
    return _open(model, data).dataset


def _open(model: TrainedModel, data: specs.DataSpec) -> _Opened:
    from alexnet_jax.data import sources

    try:
        found = sources.open_dataset(data, model.config.seed, len(model.class_names))
    except DataError as error:
        where = (
            "; --data-path PATH says where the images are now" if data == model.config.data else ""
        )
        raise DataError(f"{error}{where}") from None
    match = class_matching.match(found.class_names, model.class_names, _describe(data))
    for note in found.notes:
        log.warning("%s", note)
    return _Opened(splits.renumber(found, match.numbers, model.class_names), match)


def open_all(
    paths: typing.Sequence[str | Path], data_path: str | None = None, **options: Any
) -> list[EvalTarget]:
    """Load several models, before any is evaluated. Raises DataError if their classes or the order of them differ."""
    targets = [EvalTarget(path, data_path=data_path, **options) for path in paths]
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
    add_classes(parser)


def add_classes(parser: argparse.ArgumentParser) -> None:
    """Add --classes, of EvalTarget."""
    parser.add_argument(
        "--classes", choices=typing.get_args(Classes), default="present",
        help="what is predicted if the images have only some classes of the net: these, or all; default: present",
    )  # fmt: skip


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add --labels, of EvalTarget, for commands whose results are defined for sets of labels."""
    parser.add_argument(
        "--labels", metavar="JSON",
        help="several right labels of each image, such as real.json of ReaL, in place of its class",
    )  # fmt: skip


def from_arguments(options: argparse.Namespace) -> EvalTarget:
    """The target that the arguments of `add_arguments` name. Raises StorageError if there is no trained model."""
    return EvalTarget(
        options.workdir, options.step, options.source, options.data_path, options.out, options.classes,
        getattr(options, "labels", None),
    )  # fmt: skip


def add_protocol(parser: argparse.ArgumentParser, views: str = "center") -> None:
    """Add --split and --views, `views` being the default."""
    parser.add_argument("--split", help=SPLIT_HELP)
    parser.add_argument("--views", choices=specs.VIEWS, default=views, help=f"default: {views}")


def _describe(data: specs.DataSpec) -> str:
    return f"{data.source} at {data.path}" if data.path else data.source
