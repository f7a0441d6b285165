"""Writing and restoring checkpoints.

A checkpoint is a folder with these files:

    checkpoints/<step>/state/            the training state (orbax)
    checkpoints/<step>/statistics.npz    mean image and principal components of the training images
    checkpoints/<step>/meta.json         config, class names, and the running sums that a resumed run continues
    checkpoints/<step>/COMMIT.json       sizes and SHA-256 sums of all other files

The folder is written as .tmp-<step> and renamed after COMMIT.json, the last file, is on the disk. A folder without a
valid COMMIT.json is damaged: the process that owns the run renames it to .bad-<step>, and readers skip it. The sums
detect damage, not manipulation.
"""

import errno
import json
import logging
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax import files
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import CheckpointError, DivergedError, StorageError
from alexnet_jax.inference import checkpoints
from alexnet_jax.run import processes
from alexnet_jax.run.schemas import Meta
from alexnet_jax.train import retention
from alexnet_jax.train.state import State

#: Pauses before each retry of a save that failed with a transient error.
RETRY_SECONDS = (1.0, 4.0, 16.0)
#: Free space required beyond the arrays.
MARGIN_BYTES = 64 * 2**20
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN}
_FULL = {errno.ENOSPC, errno.EDQUOT}
#: Fields of State that have a different name on disk.
_NAMES_ON_DISK = {"opt_state": "velocity"}

log = logging.getLogger(__name__)


def fetch(state: State) -> State:
    """Copy `state` to the host, because later steps reuse its buffers; all processes must call it."""
    on_cpu = jax.default_backend() == "cpu"

    def local(leaf: Any) -> Any:
        if not (isinstance(leaf, jax.Array) and leaf.is_fully_replicated):
            return leaf
        # On CPU, device_get would not copy, and the next step could not donate the buffer.
        shard = leaf.addressable_data(0)
        return np.array(shard) if on_cpu else shard

    return processes.to_host(jax.tree.map(local, state))


def check_finite(state: State) -> None:
    """Raise DivergedError if an array of `state` (on the host) is not finite."""
    for name, leaf in flatten(state._replace(schedule=None)).items():  # pyright: ignore[reportArgumentType]
        if not (np.isfinite(leaf.min()) and np.isfinite(leaf.max())):
            raise DivergedError(
                f"{name} is not finite after step {int(state.step)}, so no checkpoint was saved. "
                "Lower config.schedule.weights.learning_rate"
            )


def save(
    folder: Path, state: State, statistics: Statistics, meta: Mapping[str, Any]
) -> dict[str, float]:
    """Write and commit a checkpoint of `state`, and return the duration of each stage in seconds.

    Retries after a transient error, with pauses of RETRY_SECONDS. If the disk is full, deletes all checkpoints but
    the last two, once. Raises StorageError if the save still fails; earlier checkpoints are then intact.
    """
    folder, step = Path(folder).absolute(), int(state.step)
    pauses, made_room = list(RETRY_SECONDS), False
    while True:
        try:
            return write_checkpoint(folder, step, state, statistics, meta)
        except Exception as error:
            number = _error_number(error)
            if number is None:
                raise
            if (folder / str(step)).exists():  # the error came after the commit
                checkpoints.verify(folder, step)
                return {}
            shutil.rmtree(folder / f".tmp-{step}", ignore_errors=True)
            if number in _TRANSIENT and pauses:
                pause = pauses.pop(0) * random.uniform(0.75, 1.25)
                log.warning(
                    "saving step %d: %s; retrying in %.0f s", step, os.strerror(number), pause
                )
                time.sleep(pause)
            elif number in _FULL and not made_room:
                made_room = True
                retention.prune(folder, keep=checkpoints.committed_steps(folder)[-2:])
            else:
                need = "" if number not in _FULL else (
                    f" (needs {size(state) + MARGIN_BYTES:,} bytes, {free_room(folder):,} are free)"
                )  # fmt: skip
                raise StorageError(
                    f"cannot save step {step} in {folder}: {os.strerror(number)}{need}; earlier checkpoints "
                    "are untouched: make room and run the same command again"
                ) from error


