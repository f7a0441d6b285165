"""A trained network in three lines of a notebook.

import alexnet_jax as ax
net = ax.load("runs/mine")            # a run folder, or a .safetensors file
net.predict(["cat.jpg"])              # probabilities [1 classes]
net.features(["cat.jpg"], "fc7")      # [1 4096]
"""

import difflib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax.data.pipeline import images as image_files
from alexnet_jax.data.pipeline import views
from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.inference import trained, weights
from alexnet_jax.inference.predict_step import mean_probabilities, resized_statistics
from alexnet_jax.inference.trained import Step, TrainedModel
from alexnet_jax.kernels import compiler
from alexnet_jax.model import alexnet

log = logging.getLogger(__name__)


def load(path: str | Path, step: Step = None) -> "Network":
    """The network of a run folder (its newest checkpoint, or that of `step`) or of a .safetensors file.

    Warns of a network that claims to be trained and does not look it. Raises StorageError where there is none or it is
    damaged.
    """
    run = trained.load(path, step)
    if run.step > 0:
        for name, row in run.config.model.convs[:1]:
            if row.kind == "conv" and weights.looks_untrained(run.params[name]["kernel"]):
                log.warning("%s: %s looks as before training, like random numbers", path, name)
    return Network(run)


class Network:
    """A trained network that answers on the default device; every method takes what `pixels` takes.

    run: its configuration, step, parameters as NumPy arrays, input statistics and names of classes.
    """

    def __init__(self, run: TrainedModel):
        self.run = run
        self.model = alexnet.of_config(run.config)
        self._statistics = jax.device_get(resized_statistics(run.statistics, run.config))
        self._jitted: dict[str, Callable] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.run.class_names

    def class_number(self, name: str) -> int:
        """Of the class `name`. Raises ConfigError with the nearest name."""
        if name not in self.class_names:
            near = difflib.get_close_matches(name, self.class_names, 1) or self.class_names[:10]
            raise ConfigError(f"the network has no class {name!r}; it has {', '.join(near)} ...")
        return self.class_names.index(name)

    @cached_property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes, on the default device."""
        return jax.device_put({"params": self.run.params, "batch_stats": self.run.batch_stats})

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The features by name, in order, with their shapes: {'conv1/linear': (55, 55, 96), ..., 'fc8': (1000,)}."""
        names: list[str] = []  # jax sorts a dict by its keys

        def features(variables, pixels):
            made = self._all_features(variables, pixels)
            names.extend(made)
            return made

        made = jax.eval_shape(features, self.variables, self._example)
        return {name: made[name].shape[1:] for name in names}

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Of a feature. Raises ConfigError."""
        if name not in self.shapes:
            raise ConfigError(
                f"the network has no features {name!r}; it has {', '.join(self.shapes)}"
            )
        return self.shapes[name]

    def pixels(self, images: Any) -> np.ndarray:
        """uint8 [n s s 3] as the network was trained on: the central square, at config.data.image_size.

        images: a path, the bytes of a file, a Pillow image or uint8 [h w 3] (or [h w], [h w 1], [h w 4]); a list or
            another iterable of these; or uint8 [n h w 3]. Files and Pillow images are turned as config.data.exif says.

        Raises DataError.
        """
        data = self.run.config.data
        made = [
            image_files.decode(image, data.image_size, exif=data.exif, name=name)
            for name, image in _several(images)
        ]
        if not made:
            raise DataError("there are no images")
        return np.stack(made)

    def inputs(self, pixels, view: str = "center") -> jax.Array:
        """What the first row sees: float32 [n v c c 3] of uint8 [n s s 3], the v crops of a view of §4.1."""
        return views.views(pixels, self._statistics, self.run.config.augment, view)

    def predict(self, images, view: str = "center") -> np.ndarray:
        """Probabilities float32 [n classes], the mean over the crops of `view`: center, ten, nine, dense (§4.1)."""
        if view not in views.VIEWS:
            raise ConfigError(f"the view is one of {', '.join(views.VIEWS)}, not {view!r}")

        def probabilities(variables, pixels):
            return mean_probabilities(self.model, variables, self.inputs(pixels, view))

        most = views.images_at_once(view, self.run.config)
        made = self.pixels(images)
        return self.in_batches(f"predict {view}", probabilities, made, batch_size=most)

    def features(self, images, name: str) -> np.ndarray:
        """The outputs [n ...] of a row such as 'fc7', or of a step of one such as 'conv1/linear', for center crops.

        They are what the network computes at test time, in float32 or in its bfloat16 made float32.
        """
        self.shape_of(name)

        def features(variables, pixels):
            return self._all_features(variables, pixels)[name].astype(np.float32)

        return self.in_batches(f"features {name}", features, self.pixels(images))

    def top(self, images, k: int = 5, view: str = "center") -> list[list[tuple[str, float]]]:
        """For each image its `k` most probable classes, [(name, probability), ...]."""
        probabilities = self.predict(images, view)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.class_names[index], float(row[index])) for index in order]
            for row, order in zip(probabilities, best, strict=True)
        ]

    def map_batches(
        self,
        function: Callable,
        pixels: Any,
        batch_size: int | None = None,
        others: Sequence[Any] = (),
    ) -> Iterable[np.ndarray]:
        """`function(variables, pixels, *others)` of all of uint8 [n s s 3] and of `others` [n ...], part after part.

        The parts have one size, for which a jitted function is compiled once: what fills up the last is dropped.
        `pixels` may be what gives an array for an array of indices, such as the images of a split.
        """
        most = batch_size or self.run.config.evaluation.batch_size
        size = min(most, 1 << (len(pixels) - 1).bit_length())
        for start in range(0, len(pixels), size):
            indices = np.arange(start, min(start + size, len(pixels)))
            parts = [np.asarray(array[indices]) for array in (pixels, *others)]
            missing = size - len(indices)
            padded = [
                np.pad(part, [(0, missing)] + [(0, 0)] * (part.ndim - 1), mode="edge")
                for part in parts
            ]
            yield np.asarray(function(self.variables, *padded))[: len(indices)]

    def in_batches(
        self,
        name: str,
        function: Callable,
        pixels: np.ndarray,
        *others: np.ndarray,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """The parts of `map_batches` as one array; `function` is jitted once and kept under `name`."""
        jitted = self.jitted(name, function)
        return np.concatenate(list(self.map_batches(jitted, pixels, batch_size, others)))

    def jitted(self, name: str, function: Callable) -> Callable:
        """`function`, jitted; or what was jitted under `name` before."""
        if name not in self._jitted:
            self._jitted[name] = jax.jit(function, compiler_options=compiler.options())
        return self._jitted[name]

    def _all_features(self, variables, pixels) -> dict[str, jax.Array]:
        outputs: Any = self.model.apply(variables, self.inputs(pixels)[:, 0], train=False)
        return outputs[1]

    @property
    def _example(self) -> np.ndarray:
        size = self.run.config.data.image_size
        return np.zeros((1, size, size, 3), np.uint8)


def looks_untrained(kernel: np.ndarray) -> bool:
    """Whether first-layer kernels [kh kw c n] look like independent random numbers, as initial weights do.

    Trained kernels are smooth: horizontally or vertically adjacent weights have a correlation of 0.3 or more.
    For independent weights it is about 1 / sqrt(number of pairs).
    """
    centered = kernel - kernel.mean()
    pairs = [(centered[1:], centered[:-1]), (centered[:, 1:], centered[:, :-1])]
    number = sum(a.size for a, _ in pairs)
    if number == 0:  # kernels of one pixel
        return False
    products = sum(float((a * b).sum()) for a, b in pairs)
    energy = sum(float(np.sqrt((a**2).sum() * (b**2).sum())) for a, b in pairs)
    return products <= max(0.1, 4 / number**0.5) * energy


def _several(images: Any) -> Iterator[tuple[str, Any]]:
    """(name for errors, image) of one image or of several. Raises DataError for what is neither."""
    if image_files.is_image(images):
        yield "the image", images
        return
    # The order of a set means nothing, and a file gives lines.
    if isinstance(images, Mapping | Set | io.IOBase) or not isinstance(images, Iterable):
        raise DataError(
            f"images are paths, the bytes of files, Pillow images or uint8 [h w 3], one or a list, or uint8 [n h w 3]; "
            f"not {type(images).__name__}"
        )
    if hasattr(images, "__array__"):
        images = np.asarray(images)
    for i, image in enumerate(images):
        yield f"image {i}", image
