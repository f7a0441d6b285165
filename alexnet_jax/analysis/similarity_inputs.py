"""What `alexnet similarity` compares: nets and their layers, the images, and data of brains or behaviour."""

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax import files
from alexnet_jax.analysis import features, pictures
from alexnet_jax.data.pipeline import splits
from alexnet_jax.data.pipeline.splits import Split
from alexnet_jax.errors import AlexNetError, ConfigError, DataError, StorageError, listed
from alexnet_jax.run import reading

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network
    from alexnet_jax.inference.trained import Step, TrainedModel

#: Default numbers of images: in all, and in a batch.
COUNT, BATCH = 2_000, 1_000
#: Fewest images of a batch, and most, whose inner products [n n] are in memory.
FEWEST, MOST = 10, 10_000
#: Most bytes of the vectors of one batch for all layers, of which about three kinds are in memory at a time.
_MOST_BYTES = 2**30


class Net(NamedTuple):
    """A net to compare: a weights file, or a checkpoint of a run folder."""

    path: str
    #: Which checkpoint, as given.
    choice: "Step"
    step: int
    config: str
    seed: int
    #: Layer -> number of values of an image.
    layers: dict[str, int]

    @property
    def name(self) -> str:
        """The argument that names this net alone."""
        return self.path if self.choice is None else f"{self.path}@{self.step}"

    @property
    def run(self) -> Path:
        """The same for all checkpoints of a run."""
        return Path(self.path).resolve()

    def epoch(self) -> float | None:
        """The epochs of training up to this step; None if there is no record of them."""
        lines = reading.read_metrics(self.path, missing_ok=True)
        known = [line for line in lines if line["step"] > 0 and "epoch" in line]
        return self.step * known[-1]["epoch"] / known[-1]["step"] if known else None


class Inputs(NamedTuple):
    """Everything to compare, checked.

    Attributes:
        chosen: Indices into the images, ascending.
        batches: The same in random disjoint parts, as indices.
        rdm: Of all images, [n n], or None.
        responses: To all images, [n v], or None.
    """

    nets: list[Net]
    images: "Images"
    chosen: np.ndarray
    batches: list[np.ndarray]
    rdm: np.ndarray | None
    responses: np.ndarray | None


