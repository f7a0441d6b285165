"""What two runs must have in common, to the last bit, for one to be the continuation that nobody notices."""

import hashlib
import json
from pathlib import Path

import numpy as np

from alexnet_jax import files
from alexnet_jax.inference import checkpoints

UNTIMED = ("time", "images_per_second", "data_wait_fraction", "seconds")


def snapshot(workdir: Path) -> dict[str, object]:
    """By name: each array, hash and number of each checkpoint, each line of metrics.jsonl, the final errors."""
    found: dict[str, object] = {}
    folder = workdir / "checkpoints"
    steps = checkpoints.committed_steps(folder)
    found["checkpoints"] = steps
    for step in steps:
        meta = checkpoints.verify(folder, step)
        found |= {f"{step}/{key}": value for key, value in meta.items() if key not in UNTIMED}
        for path, leaf in files.flatten(checkpoints.read_state(folder, step)).items():
            found[f"{step}/{path}"] = hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
        for name, array in checkpoints.load_statistics(folder, step)._asdict().items():
            found[f"{step}/statistics/{name}"] = hashlib.sha256(array.tobytes()).hexdigest()
    for number, line in enumerate((workdir / "metrics.jsonl").read_text().splitlines()):
        values = {k: v for k, v in json.loads(line).items() if k not in UNTIMED}
        found[f"metrics {number}"] = values
    if (workdir / "results.json").exists():
        found["results"] = json.loads((workdir / "results.json").read_text())["splits"]
    return found


def differences(one: dict, other: dict) -> list[str]:
    """The names under which two snapshots differ."""
    return sorted(name for name in one | other if one.get(name) != other.get(name))


def leftovers(workdir: Path) -> list[str]:
    """Files that no finished run may leave: temporary ones, and those on their way to deletion."""
    patterns = ("*.tmp", "checkpoints/.tmp-*", "checkpoints/.trash-*", "checkpoints/*/*.tmp")
    return sorted(
        str(p.relative_to(workdir)) for pattern in patterns for p in workdir.glob(pattern)
    )
