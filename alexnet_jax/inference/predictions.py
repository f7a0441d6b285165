"""Predictions of a split, and how a run folder keeps them: predictions/<split>_<views>_<step>.npz."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax import files
from alexnet_jax.errors import DataError, StorageError
from alexnet_jax.inference import metrics as errors
from alexnet_jax.specs import Config


class Predictions(NamedTuple):
    """Of one net, for every image of a split, in its order."""

    probabilities: np.ndarray
    """float32 [n classes], the mean over the views."""
    labels: np.ndarray
    """int [n]"""

    def wrong(self, top: int = 1) -> np.ndarray:
        """bool [n]: the label is not among the `top` most probable classes; a tie is not credited."""
        return errors.rank(self.probabilities, self.labels) > top


def path(folder: str | Path, split: str, views: str, step: int) -> Path:
    return Path(folder) / "predictions" / f"{split}_{views}_{step}.npz"


def save(folder: str | Path, split: str, views: str, step: int, predictions: Predictions) -> Path:
    """Write them to `path`. Raises StorageError."""
    file, content = path(folder, split, views, step), io.BytesIO()
    np.savez_compressed(content, **predictions._asdict())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(file, content.getvalue())
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}") from None
    return file


def load(folder: str | Path, split: str, views: str, step: int) -> Predictions:
    """What `save` wrote there. Raises DataError."""
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


def of_split(predict, split, batch_size: int, poll=lambda: None) -> np.ndarray:
    """Class probabilities [n classes] of every image of `split`, in order.

    `predict(images, indices)` returns the probabilities [batch_size classes] of `images[indices]`, which a device
    may still be computing: they are fetched when the next batch was read and dispatched. The last batch is filled up
    with copies of its first image, whose predictions are dropped. `poll` is called before each batch and may raise to
    leave.
    """
    parts, dispatched = [], None
    for start in range(0, len(split.labels), batch_size):
        poll()
        indices = np.arange(start, min(start + batch_size, len(split.labels)))
        padded = np.concatenate([indices, np.full(batch_size - len(indices), start)])
        before, dispatched = dispatched, predict(split.images, padded)
        if before is not None:
            parts.append(np.asarray(before))
    parts.append(np.asarray(dispatched))
    return np.concatenate(parts)[: len(split.labels)]


def batch_size(spec: Config, view: str, mesh) -> int:
    """Images in a batch over `mesh`, such that their crops are about `evaluation.batch_size`."""
    from alexnet_jax.data.pipeline import views
    from alexnet_jax.model import mesh as parallel

    return parallel.round_up(views.images_at_once(view, spec), mesh.shape[parallel.DATA])


def predictor(eval_step, params, batch_stats, mesh):
    """`predict` for `predictions`, from a jitted step of inference.predict_step.make_eval_step; it waits for no device.

    Parameters that are NumPy arrays go to the devices here, once, and not with every batch.
    """
    import jax

    from alexnet_jax.data.pipeline import placement

    whole = jax.NamedSharding(mesh, jax.P())
    if not isinstance(jax.tree.leaves(params)[0], jax.Array):
        params, batch_stats = jax.device_put((params, batch_stats), whole)
    # Several processes: each needs all probabilities, gathered right behind the batch and before the next one.
    gather = _nothing if whole.is_fully_addressable else jax.jit(_nothing, out_shardings=whole)

    def predict(images, indices):
        return gather(eval_step(params, batch_stats, placement.sent(images, mesh, indices)))

    return predict


def _nothing(x):
    return x


def record(workdir: Path, split: str, view: str, step: int, probabilities, labels) -> dict:
    """Keep probabilities [n classes] and labels [n] as predictions/<split>_<view>_<step>.npz; their errors."""
    save(workdir, split, view, step, Predictions(probabilities, labels))
    return errors.summarize(probabilities, labels)