def write_checkpoint(
    folder: Path, step: int, state: State, statistics: Statistics, meta: Mapping[str, Any]
) -> dict[str, float]:
    """Write a checkpoint without retries, and return the duration of each stage in seconds."""
    begin = time.perf_counter()
    target = make_temporary(folder, step)
    write_state(target, state)
    write_statistics(target, statistics)
    write_meta(target, step, meta)
    written = time.perf_counter()
    sums = hash_files(target)
    hashed = time.perf_counter()
    write_commit(target, step, sums)
    publish(target, folder / str(step))
    return {
        "write": written - begin, "hash": hashed - written, "commit": time.perf_counter() - hashed,
    }  # fmt: skip


def make_temporary(folder: Path, step: int) -> Path:
    """Make the empty folder in which a checkpoint is written."""
    target = folder / f".tmp-{step}"
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    return target


def write_state(target: Path, state: State) -> None:
    """Write the arrays with orbax."""
    import orbax.checkpoint as ocp

    tree = files.unflatten(flatten(state))
    with _quiet_absl(), checkpoints.checkpointer() as checkpointer:
        checkpointer.save(target / "state", args=ocp.args.PyTreeSave(tree))


def write_statistics(target: Path, statistics: Statistics) -> None:
    """Write statistics.npz."""
    np.savez(target / "statistics.npz", **statistics._asdict())


def write_meta(target: Path, step: int, meta: Mapping[str, Any]) -> None:
    """Write meta.json."""
    content = {"schema": checkpoints.SCHEMA, "step": step, **meta}
    text = json.dumps(content, sort_keys=True, indent=1)
    (target / "meta.json").write_text(text, encoding="utf-8")


def hash_files(target: Path) -> dict[str, dict]:
    """Flush all files to the disk, and return their sizes and SHA-256 sums by name."""
    names = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    return checkpoints.sums(target, names, sync=True)


def write_commit(target: Path, step: int, sums: Mapping[str, dict]) -> None:
    """Write COMMIT.json, and flush it and all folders to the disk."""
    with open(target / "COMMIT.json", "w", encoding="utf-8") as file:
        file.write(checkpoints.commit_text(step, sums))
        file.flush()
        os.fsync(file.fileno())
    for folder in (p for p in (target, *target.rglob("*")) if p.is_dir()):
        files.sync_folder(folder)


def publish(target: Path, final: Path) -> None:
    """Rename a committed checkpoint to its final name."""
    os.rename(target, final)
    files.sync_folder(final.parent)


def size(state: State) -> int:
    """Return the size in bytes of a state, of arrays or of jax.ShapeDtypeStruct."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def needed_room(state: State, *, is_new: bool) -> int:
    """Return the free bytes that the next checkpoints of a run need.

    A new run needs room for two states, and a run with checkpoints for one more, since each save is followed by the
    deletion of an old checkpoint. A tenth is added for metadata.
    """
    return int(size(state) * (2.2 if is_new else 1.1)) + MARGIN_BYTES


def free_room(folder: Path) -> int:
    """Return the free bytes of the disk of `folder`, which need not exist yet."""
    return shutil.disk_usage(files.existing_parent(Path(folder))).free


def check_room(folder: Path, state: State, *, is_new: bool) -> None:
    """Raise StorageError if the disk has less free space than `needed_room`."""
    need, free = needed_room(state, is_new=is_new), free_room(folder)
    if free < need:
        raise StorageError(
            f"{folder}: checkpoints need {need:,} bytes and {free:,} are free; make room or choose another --workdir"
        )


def recover(folder: Path, say: Callable[[str], None]) -> tuple[int, Meta] | None:
    """Clean up the checkpoints of a run and return `checkpoints.latest`; only the owner of the run may call it.

    Removes the remains of interrupted saves and deletions, and renames damaged checkpoints to .bad-<step>.

    Args:
        folder: The folder of the checkpoints.
        say: Function that receives a message about each change.
    """
    folder = Path(folder)
    for pattern in (".tmp-*", ".trash-*"):
        for remains in folder.glob(pattern):
            say(f"removing {remains.name}, left by a process that was killed")
            shutil.rmtree(remains, ignore_errors=True)

    def set_aside(step: int, error: CheckpointError) -> None:
        renamed, number = folder / f".bad-{step}", 1
        while renamed.exists():
            number += 1
            renamed = folder / f".bad-{step}-{number}"
        os.rename(folder / str(step), renamed)
        say(f"{error.line()}; renamed to {renamed.name}, using an older checkpoint")

    return checkpoints.latest(folder, on_damage=set_aside)


def restore(folder: Path, step: int, like: State) -> State:
    """Return the saved state with the tree structure, types and sharding of `like`, for any number of devices.

    Raises CheckpointError that names the first mismatching leaves.
    """
    saved = processes.arrays_from_primary(lambda: _matching(folder, step, like), like)
    return jax.tree.map(_place, saved, like)


def _matching(folder: Path, step: int, like: State) -> State:
    """Read the saved arrays into the tree of `like`. Raises CheckpointError."""
    saved, wanted = files.flatten(checkpoints.read_state(folder, step)), flatten(like)
    _check_fits(folder, step, saved, wanted)
    return jax.tree.unflatten(jax.tree.structure(like), [saved[key] for key in wanted])


def check_fits(folder: Path, step: int, like: State) -> None:
    """Raise CheckpointError if leaves, shapes or types differ from `like`; reads only the checkpoint's metadata."""
    with checkpoints.checkpointer() as checkpointer:
        path = Path(folder).absolute() / str(step) / "state"
        tree = checkpointer.metadata(path).item_metadata.tree
    _check_fits(folder, step, files.flatten(tree), flatten(like))


