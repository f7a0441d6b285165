"""The predictions that a run folder keeps: predictions/<split>_<views>_<step>.npz."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax import files
from alexnet_jax.errors import DataError, StorageError
from alexnet_jax.evaluation import errors


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
    remedy = f"python -m alexnet_jax.evaluation.evaluate --workdir {folder} writes it"
    like: dict[str, tuple[files.Shape, str]] = {
        "probabilities": (("images", "classes"), "float32"),
        "labels": (("images",), "integer"),
    }
    found = Predictions(**files.read_arrays(file, like, error=DataError, remedy=remedy))
    count, classes = found.probabilities.shape
    if not count or not 0 <= found.labels.min() <= found.labels.max() < classes:
        raise DataError(f"cannot read {file}: its labels are not of {classes} classes; {remedy}")
    return found
