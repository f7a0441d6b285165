"""Retention of checkpoints: which ones to keep, and deletion of the others."""

import logging
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from alexnet_jax.inference import checkpoints

log = logging.getLogger(__name__)


def kept_steps(
    steps: Sequence[int],
    best: int | None = None,
    keep_every: int | None = None,
    keep_powers_of_two: bool = False,
) -> list[int]:
    """Return the committed steps to keep, in ascending order.

    Keeps the last two, `best`, multiples of `keep_every`, and with `keep_powers_of_two` steps 0, 1, 2, 4, 8 ...
    """
    keep = {*steps[-2:], best}
    keep |= {step for step in steps if keep_every and step % keep_every == 0}
    keep |= {step for step in steps if keep_powers_of_two and is_power_of_two(step)}
    return sorted(keep & set(steps))


def is_power_of_two(step: int) -> bool:
    """Whether `step` is 0, 1, 2, 4, 8 ..."""
    return step & (step - 1) == 0


def prune(folder: Path, keep: Collection[int]) -> None:
    """Delete all checkpoints except the steps in `keep`; log a warning for each that cannot be deleted."""
    for step in set(checkpoints.committed_steps(folder)) - set(keep):
        try:
            delete(folder, step)
        except OSError as error:
            log.warning("cannot delete checkpoint %d of %s: %s", step, folder, error.strerror)


def delete(folder: Path, step: int) -> None:
    """Delete the checkpoint of `step`."""
    shutil.rmtree(move_to_trash(folder, step))


def move_to_trash(folder: Path, step: int) -> Path:
    """Rename a checkpoint before its deletion, so that a partly deleted folder never counts as a checkpoint."""
    trash = Path(folder) / f".trash-{step}"
    os.rename(Path(folder) / str(step), trash)
    return trash
