"""Checkpoints: orbax writes the arrays, a manifest of SHA-256 sums written last makes them count.

    checkpoints/<step>/state/            the training state (orbax)
    checkpoints/<step>/statistics.npz    mean image and principal components that inputs were prepared with
    checkpoints/<step>/meta.json         config, class names, sums and hashes that a resumed run goes on from
    checkpoints/<step>/COMMIT.json       sizes and sums of all of the above

Written as .tmp-<step> and renamed when COMMIT.json is in it. A folder without a valid COMMIT.json is not a
checkpoint: the owner of the run sets it aside as .bad-<step>, readers pass it by. Sums show damage, not intent.
"""

import errno
import json
import logging
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import traverse_util

from alexnet_jax import files
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import CheckpointError, DivergedError, StorageError
from alexnet_jax.inference import checkpoints
from alexnet_jax.run import faults, processes
from alexnet_jax.run.schemas import Meta
from alexnet_jax.train.state import State

RETRY_SECONDS = (1.0, 4.0, 16.0)
"""Pauses before a save is tried again that failed with an error of the disk or network that may pass."""
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN}
_FULL = {errno.ENOSPC, errno.EDQUOT}
MARGIN_BYTES = 64 * 2**20

log = logging.getLogger(__name__)


def fetch(state: State) -> State:
    """A copy of `state` on the host, which steps made from now on do not change; all processes must call it."""
    on_cpu = jax.default_backend() == "cpu"

    def local(leaf):
        if not (isinstance(leaf, jax.Array) and leaf.is_fully_replicated):
            return leaf
        # On CPU device_get would return the memory of the device itself, and keep the next step from reusing it.
        one = leaf.addressable_data(0)
        return np.array(one) if on_cpu else one

    return processes.to_host(jax.tree.map(local, state))


def check_finite(state: State) -> None:
    """Raises DivergedError where an array of `state` (on the host) is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state._replace(schedule=None)):
        if not (np.isfinite(leaf.min()) and np.isfinite(leaf.max())):
            raise DivergedError(
                f"{jax.tree_util.keystr(path, simple=True, separator='/')} is not finite after step "
                f"{int(state.step)}: no checkpoint was made of it. Lower config.schedule.weights.learning_rate"
            )


def save(folder: Path, state: State, statistics: Statistics, meta: dict) -> dict[str, float]:
    """Write and commit a checkpoint of `state` at its own step; the seconds of its parts.

    An error that may pass is tried again after RETRY_SECONDS; on a full disk the best checkpoint and each k-th
    make room once, the last two stay. Raises StorageError when the disk refuses for good; earlier checkpoints
    are then untouched.
    """
    folder, step = Path(folder).absolute(), int(state.step)
    pauses, made_room = list(RETRY_SECONDS), False
    while True:
        try:
            return _write(folder, step, state, statistics, meta)
        except Exception as error:
            number = _error_number(error)
            if number is None:
                raise
            if (folder / str(step)).exists():  # the error came after the commit
                checkpoints.verify(folder, step)
                return {}
            shutil.rmtree(folder / f".tmp-{step}", ignore_errors=True)
            if number in _PASSING and pauses:
                pause = pauses.pop(0) * random.uniform(0.75, 1.25)
                log.warning("saving step %d: %s; again in %.0f s", step, os.strerror(number), pause)
                time.sleep(pause)
            elif number in _FULL and not made_room:
                made_room = True
                prune(folder, keep=checkpoints.committed_steps(folder)[-2:])
            else:
                need = "" if number not in _FULL else (
                    f" (needs {size(state) + MARGIN_BYTES:,} bytes, {_free(folder):,} are free)"
                )  # fmt: skip
                raise StorageError(
                    f"cannot save step {step} in {folder}: {os.strerror(number)}{need}; earlier checkpoints "
                    "are untouched: make room and run the same command again"
                ) from error


def _write(folder: Path, step: int, state: State, statistics: Statistics, meta: dict) -> dict:
    import orbax.checkpoint as ocp

    times = [time.perf_counter()]
    faults.point("save.begin")
    target = folder / f".tmp-{step}"
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    faults.point("save.folder")
    with _quiet_absl(), checkpoints.checkpointer() as checkpointer:
        checkpointer.save(
            target / "state",
            args=ocp.args.PyTreeSave(traverse_util.unflatten_dict(_flat(state), sep="/")),
        )
    faults.point("save.state")
    np.savez(target / "statistics.npz", **statistics._asdict())
    faults.point("save.statistics")
    meta = {"schema": checkpoints.SCHEMA, "step": step, **meta}
    (target / "meta.json").write_text(json.dumps(meta, sort_keys=True, indent=1), encoding="utf-8")
    faults.point("save.meta")
    times.append(time.perf_counter())
    names = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    sums = checkpoints.sums(target, names, sync=True)
    times.append(time.perf_counter())
    faults.point("save.hashed")
    with open(target / "COMMIT.json", "w", encoding="utf-8") as file:
        file.write(checkpoints.commit_text(step, sums))
        file.flush()
        os.fsync(file.fileno())
    for inside in (p for p in (target, *target.rglob("*")) if p.is_dir()):
        files.sync_folder(inside)
    faults.point("save.committed")
    os.rename(target, folder / str(step))
    files.sync_folder(folder)
    faults.point("save.renamed")
    times.append(time.perf_counter())
    return {
        part: after - before
        for part, before, after in zip(("write", "hash", "commit"), times, times[1:], strict=False)
    }


def size(state: State) -> int:
    """Bytes of the arrays of a state."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def check_room(folder: Path, state: State) -> None:
    """Raises StorageError where the disk has no room for the checkpoints that a run keeps at least.

    The first two and the one being written are 2.2 states with what lies around; later only the last is new.
    """
    need = int(size(state) * (1.1 if checkpoints.committed_steps(folder) else 2.2)) + MARGIN_BYTES
    free = _free(folder)
    if free < need:
        raise StorageError(
            f"{folder}: checkpoints need {need:,} bytes and {free:,} are free; make room or choose another --workdir"
        )


