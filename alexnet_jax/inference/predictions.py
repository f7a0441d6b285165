"""Class probabilities of every image of a split, and their files predictions/<split>_<views>_<step>.npz."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alexnet_jax import files
from alexnet_jax.errors import DataError, StorageError
from alexnet_jax.inference import metrics
from alexnet_jax.specs import Config

if TYPE_CHECKING:
    import jax

    from alexnet_jax.data.pipeline.splits import Split

#: f(images, indices) -> probabilities [batch_size classes] of images[indices], which may still be computing.
Predictor = Callable[[Any, np.ndarray], "jax.Array | np.ndarray"]


class Predictions(NamedTuple):
    """Predictions of one network for every image of a split, in its order."""

    #: float32 [n classes], the mean over the views.
    probabilities: np.ndarray
    #: int [n].
    labels: np.ndarray

    def wrong(self, top: int = 1) -> np.ndarray:
        """Whether the label is not among the `top` most probable classes: bool [n]. A tie counts as an error."""
        return metrics.rank(self.probabilities, self.labels) > top


def path(folder: str | Path, split: str, views: str, step: int) -> Path:
    """The file of the predictions of a split."""
    return Path(folder) / "predictions" / f"{split}_{views}_{step}.npz"


def save(folder: str | Path, split: str, views: str, step: int, predictions: Predictions) -> Path:
    """Write predictions to `path`. Raises StorageError."""
    file, content = path(folder, split, views, step), io.BytesIO()
    np.savez_compressed(content, **predictions._asdict())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(file, content.getvalue())
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}") from None
    return file


def load(folder: str | Path, split: str, views: str, step: int) -> Predictions:
    """Read predictions that `save` wrote. Raises DataError."""
    file = path(folder, split, views, step)
    remedy = f"alexnet evaluate --workdir {folder} writes it"
    like: dict[str, tuple[files.Shape, str]] = {
        "probabilities": (("images", "classes"), "float32"),
        "labels": (("images",), "integer"),
    }
    found = Predictions(**files.read_arrays(file, like, error=DataError, remedy=remedy))
    count, classes = found.probabilities.shape
    if not count or not 0 <= found.labels.min() <= found.labels.max() < classes:
        raise DataError(f"cannot read {file}: its labels are not of {classes} classes; {remedy}")
    return found


def record(
    folder: Path, split: str, views: str, step: int, probabilities: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Save probabilities [n classes] and labels [n], and return their errors (metrics.summarize)."""
    save(folder, split, views, step, Predictions(probabilities, labels))
    return metrics.summarize(probabilities, labels)


def predict_split(
    predict: Predictor, split: "Split", batch_size: int, poll: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Compute the class probabilities [n classes] of every image of `split`, in order.

    A batch is fetched from the devices after the next one was read and dispatched. The last batch is filled up with
    copies of its first image.

    `poll` is called before each batch and may raise to stop.
    """
    parts, dispatched = [], None
    for start in range(0, len(split.labels), batch_size):
        poll()
        indices = np.arange(start, min(start + batch_size, len(split.labels)))
        padded = np.concatenate([indices, np.full(batch_size - len(indices), start)])
        previous, dispatched = dispatched, predict(split.images, padded)
        if previous is not None:
            parts.append(np.asarray(previous))
    parts.append(np.asarray(dispatched))
    return np.concatenate(parts)[: len(split.labels)]


def batch_size(spec: Config, view: str, mesh: "jax.sharding.Mesh") -> int:
    """Images in a batch over `mesh` that have about `evaluation.batch_size` crops together."""
    from alexnet_jax.data.pipeline import views
    from alexnet_jax.model import mesh as meshes

    return meshes.round_up(views.images_at_once(view, spec), mesh.shape[meshes.DATA])


def predictor(
    eval_step: Callable[..., "jax.Array"], params: Any, batch_stats: Any, mesh: "jax.sharding.Mesh"
) -> Predictor:
    """Return the `predict` of `predict_split` from the step that predict_step.make_eval_step made.

    Parameters that are NumPy arrays are put on the devices once.
    """
    import jax

    from alexnet_jax.data.pipeline import placement

    replicated = jax.NamedSharding(mesh, jax.P())
    if not isinstance(jax.tree.leaves(params)[0], jax.Array):
        params, batch_stats = jax.device_put((params, batch_stats), replicated)
    # With several processes each needs all probabilities: they are gathered before the next batch is dispatched.
    gather = (
        _identity
        if replicated.is_fully_addressable
        else jax.jit(_identity, out_shardings=replicated)
    )

    def predict(images: Any, indices: np.ndarray) -> "jax.Array":
        return gather(eval_step(params, batch_stats, placement.send(images, mesh, indices)))

    return predict


def _identity(x: "jax.Array") -> "jax.Array":
    return x
