"""Checkpoints: orbax writes the arrays, a manifest of SHA-256 sums written last makes them count.

    checkpoints/<step>/state/            the training state (orbax)
    checkpoints/<step>/statistics.npz    mean image and principal components that inputs were prepared with
    checkpoints/<step>/meta.json         config, class names, versions, metrics
    checkpoints/<step>/COMMIT.json       sizes and sums of all of the above

A folder without a valid COMMIT.json is not a checkpoint.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np

from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import StorageError
from alexnet_jax.training.state import State
from alexnet_jax.workdir import write_atomically

SCHEMA = 1


def save(folder: Path, state: State, statistics: Statistics, meta: dict) -> Path:
    """Write and commit a checkpoint of `state` at its own step. Raises StorageError when the disk refuses."""
    import orbax.checkpoint as ocp

    step = int(state.step)
    target = Path(folder).absolute() / str(step)
    try:
        if target.exists():  # left by a run that died before it committed
            shutil.rmtree(target)
        target.mkdir(parents=True)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            checkpointer.save(target / "state", args=ocp.args.PyTreeSave(_nested(_flat(state))))
        np.savez(target / "statistics.npz", **statistics._asdict())
        meta = {"schema": SCHEMA, "step": step, **meta}
        (target / "meta.json").write_text(
            json.dumps(meta, sort_keys=True, indent=1), encoding="utf-8"
        )
        files = {
            str(p.relative_to(target)): _sum(p) for p in sorted(target.rglob("*")) if p.is_file()
        }
        write_atomically(
            target / "COMMIT.json", json.dumps({"schema": SCHEMA, "step": step, "files": files})
        )
    except OSError as error:
        raise StorageError(f"cannot save step {step} in {folder}: {error.strerror or error}; "
                           "earlier checkpoints are untouched") from error  # fmt: skip
    return target


def committed_steps(folder: Path) -> list[int]:
    """Steps with a COMMIT.json, in rising order; whether their files are intact is for `verify` to say."""
    return sorted(
        int(p.parent.name) for p in Path(folder).glob("*/COMMIT.json") if p.parent.name.isdigit()
    )


def verify(folder: Path, step: int) -> dict:
    """The meta.json of a checkpoint whose every file has its committed size and sum. Raises StorageError."""
    target = Path(folder) / str(step)
    try:
        commit = json.loads((target / "COMMIT.json").read_text(encoding="utf-8"))
        if commit["schema"] != SCHEMA:
            raise StorageError(
                f"{target} has schema {commit['schema']}, this program reads {SCHEMA}"
            )
        for name, expected in commit["files"].items():
            if _sum(target / name) != expected:
                raise StorageError(f"damaged checkpoint: {target / name} is not what was committed")
        return json.loads((target / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"damaged checkpoint {target}: {error}") from error


def latest(folder: Path, step: int | None = None) -> tuple[int, dict] | None:
    """Step and meta.json of the newest intact checkpoint, or of `step`; None where nothing was committed.

    Raises StorageError if the step asked for is missing or damaged, or if all are damaged.
    """
    steps = committed_steps(folder)
    if step is not None:
        if step not in steps:
            raise StorageError(
                f"no checkpoint of step {step} in {folder}; there are: {steps or 'none'}"
            )
        return step, verify(folder, step)
    faults = []
    for candidate in reversed(steps):
        try:
            return candidate, verify(folder, candidate)
        except StorageError as error:
            faults.append(str(error))
    if faults:
        raise StorageError("no intact checkpoint: " + "; ".join(faults))
    return None


def restore(folder: Path, step: int, like: State) -> State:
    """The saved state with the tree, types and placement of `like`, on any number of devices.

    Raises StorageError naming the first leaves that do not match.
    """
    saved = dict(_leaves(_read(folder, step)))
    wanted = _flat(like)
    faults = [f"missing {k}" for k in wanted.keys() - saved.keys()]
    faults += [f"unexpected {k}" for k in saved.keys() - wanted.keys()]
    for key in wanted.keys() & saved.keys():
        if (saved[key].shape, saved[key].dtype) != (wanted[key].shape, wanted[key].dtype):
            faults.append(f"{key} is {saved[key].dtype}{saved[key].shape}, "
                          f"the model wants {wanted[key].dtype}{wanted[key].shape}")  # fmt: skip
    if faults:
        raise StorageError(
            f"{Path(folder) / str(step)} does not fit the model: " + ", ".join(sorted(faults)[:10])
        )
    leaves = [_place(saved[key], leaf) for key, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def load_variables(folder: Path, step: int) -> dict:
    """{'params': ..., 'batch_stats': ...} of a checkpoint as nested dicts of NumPy arrays."""
    tree = _read(folder, step, ("params", "batch_stats"))
    return {"params": tree["params"], "batch_stats": tree.get("batch_stats", {})}


def load_statistics(folder: Path, step: int) -> Statistics:
    """The input statistics a checkpoint was trained with."""
    with np.load(Path(folder) / str(step) / "statistics.npz", allow_pickle=False) as arrays:
        return Statistics(**{name: arrays[name] for name in Statistics._fields})


def prune(folder: Path, keep_every: int | None) -> None:
    """Delete all but the last two committed checkpoints, the best one, and each k-th."""
    steps = committed_steps(folder)
    errors = {}
    for step in steps:
        error = json.loads((Path(folder) / str(step) / "meta.json").read_text(encoding="utf-8"))[
            "val_error"
        ]
        if error is not None:
            errors[step] = error
    keep = set(steps[-2:])
    if errors:
        keep.add(min(errors, key=lambda step: (errors[step], step)))
    for step in set(steps) - keep:
        if not (keep_every and step % keep_every == 0):
            # Renamed first: a half-deleted folder must not look like a checkpoint.
            trash = Path(folder) / f".trash-{step}"
            os.rename(Path(folder) / str(step), trash)
            shutil.rmtree(trash, ignore_errors=True)


def _flat(state: State) -> dict:
    """Leaves by path, such as 'params/conv1/kernel'; the same names whatever optax's tuples are called."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _nested(flat: dict) -> dict:
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def _leaves(tree: dict, prefix: str = ""):
    for name, node in tree.items():
        if isinstance(node, dict):
            yield from _leaves(node, f"{prefix}{name}/")
        else:
            yield prefix + name, node


def _read(folder: Path, step: int, parts: tuple[str, ...] | None = None) -> dict:
    import orbax.checkpoint as ocp

    path = Path(folder).absolute() / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        tree = {name: node for name, node in tree.items() if parts is None or name in parts}
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        return checkpointer.restore(
            path,
            args=ocp.args.PyTreeRestore(item=like, restore_args=arguments, partial_restore=True),
        )


def _place(saved: np.ndarray, like):
    return jax.device_put(saved, like.sharding) if isinstance(like, jax.Array) else saved


def _sum(path: Path) -> dict:
    with open(path, "rb") as file:
        return {
            "size": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