def recover(folder: Path, say: Callable[[str], None]) -> tuple[int, Meta] | None:
    """`checkpoints.latest` for the owner of the run folder, who also tidies it.

    Removes what an interrupted save or deletion left, and sets damaged checkpoints aside as .bad-<step>.
    """
    folder = Path(folder)
    for pattern in (".tmp-*", ".trash-*"):
        for left in folder.glob(pattern):
            say(f"removing {left.name}, left by a start that was killed")
            shutil.rmtree(left, ignore_errors=True)

    def set_aside(step: int, error: CheckpointError) -> None:
        aside, number = folder / f".bad-{step}", 1
        while aside.exists():
            number += 1
            aside = folder / f".bad-{step}-{number}"
        os.rename(folder / str(step), aside)
        say(f"{error.line()} ; kept as {aside.name}, using an older checkpoint")

    return checkpoints.latest(folder, on_damage=set_aside)


def restore(folder: Path, step: int, like: State) -> State:
    """The saved state with the tree, types and placement of `like`, on any number of devices.

    Raises CheckpointError naming the first leaves that do not match.
    """
    saved = processes.lead_arrays(lambda: _matching(folder, step, like), like)
    faults.point("resume.restored")
    return jax.tree.map(_place, saved, like)


def _matching(folder: Path, step: int, like: State) -> State:
    """The saved arrays in the tree of `like`. Raises CheckpointError."""
    saved, wanted = dict(checkpoints.leaves(checkpoints.read_state(folder, step))), _flat(like)
    _check_fits(folder, step, saved, wanted)
    return jax.tree.unflatten(jax.tree.structure(like), [saved[key] for key in wanted])


def check_fits(folder: Path, step: int, like: State) -> None:
    """Raises CheckpointError as `restore` does; `like` has arrays or their shapes, and none is read."""
    with checkpoints.checkpointer() as checkpointer:
        path = Path(folder).absolute() / str(step) / "state"
        tree = checkpointer.metadata(path).item_metadata.tree
    _check_fits(folder, step, dict(checkpoints.leaves(tree)), _flat(like))


def _check_fits(folder: Path, step: int, saved: dict, wanted: dict) -> None:
    if wrong := mismatches(saved, wanted):
        raise CheckpointError(
            f"{Path(folder) / str(step)} does not fit the model: {', '.join(wrong[:10])}"
        )


class Mismatch(NamedTuple):
    """A leaf that only one of two flat trees has, or that differs in shape or type."""

    name: str
    saved: str
    """Type and shape; empty where it is missing."""
    wanted: str
    """The same, empty where it is unexpected."""


