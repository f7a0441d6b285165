"""Reading committed checkpoints of a run folder; train/checkpoint.py writes them."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from alexnet_jax import files
from alexnet_jax.data.pipeline import statistics
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.errors import CheckpointError
from alexnet_jax.run.schemas import Commit, Meta

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

#: Version of the format.
SCHEMA = 1

log = logging.getLogger(__name__)


def committed_steps(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint, in rising order; damaged ones are among them."""
    return sorted(
        int(p.name) for p in Path(folder).glob("*") if re.fullmatch("[0-9]{1,18}", p.name)
    )


def verify(folder: Path, step: int) -> Meta:
    """Check all files of a checkpoint against their committed sums, and return meta.json. Raises CheckpointError."""
    target = Path(folder) / str(step)
    try:
        manifest = target / "COMMIT.json"
        commit = files.read_json(manifest, Commit, error=CheckpointError)
        if commit is None:
            raise CheckpointError(f"damaged checkpoint: {manifest} is missing")
        text = manifest.read_text(encoding="utf-8")
        if commit["schema"] > SCHEMA:
            raise CheckpointError(
                f"{target} has schema {commit['schema']}, this program reads {SCHEMA}: use a newer one"
            )
        # The manifest itself has no sum: compare its text with what would be written.
        if text != commit_text(step, commit["files"]) or "meta.json" not in commit["files"]:
            raise CheckpointError(
                f"damaged checkpoint: {target / 'COMMIT.json'} is not what was written"
            )
        for name, found in sums(target, commit["files"]).items():
            if found != commit["files"][name]:
                raise CheckpointError(
                    f"damaged checkpoint: {target / name} is not what was committed"
                )
        meta = files.read_json(target / "meta.json", Meta, error=CheckpointError)
        if meta is None or meta["step"] != step:
            raise CheckpointError(f"damaged checkpoint: {target / 'meta.json'} is of another step")
        return meta
    except (OSError, ValueError) as error:
        raise CheckpointError(f"damaged checkpoint {target}: {error}") from error


def read_meta(folder: Path, step: int) -> dict:
    """Return meta.json of a checkpoint without verifying it; {} if it cannot be read."""
    try:
        meta = json.loads((Path(folder) / str(step) / "meta.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return meta if isinstance(meta, dict) else {}


def latest(
    folder: Path,
    step: int | None = None,
    on_damage: Callable[[int, CheckpointError], None] | None = None,
) -> tuple[int, Meta] | None:
    """Return step and meta.json of the newest intact checkpoint, or of `step`; None if nothing was ever saved.

    `on_damage(step, error)` is called for each damaged one that is skipped; without it a warning is logged.
    Raises CheckpointError if `step` is missing or damaged, or if no checkpoint is intact.
    """
    steps = committed_steps(folder)
    if step is not None:
        if step not in steps:
            raise CheckpointError(
                f"no checkpoint of step {step} in {folder}; there are: {steps or 'none'}"
            )
        return step, verify(folder, step)
    for candidate in reversed(steps):
        try:
            return candidate, verify(folder, candidate)
        except CheckpointError as error:
            if on_damage:
                on_damage(candidate, error)
            else:
                log.warning("%s; using an older one", error)
    bad = sorted(p.name for p in Path(folder).glob(".bad-*")) or steps
    if bad:
        raise CheckpointError(
            f"no intact checkpoint in {folder}, only damaged ones ({', '.join(map(str, bad))}): bring one back from "
            "a copy, or begin anew with --overwrite"
        )
    return None


def load_variables(folder: Path, step: int) -> dict:
    """Return {'params': ..., 'batch_stats': ...} of a checkpoint as nested dicts of NumPy arrays."""
    tree = read_state(folder, step, ("params", "batch_stats"))
    return {"params": tree["params"], "batch_stats": tree.get("batch_stats", {})}


def load_statistics(folder: Path, step: int) -> Statistics:
    """Return the input statistics of a checkpoint."""
    return statistics.read(Path(folder) / str(step) / "statistics.npz", error=CheckpointError)


def best_step(steps: Iterable[int], errors: Mapping[int, float]) -> int | None:
    """Return the first of `steps` with the lowest validation error; None if no error is finite."""
    finite = [(errors[step], step) for step in steps if np.isfinite(errors.get(step, np.nan))]
    return min(finite)[1] if finite else None


def read_state(folder: Path, step: int, parts: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Read the arrays of a checkpoint as nested dicts; all, or those of the top-level `parts`."""
    import orbax.checkpoint as ocp

    path = Path(folder).absolute() / str(step) / "state"
    with checkpointer() as opened:
        tree = opened.metadata(path).item_metadata.tree
        tree = {name: node for name, node in tree.items() if parts is None or name in parts}
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
        return opened.restore(
            path,
            args=ocp.args.PyTreeRestore(item=like, restore_args=arguments, partial_restore=True),
        )


def checkpointer() -> "ocp.Checkpointer":
    """Return a checkpointer of this process alone; by default orbax waits for all, but only the primary writes."""
    import orbax.checkpoint as ocp

    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process{jax.process_index()}",
    )
    # One folder for each array: with OCDBT, a process keeps about 9 kB of native memory for each checkpoint.
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone, use_ocdbt=False)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def commit_text(step: int, files: Mapping[str, Any]) -> str:
    """Return the content of COMMIT.json."""
    return json.dumps({"schema": SCHEMA, "step": step, "files": files}, sort_keys=True)


def sums(folder: Path, names: Iterable[str], *, sync: bool = False) -> dict[str, dict]:
    """Return size and SHA-256 of files by name, computed in four threads; `sync` flushes them to the disk."""

    def one(name: str) -> dict:
        with open(folder / name, "rb") as file:
            if sync:
                os.fsync(file.fileno())
            size = os.fstat(file.fileno()).st_size
            return {"size": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))
