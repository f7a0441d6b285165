"""What is evaluated: a trained net, and the images that it answers."""

import argparse
import dataclasses
import logging
import typing
from functools import cached_property
from pathlib import Path

import numpy as np

from alexnet_jax import cli, specs
from alexnet_jax.errors import ConfigError, DataError, listed
from alexnet_jax.inference import predictions as kept_predictions
from alexnet_jax.inference import trained

if typing.TYPE_CHECKING:
    from alexnet_jax.data.pipeline.splits import Dataset, Split
    from alexnet_jax.inference.trained import Step, TrainedModel

log = logging.getLogger(__name__)

SPLIT_HELP = "test, val or train; default: the first of these that there is"
SOURCES = typing.get_args(specs.DataSpec.__annotations__["source"])


class EvalTarget:
    """A trained net and the images that it answers.

    path: a run folder, or a .safetensors file; `step` as for trained.load. The images are those of the run,
    wherever they now are with `data_path`, or others of the same classes with `source` and `data_path`.
    Predictions are kept in `out`, by default in the run folder. Raises StorageError without a net.
    """

    def __init__(
        self, path: str | Path, step: "Step" = None, source: str | None = None,
        data_path: str | None = None, out: str | Path | None = None,
    ):  # fmt: skip

        self.path, self.run = Path(path), trained.load(path, step)
        data = self.run.config.data
        if source not in (None, data.source):
            if not data_path and source not in ("digits", "synthetic"):
                raise ConfigError(f"--source {source} needs --data-path, which says where it is")
            data = dataclasses.replace(data, source=source, path=None, validation=0.0)
        self._spec = dataclasses.replace(data, path=data_path or data.path)
        self._others, self._out = bool(source or data_path), out
        self._predict: dict = {}

    @property
    def data(self) -> str:
        """The images, in words."""
        return _where(self._spec)

    @cached_property
    def dataset(self) -> "Dataset":
        """With the classes in the order of the net. Raises DataError unless they are the same, by name."""
        return open_dataset(self.run, self._spec)

    @cached_property
    def folder(self) -> Path:
        """Where predictions and figures go. Raises ConfigError where --out has to say it."""
        if self._out:
            return Path(self._out)
        if self._is_file:
            raise ConfigError(f"{self.path} is no folder: --out DIR says where the results go")
        if self._others:
            self.check_images()
        return self.path

    @cached_property
    def _begun(self) -> str | None:
        """The fingerprint of the images that the run was begun with; verifies its checkpoint."""
        from alexnet_jax.data.pipeline import identity
        from alexnet_jax.inference import checkpoints

        found = checkpoints.latest(self.path.absolute() / "checkpoints", self.run.step)
        return identity.begun_with(self.path, found[1].get("dataset", "")) if found else None

    def check_images(self) -> None:
        """Raises ConfigError where the images are not those of the run, and results would go into its folder."""
        if self._out or self._is_file:
            return
        begun = self._begun
        if begun is None and not self._others:
            return
        if begun != self.dataset.fingerprint:
            why = (
                f"{self.data} has not the images that {self.path} was trained with"
                if begun
                else f"{self.path} was begun by an earlier version, which kept no digests of its images"
            )
            raise ConfigError(
                f"{why}: --out DIR says where the results go, as they must not replace those of the run"
            )

    def split(self, name: str) -> "Split":
        """Raises DataError where there is none."""
        if name not in self.dataset.splits:
            raise DataError(
                f"{self.data} has no split {name!r}; it has {', '.join(self.dataset.splits)}"
            )
        return self.dataset.splits[name]

    def split_name(self, name: str | None, view: str) -> str:
        """`name`, or the default of these images (splits.default), or of the saved predictions where they are gone."""
        from alexnet_jax.data.pipeline import splits

        if name:
            return name
        kept: list[str] = []
        if not (self._is_file or self._out or self._others):
            files = {
                one: kept_predictions.path(self.path, one, view, self.run.step)
                for one in splits.PREFERRED
            }
            kept = [one for one, file in files.items() if file.exists()]
        if "test" in kept:  # the first in any case
            return "test"
        try:
            return splits.default(self.dataset.splits)
        except DataError:
            if not kept:
                raise
            return splits.default(kept)

    def compute(self, name: str, view: str) -> kept_predictions.Predictions:
        """The predictions of every image of the split `name`, anew; they are saved."""
        split, folder = self.split(name), self.folder
        self.check_images()
        found = kept_predictions.Predictions(self.probabilities(split, view), split.labels)
        kept_predictions.save(folder, name, view, self.run.step, found)
        return found

    def obtain(self, name: str, view: str) -> kept_predictions.Predictions:
        """The predictions that are saved, or else computed. Those of a file without `out` are not saved."""
        if self._is_file and not self._out:
            split = self.split(name)
            return kept_predictions.Predictions(self.probabilities(split, view), split.labels)
        # What lies in `out` may be of another net.
        if self._out or not kept_predictions.path(self.folder, name, view, self.run.step).exists():
            return self.compute(name, view)
        found = kept_predictions.load(self.folder, name, view, self.run.step)
        if found.probabilities.shape[1] != len(self.run.class_names):
            file = kept_predictions.path(self.folder, name, view, self.run.step)
            raise DataError(f"{file} is of a net with other classes; delete it and try again")
        return found

    def digests(self, name: str) -> np.ndarray | None:
        """Of the images of the split `name` that `obtain` answers for; None for a run of an earlier version."""
        from alexnet_jax.data.pipeline import identity

        if self._out or self._is_file or self._others:
            return self.split(name).digests
        return (identity.read_record(self.path) or {}).get(f"{name}_digests")

    def probabilities(self, split: "Split", view: str) -> np.ndarray:
        """float32 [n classes] of every image of `split`, on all devices."""
        from alexnet_jax.inference.predict_step import make_eval_step
        from alexnet_jax.model import alexnet
        from alexnet_jax.model.mesh import device_mesh

        run, mesh = self.run, device_mesh()
        if view not in self._predict:
            model = alexnet.of_config(run.config)
            step = make_eval_step(run.config, model, run.statistics, mesh, view)
            self._predict[view] = kept_predictions.predictor(
                step, run.params, run.batch_stats, mesh
            )
        size = kept_predictions.batch_size(run.config, view, mesh)
        return kept_predictions.of_split(self._predict[view], split, size)

    @property
    def _is_file(self) -> bool:
        return self.path.suffix == ".safetensors"