def initialize(like: State, variables: dict, *, partial: bool) -> tuple[State, list[Mismatch]]:
    """`like` with parameters and batch statistics from `variables`, and what did not match.

    variables: {'params': nested dict of arrays, 'batch_stats': ...}. With `partial`, leaves that are missing or
    of another shape or type keep their initial values; without, they raise CheckpointError. So do variables of
    which not one array fits.
    """
    saved, wanted = dict(checkpoints.leaves(variables)), _flat(like)
    parts = ("params/", "batch_stats/")
    wanted_here = {key: leaf for key, leaf in wanted.items() if key.startswith(parts)}
    wrong = differences(saved, wanted_here)
    fits = {key: saved[key] for key in wanted_here.keys() - {one.name for one in wrong}}
    if wrong and not (partial and fits):
        said = ", ".join(mismatches(saved, wanted_here)[:10])
        remedy = (
            "--allow-partial takes those that do"
            if fits
            else "not one array does: name another net"
        )
        raise CheckpointError(
            f"the parameters to begin with do not fit the model: {said}; {remedy}"
        )
    leaves = [_place(fits[key], leaf) if key in fits else leaf for key, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), wrong


def differences(saved: dict, wanted: dict) -> list[Mismatch]:
    """The leaves that do not match, by name."""

    def words(leaf) -> str:
        return "" if leaf is None else f"{leaf.dtype}{leaf.shape}"

    pairs = {key: (words(saved.get(key)), words(wanted.get(key))) for key in {*saved, *wanted}}
    return [Mismatch(key, *pair) for key, pair in sorted(pairs.items()) if pair[0] != pair[1]]


def mismatches(saved: dict, wanted: dict) -> list[str]:
    """`differences` in words."""
    found = []
    for name, have, want in differences(saved, wanted):
        if not have:
            found.append(f"missing {name}")
        elif not want:
            found.append(f"unexpected {name}")
        else:
            found.append(f"{name} is {have}, the model wants {want}")
    return sorted(found)


def kept_steps(
    steps: list[int],
    best: int | None = None,
    keep_every: int | None = None,
    keep_powers_of_two: bool = False,
) -> list[int]:
    """Of committed `steps` the last two, `best`, each k-th, and 0, 1, 2, 4, 8 ... if they are asked for."""
    keep = {*steps[-2:], best}
    keep |= {step for step in steps if keep_every and step % keep_every == 0}
    keep |= {step for step in steps if keep_powers_of_two and is_power_of_two(step)}
    return sorted(keep & set(steps))


def is_power_of_two(step: int) -> bool:
    """Whether `step` is 0, 1, 2, 4, 8 ..."""
    return step & (step - 1) == 0


def prune(folder: Path, keep: list[int]) -> None:
    """Delete all checkpoints but `keep`; what cannot be deleted is left, with a warning."""
    for step in set(checkpoints.committed_steps(folder)) - set(keep):
        # Renamed first: a half-deleted folder must not look like a checkpoint.
        trash = Path(folder) / f".trash-{step}"
        try:
            os.rename(Path(folder) / str(step), trash)
            faults.point("prune.trash")
            shutil.rmtree(trash)
        except OSError as error:
            log.warning("cannot delete %s: %s", trash, error.strerror)
        faults.point("prune.deleted")


def _flat(state: State) -> dict:
    """Leaves by path, such as 'params/conv1/kernel'; the same names whatever optax's tuples are called."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    named = ((jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves)
    # On disk the state of the optimizer is called velocity, as in all older checkpoints.
    return {re.sub("^opt_state/", "velocity/", name): leaf for name, leaf in named}


def _place(saved: np.ndarray, like):
    return processes.to_devices(saved, like.sharding) if isinstance(like, jax.Array) else saved


def _free(folder: Path) -> int:
    return shutil.disk_usage(files.existing_parent(Path(folder))).free


def _error_number(error: BaseException | None) -> int | None:
    """The system's number of an error; orbax wraps those of its threads and says it in words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        said = re.search(r"os_error_code='(\d+)'", str(error))
        if said:
            return int(said.group(1))
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def _quiet_absl():
    """orbax logs a traceback for each thread that an error passes through; ours says it in a line."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