def _check_fits(folder: Path, step: int, saved: dict, wanted: dict) -> None:
    if wrong := mismatches(saved, wanted):
        raise CheckpointError(
            f"{Path(folder) / str(step)} does not fit the model: {', '.join(wrong[:10])}"
        )


class Mismatch(NamedTuple):
    """A leaf that is in only one of two flat trees, or differs in shape or type."""

    name: str
    #: Type and shape in the file, or '' if it is missing there.
    saved: str
    #: Type and shape in the model, or '' if it has no such leaf.
    wanted: str


def initialize(like: State, variables: dict, *, partial: bool) -> tuple[State, list[Mismatch]]:
    """Replace the parameters and batch statistics of `like` by `variables`, and return the mismatching leaves, too.

    Args:
        variables: {'params': nested dict of arrays, 'batch_stats': ...}.
        partial: Keep the initial values of mismatching leaves instead of raising an error.

    Raises:
        CheckpointError: A leaf does not match and `partial` is false, or no leaf matches.
    """
    saved, wanted = files.flatten(variables), flatten(like)
    prefixes = ("params/", "batch_stats/")
    replaced = {name: leaf for name, leaf in wanted.items() if name.startswith(prefixes)}
    wrong = differences(saved, replaced)
    fits = {name: saved[name] for name in replaced.keys() - {leaf.name for leaf in wrong}}
    if wrong and not (partial and fits):
        listing = ", ".join(mismatches(saved, replaced)[:10])
        remedy = (
            "--allow-partial loads only the arrays that fit"
            if fits
            else "no array fits: choose other weights"
        )
        raise CheckpointError(f"the initial weights do not fit the model: {listing}; {remedy}")
    leaves = [_place(fits[name], leaf) if name in fits else leaf for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), wrong


def differences(saved: dict, wanted: dict) -> list[Mismatch]:
    """Return the mismatching leaves of two flat trees, sorted by name."""

    def describe(leaf: Any) -> str:
        return "" if leaf is None else f"{leaf.dtype}{leaf.shape}"

    leaves = [
        Mismatch(name, describe(saved.get(name)), describe(wanted.get(name)))
        for name in sorted({*saved, *wanted})
    ]
    return [leaf for leaf in leaves if leaf.saved != leaf.wanted]


def mismatches(saved: dict, wanted: dict) -> list[str]:
    """Describe each of `differences` in words."""
    found = []
    for name, have, want in differences(saved, wanted):
        if not have:
            found.append(f"missing {name}")
        elif not want:
            found.append(f"unexpected {name}")
        else:
            found.append(f"{name} is {have}, the model needs {want}")
    return sorted(found)


def flatten(state: State) -> dict[str, Any]:
    """Return the leaves of a state keyed by their names on disk, such as 'params/conv1/kernel'."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        field, slash, rest = name.partition("/")
        found[_NAMES_ON_DISK.get(field, field) + slash + rest] = leaf
    return found


def _place(saved: np.ndarray, like: Any) -> Any:
    return processes.to_devices(saved, like.sharding) if isinstance(like, jax.Array) else saved


def _error_number(error: BaseException | None) -> int | None:
    """Return the errno of an error or of its causes, if any; orbax puts it in the text of errors from its threads."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        if match := re.search(r"os_error_code='(\d+)'", str(error)):
            return int(match.group(1))
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def _quiet_absl() -> Iterator[None]:
    """Suppress the tracebacks that orbax logs from its threads; `save` reports the error."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