def open_dataset(run: "TrainedModel", data: specs.DataSpec) -> "Dataset":
    """The images of `data`, with the classes in the order of the net. Raises DataError unless they are the same."""
    from alexnet_jax.data import sources
    from alexnet_jax.data.pipeline import splits

    try:
        found = sources.open_dataset(data, run.config.seed)
    except DataError as error:
        where = (
            "; --data-path PATH says where the images are now" if data == run.config.data else ""
        )
        raise DataError(f"{error}{where}") from None
    for note in found.notes:
        log.warning("%s", note)
    net, there = set(run.class_names), set(found.class_names)
    if net != there:
        raise DataError(
            f"the classes of {_where(data)} are not those that the net was trained on: missing there "
            f"{_some(net - there)}; not known to the net {_some(there - net)}"
        )
    return splits.keep_classes(found, run.class_names)


def obtain_all(
    paths: typing.Sequence[str | Path], split: str | None, view: str, data_path: str | None = None
) -> tuple[str, list[tuple[EvalTarget, kept_predictions.Predictions]]]:
    """The split, by default that of the first net, and several nets with their predictions of its images.

    Raises DataError unless they have the same classes, in one order, and the same images and labels.
    """
    found: list[tuple[EvalTarget, kept_predictions.Predictions]] = []
    first: np.ndarray | None = None
    for path in paths:
        subject = EvalTarget(path, data_path=data_path)
        if found and subject.run.class_names != found[0][0].run.class_names:
            raise DataError(f"{found[0][0].path} and {path} have not the same classes")
        split = subject.split_name(split, view)
        predictions = subject.obtain(split, view)
        if found and not np.array_equal(predictions.labels, found[0][1].labels):
            raise DataError(
                f"{found[0][0].path} and {path} answered other images: the labels of their {split} differ"
            )
        digests = subject.digests(split)
        if digests is not None:
            first = digests if first is None else first
            if not np.array_equal(digests, first):
                raise DataError(
                    f"{found[0][0].path} and {path} answered other images: the files of their {split} differ"
                )
        found.append((subject, predictions))
    return split or "", found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--workdir, --step, --source, --data-path and --out, of which `from_arguments` makes a EvalTarget."""
    # fmt: off
    parser.add_argument("--workdir", required=True, help="a run folder, or a .safetensors file")
    cli.add_step(parser)
    parser.add_argument("--source", choices=SOURCES, help="what the images come from; default: as in training")
    parser.add_argument("--data-path", metavar="PATH", help="where the images are now; default: as in training")
    parser.add_argument("--out", metavar="DIR", help="where what is written goes; default: the run folder")
    # fmt: on


def from_arguments(options: argparse.Namespace) -> "EvalTarget":
    """What the arguments of `add_arguments` name. Raises StorageError without a net."""
    return EvalTarget(options.workdir, options.step, options.source, options.data_path, options.out)


def add_protocol(parser: argparse.ArgumentParser, views: str = "center") -> None:
    """--split and --views, where there is one of each; `views` is the default."""
    parser.add_argument("--split", help=SPLIT_HELP)
    parser.add_argument("--views", choices=specs.VIEWS, default=views, help=f"default: {views}")


def _where(data: specs.DataSpec) -> str:
    return f"{data.source} at {data.path}" if data.path else data.source


def _some(names: set[str]) -> str:
    return listed(sorted(names)) or "none"
