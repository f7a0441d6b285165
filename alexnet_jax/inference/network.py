"""A trained network for notebooks and figures.

import alexnet_jax as ax
net = ax.load("runs/mine")            # a run folder, or a .safetensors file
net.predict(["cat.jpg"])              # probabilities [1 classes]
net.features(["cat.jpg"], "fc7")      # [1 4096]
net.predict(["cat.jpg"], edit={"conv5": lambda x: x.at[..., 17].set(0)})  # without map 17 of conv5
"""

import difflib
import functools
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from alexnet_jax.data.pipeline import images as image_files
from alexnet_jax.data.pipeline import views
from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.inference import trained
from alexnet_jax.inference.predict_step import mean_probabilities, resized_statistics
from alexnet_jax.inference.trained import Step, TrainedModel
from alexnet_jax.kernels import compiler
from alexnet_jax.model import alexnet
from alexnet_jax.model.alexnet import Edit

log = logging.getLogger(__name__)

#: The compiled programs with edits that a network keeps: those that were used last.
EDITED_PROGRAMS = 8


def load(path: str | Path, step: Step = None) -> "Network":
    """Load the network of a run folder (by default its newest checkpoint) or of a .safetensors file.

    Warns if a network that has been trained has first-layer kernels that look random. Raises StorageError.
    """
    model = trained.load(path, step)
    warn_if_untrained(path, model)
    return Network(model)


def warn_if_untrained(path: str | Path, model: TrainedModel) -> None:
    """Warn if the first-layer kernels of a network that has been trained look random."""
    if model.step > 0:
        for name, layer in model.config.model.convs[:1]:
            if layer.kind == "conv" and looks_untrained(model.params[name]["kernel"]):
                log.warning("%s: the kernels of %s look random, as before training", path, name)