class Faults:
    """Errors that are reported together."""

    def __init__(self) -> None:
        self._errors: list[AlexNetError] = []

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Collect the error of the context, and go on after it."""
        try:
            yield
        except AlexNetError as error:
            self._errors.append(error)

    def check(self) -> None:
        """Raise an error with the text of all, of the kind of the first, if there are any."""
        if self._errors:
            raise type(self._errors[0])("; ".join(dict.fromkeys(map(str, self._errors))))


class Images:
    """The same images for all nets, decoded at the size that the configuration of each says.

    Attributes:
        title: Where the images come from.
        paths: Of image files; None for a split.
    """

    def __init__(
        self, paths: Sequence[str] | None, split: str | None, data_path: str | None
    ) -> None:
        self.paths = pictures.list_files(paths) if paths else None
        self.title = f"{len(self.paths)} files" if self.paths else ""
        self._split, self._data_path = split, data_path
        self._opened: dict[Any, Any] = {}
        self._first: tuple[str, Split] | None = None

    def of(self, model: "TrainedModel", name: str) -> Any:
        """Return the images for the net `name`, to be indexed. Raises DataError if they are not those of the first."""
        spec = model.config.data
        if self.paths is not None:
            if spec not in self._opened:
                self._opened[spec] = features.open_files(self.paths, spec)
            return self._opened[spec]
        key = dataclasses.astuple(spec), model.config.seed, model.class_names
        if key not in self._opened:
            self._opened[key] = self._open(model, name)
        return self._opened[key]

    def _open(self, model: "TrainedModel", name: str) -> Any:
        self._split, dataset = pictures.load_split(model, self._data_path, self._split)
        split = dataset.splits[self._split]
        self._first = self._first or (name, split)
        self.title = self.title or f"{self._split} of {self._data_path or model.config.data.source}"
        other, first = self._first
        ours, theirs = split.digests, first.digests
        if ours is None or theirs is None or not np.array_equal(ours, theirs):
            raise DataError(
                f"{other} and {name} have different images in {self._split}: use --split test, or --images"
            )
        return split.images


def read(options: argparse.Namespace) -> Inputs:
    """Open everything that the options of the command name. Raises an AlexNetError with all that is wrong."""
    faults, nets, images, total = Faults(), list[Net](), None, 0
    with faults.collected():
        images = Images(options.images, options.split, options.data_path)
    for argument in options.nets:
        checkpoints: list[tuple[str, Step]] = []
        with faults.collected():
            checkpoints = checkpoints_of(argument)
        for path, choice in checkpoints:
            with faults.collected():
                network = load(path, choice)
                nets.append(describe(path, choice, network, options.layers))
                total = len(images.of(network.trained, nets[-1].name)) if images else 0
    with faults.collected():
        _check_different(nets)
    rdm = responses = None
    if options.rdm:
        with faults.collected():
            rdm = read_rdm(Path(options.rdm), total)
    if options.responses:
        with faults.collected():
            responses = read_responses(Path(options.responses), total)
    with faults.collected():
        _check_numbers(options)
    faults.check()
    assert images is not None
    chosen, batches = draw(options, total, sum(len(net.layers) for net in nets))
    return Inputs(nets, images, chosen, batches, rdm, responses)


def checkpoints_of(argument: str) -> list[tuple[str, "Step"]]:
    """Return path and checkpoint of the nets that PATH, PATH@STEP, PATH@best or PATH@all names.

    Raises ConfigError for other words after @, and StorageError if a run folder has no checkpoints.
    """
    from alexnet_jax.inference import checkpoints

    path, at, which = argument.rpartition("@")
    if not at or Path(argument).exists():
        return [(argument, None)]
    if which == "best":
        return [(path, "best")]
    if which.isdecimal():
        return [(path, int(which))]
    if which != "all":
        raise ConfigError(f"--nets {argument}: after @ comes a step, best or all")
    steps = checkpoints.committed_steps(Path(path) / "checkpoints")
    if not steps:
        raise StorageError(f"{path} has no checkpoints")
    return [(path, step) for step in steps]


def load(path: str, choice: "Step") -> "Network":
    """Load a net, without a warning for the first steps of training, as network.load has. Raises StorageError."""
    from alexnet_jax.inference import trained
    from alexnet_jax.inference.network import Network

    return Network(trained.load(path, choice))


def describe(path: str, choice: "Step", network: "Network", layers: Sequence[str]) -> Net:
    """Look up the layers of a net, "all" being those of its configuration. Raises ConfigError for unknown ones."""
    model, shapes = network.trained, network.shapes
    names = [name for name, _ in model.config.model.layers] if "all" in layers else layers
    if unknown := [name for name in names if name not in shapes]:
        raise ConfigError(f"{path} has no layer {listed(unknown)}; it has {', '.join(shapes)}")
    sizes = {name: int(np.prod(shapes[name])) for name in names}
    return Net(path, choice, model.step, model.config.name, model.config.seed, sizes)


def _check_different(nets: list[Net]) -> None:
    named = [(net.run, net.step) for net in nets]
    twice = [net.name for i, net in enumerate(nets) if named[i] in named[:i]]
    if twice:
        raise ConfigError(f"--nets names a net twice: {listed(twice)}")


def _check_numbers(options: argparse.Namespace) -> None:
    low = {
        "--resamples": options.resamples,
        "--permutations": options.permutations,
        "--seed": options.seed,
    }
    wrong = [f"{name} must be at least 0" for name, value in low.items() if value < 0]
    if options.batch is not None and not FEWEST <= options.batch <= MOST:
        wrong.append(f"--batch must be from {FEWEST} to {MOST:,}")
    if wrong:
        raise ConfigError("; ".join(wrong))


def draw(
    options: argparse.Namespace, total: int, layers: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Choose --count images of `total`, and divide them into random batches. Raises ConfigError.

    With data of a brain or behaviour, the default is all images in one batch.
    """
    is_whole = bool(options.rdm or options.responses)
    default = total if is_whole or options.images else min(COUNT, total)
    count = default if options.count is None else options.count
    if not FEWEST <= count <= total:
        raise ConfigError(f"--count must be from {FEWEST} to {total:,}, the number of images")
    size = min(options.batch or (count if is_whole else BATCH), count)
    if options.responses and size < count:
        raise ConfigError(f"--responses needs all {count:,} images in one batch: leave out --batch")
    if size > MOST:
        raise ConfigError(f"--count or --batch must be at most {MOST:,} with --rdm or --responses")
    if layers * size**2 * 2 > _MOST_BYTES:
        most = int((_MOST_BYTES / 2 / layers) ** 0.5)
        raise ConfigError(
            f"{size:,} images at once are too many for {layers} layers: --batch {most} (with --responses: --count), or "
            "fewer --layers"
        )
    chosen = splits.drawn(total, count, options.seed)
    order = np.random.default_rng(options.seed).permutation(chosen)
    return chosen, [np.sort(part) for part in np.array_split(order, -(-count // size))]


def read_rdm(path: Path, images: int) -> np.ndarray:
    """Read the RDM of `images` images. Raises DataError."""
    rdm = files.read_array(path, ("images", "images"), "number", error=DataError).astype(float)
    _check_count(path, rdm, images, "row and column")
    if not np.allclose(rdm, rdm.T, rtol=1e-4, atol=1e-6 * np.abs(rdm).max()):
        raise DataError(f"{path} is not symmetric, as dissimilarities are")
    if np.abs(np.diag(rdm)).max() > 1e-3 * np.abs(rdm).max():
        raise DataError(f"{path} has a diagonal that is not 0: give dissimilarities, 0 for equal")
    return rdm


def read_responses(path: Path, images: int) -> np.ndarray:
    """Read the responses [n v] to `images` images. Raises DataError."""
    responses = files.read_array(path, ("images", "responses"), "number", error=DataError)
    _check_count(path, responses, images, "row")
    if not np.ptp(responses, axis=0).any():
        raise DataError(f"{path} has no response that differs between images")
    return responses.astype(float)


def _check_count(path: Path, array: np.ndarray, images: int, what: str) -> None:
    if images and len(array) != images:
        raise DataError(
            f"{path} is of {len(array):,} images, but there are {images:,}: it needs a {what} for each, in their order"
        )