class Network:
    """A trained network, applied on the default device to anything that `pixels` accepts.

    Attributes:
        trained: its configuration, step, parameters, input statistics and class names.
        model: the Flax module.
    """

    def __init__(self, model: TrainedModel) -> None:
        self.trained = model
        self.model = alexnet.from_config(model.config)
        self._statistics = jax.device_get(resized_statistics(model.statistics, model.config))
        self._jitted: dict[tuple[str, Any], Callable[..., Any]] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by their index."""
        return self.trained.class_names

    def class_number(self, name: str) -> int:
        """The index of the class `name`. Raises ConfigError with the nearest name."""
        if name not in self.class_names:
            near = difflib.get_close_matches(name, self.class_names, 1) or self.class_names[:10]
            raise ConfigError(f"the network has no class {name!r}; it has {', '.join(near)} ...")
        return self.class_names.index(name)

    @cached_property
    def variables(self) -> dict[str, Any]:
        """The variables for `model.apply`, on the default device."""
        return jax.device_put(self.trained.variables)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the features by name, in order: {'conv1/linear': (55, 55, 96), ..., 'fc8': (1000,)}."""
        names: list[str] = []  # jax sorts the keys of a dict

        def features(variables: Any, pixels: Any) -> dict[str, jax.Array]:
            found = self.all_features(variables, pixels)
            names.extend(found)
            return found

        size = self.trained.config.data.image_size
        example = np.zeros((1, size, size, 3), np.uint8)
        found = jax.eval_shape(features, self.variables, example)
        return {name: found[name].shape[1:] for name in names}

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a feature. Raises ConfigError for an unknown one."""
        if name not in self.shapes:
            raise ConfigError(
                f"the network has no features {name!r}; it has {', '.join(self.shapes)}"
            )
        return self.shapes[name]

    def pixels(self, images: Any) -> np.ndarray:
        """Decode images, crop their central square and resize it to config.data.image_size: uint8 [n s s 3].

        Args:
            images: one image or an iterable of images, each a path, the bytes of a file, a Pillow image or uint8
                [h w 3], [h w 1], [h w 4] or [h w]; or all as uint8 [n h w 3].

        Raises:
            DataError: an image cannot be decoded, or there is none.
        """
        data = self.trained.config.data
        decoded = [
            image_files.decode(image, data.image_size, exif=data.exif, name=name)
            for name, image in _named_images(images)
        ]
        if not decoded:
            raise DataError("there are no images")
        return np.stack(decoded)

    def inputs(self, pixels: Any, view: str = "center") -> jax.Array:
        """The input of the first layer: float32 [n v c c 3], the v crops of a view, from uint8 [n s s 3]."""
        return views.views(pixels, self._statistics, self.trained.config.augment, view)

    def predict(self, images: Any, view: str = "center", edit: Edit | None = None) -> np.ndarray:
        """Class probabilities [n classes], averaged over the crops of a view: center, ten, nine or dense (§4.1).

        Args:
            images: as for `pixels`.
            view: the crops.
            edit: functions that replace features, by the names in `shapes`: {"conv5": function}. A function takes the
                feature for a batch of crops, [b h w c] or [b units], and returns an array of the same shape and type;
                what follows is computed from that. It is compiled once, as by `jax.jit`. Arrays that vary are
                arguments: after `{"conv5": jax.tree_util.Partial(function, mask)}`, which calls function(mask, x), a
                Partial of the same function with another mask compiles nothing.

        Raises:
            ConfigError: there is no such view or feature, or an edit returns another shape or type.
            DataError: an image cannot be decoded, or there is none.
        """
        if view not in views.VIEWS:
            raise ConfigError(f"the view is one of {', '.join(views.VIEWS)}, not {view!r}")

        def probabilities(variables: Any, pixels: Any, edit: Edit | None = None) -> jax.Array:
            return mean_probabilities(self.model, variables, self.inputs(pixels, view), edit=edit)

        at_once = views.images_at_once(view, self.trained.config)
        pixels = self.pixels(images)
        return self.in_batches(
            f"predict {view}", probabilities, pixels, batch_size=at_once, edit=edit
        )

    def features(self, images: Any, name: str, edit: Edit | None = None) -> np.ndarray:
        """The output [n ...] of a layer such as 'fc7', or of an operation such as 'conv1/linear', for center crops.

        In float32, whatever the network computes in. `edit` is as for `predict`.
        """
        self.shape_of(name)

        def features(variables: Any, pixels: Any, edit: Edit | None = None) -> jax.Array:
            return self.all_features(variables, pixels, edit)[name].astype(np.float32)

        return self.in_batches(f"features {name}", features, self.pixels(images), edit=edit)

    def patch(
        self, source: Any, target: Any, name: str, masks: np.ndarray | None = None
    ) -> np.ndarray:
        """Logits of target images with the output of a layer or operation replaced by that for source images.

        Args:
            source: images as for `pixels`.
            target: as many images.
            name: the layer, as for `features`.
            masks: bool [m units]: the maps or units that are replaced, in one run for each row; default: one run, all.

        Returns:
            float32 [n m classes].

        Raises:
            ConfigError: there is no such layer, or the numbers of images or of units differ.
            DataError: an image cannot be decoded, or there is none.
        """
        units = self.shape_of(name)[-1]
        masks = np.ones((1, units), bool) if masks is None else np.asarray(masks)
        if masks.shape != (len(masks), units) or masks.dtype != bool:
            raise ConfigError(
                f"masks for {name} are bool [m {units}], not {masks.dtype} {list(masks.shape)}"
            )
        theirs, ours = self.features(source, name), self.features(target, name)
        if len(theirs) != len(ours):
            raise ConfigError(f"{len(theirs)} source images are not as many as {len(ours)} targets")

        def patched(variables: Any, masks: Any, source: Any, target: Any) -> jax.Array:
            chosen = masks.reshape(len(masks), *[1] * (source.ndim - 1), units)
            return self.logits_from(variables, name, jnp.where(chosen, source, target))

        run, found = self.jitted(f"patch {name}", patched), []
        for pair in zip(theirs, ours, strict=True):
            parts = self.map_batches(lambda v, masks, pair=pair: run(v, masks, *pair), masks)
            found.append(np.concatenate(list(parts)))
        return np.stack(found)

    def top(self, images: Any, k: int = 5, view: str = "center") -> list[list[tuple[str, float]]]:
        """The `k` most probable classes of each image as (name, probability), the most probable first."""
        probabilities = self.predict(images, view)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
        return [
            [(self.class_names[index], float(row[index])) for index in order]
            for row, order in zip(probabilities, best, strict=True)
        ]

    def map_batches(
        self,
        function: Callable[..., Any],
        pixels: Any,
        batch_size: int | None = None,
        others: Sequence[Any] = (),
    ) -> Iterator[np.ndarray]:
        """Yield `function(variables, pixels, *others)` batch by batch.

        All batches have one size, so that a jitted function is compiled once; the results for padding are dropped.

        Args:
            pixels: uint8 [n s s 3], or anything that returns an array for an array of indices.
            others: further arrays [n ...].
        """
        at_most = batch_size or self.trained.config.evaluation.batch_size
        size = min(at_most, 1 << (len(pixels) - 1).bit_length())
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
        function: Callable[..., Any],
        pixels: np.ndarray,
        *others: np.ndarray,
        batch_size: int | None = None,
        edit: Edit | None = None,
    ) -> np.ndarray:
        """The results of `map_batches` as one array, of `function` jitted under `name`.

        With `edit`, that is passed to `function` as an argument of this name.
        """
        if edit:
            edit = {feature: _as_partial(feature, one) for feature, one in edit.items()}
            jitted = functools.partial(self.jitted(name, function, edit), edit=edit)
        else:
            jitted = self.jitted(name, function)
        return np.concatenate(list(self.map_batches(jitted, pixels, batch_size, others)))

    def jitted(
        self, name: str, function: Callable[..., Any], edit: dict[str, Partial] | None = None
    ) -> Callable[..., Any]:
        """Jit `function`, or return the function that was jitted under `name`, for the functions of `edit`, before."""
        # The structure holds the names and the functions, which are equal if they are the same objects, but no arrays.
        key = name, jax.tree.structure(edit)
        found = self._jitted.pop(key, None)
        self._jitted[key] = found or jax.jit(function, compiler_options=compiler.options())
        edited = [key for key in self._jitted if key[1] != jax.tree.structure(None)]
        for unused in edited[:-EDITED_PROGRAMS]:
            del self._jitted[unused]
        return self._jitted[key]

    def all_features(
        self, variables: Any, pixels: Any, edit: Edit | None = None
    ) -> dict[str, jax.Array]:
        """Compute the features of the center crops of uint8 [n s s 3], by name; for functions to jit.

        `edit` is as for `predict`.
        """
        inputs = self.inputs(pixels)[:, 0]
        outputs: Any = self.model.apply(variables, inputs, train=False, edit=edit)
        return outputs[1]

    def logits_from(self, variables: Any, name: str, activations: Any) -> jax.Array:
        """Compute the logits [n classes] from the output [n ...] of a layer or operation; for functions to jit.

        XLA removes the layers before it, whose results are not used.
        """
        crop = self.trained.config.augment.crop_size
        inputs = jnp.zeros((len(activations), crop, crop, 3))
        edit = {name: lambda x: activations.astype(x.dtype)}
        outputs: Any = self.model.apply(variables, inputs, train=False, edit=edit)
        return outputs[0]


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


def _named_images(images: Any) -> Iterator[tuple[str, Any]]:
    """Yield a name for error messages and the image, for one image or several. Raises DataError for anything else."""
    if image_files.is_image(images):
        yield "the image", images
        return
    # A set has no order, and iterating over a file gives lines.
    if isinstance(images, Mapping | Set | io.IOBase) or not isinstance(images, Iterable):
        raise DataError(
            f"images are paths, the bytes of files, Pillow images or uint8 [h w 3], one or a list, or uint8 [n h w 3]; "
            f"not {type(images).__name__}"
        )
    if hasattr(images, "__array__"):
        images = np.asarray(images)
    for i, image in enumerate(images):
        yield f"image {i}", image


def _as_partial(feature: str, function: Any) -> Partial:
    """Return the edit of a feature as a pytree of its arguments, of which jitted functions can be called."""
    if not callable(function):
        raise ConfigError(
            f"the edit of {feature} is a function of its array, not {type(function).__name__}"
        )
    return function if isinstance(function, Partial) else Partial(function)
