"""What the files of a run folder hold; run/workdir.py writes them."""

import bisect
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alexnet_jax import files
from alexnet_jax.errors import StorageError, WorkdirError, listed
from alexnet_jax.run.schemas import Environment, Metrics, Results, Start, Status
from alexnet_jax.specs import Config

log = logging.getLogger(__name__)

_LARGEST = float(2**128)
#: A line of a .jsonl file: its bytes, and its values or, as a str, its fault.
Line = tuple[bytes, dict[str, Any] | str]


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json, checked only for being a JSON object. Raises StorageError."""
    remedy = "meta.json of a checkpoint has a copy, as its config"
    content = files.read_json(folder / "config.json", dict[str, Any], remedy=remedy)
    if content is None:
        raise StorageError(f"{folder} is not a run folder: it has no config.json")
    return content


def config_name(folder: Path) -> str | None:
    """The name of the config of a run folder; None if there is no run, or its config.json is damaged."""
    try:
        tree = files.read_json(folder / "config.json", dict[str, Any]) or {}
    except StorageError:
        return None
    name = tree.get("name")
    return name if isinstance(name, str) else None


def read_status(folder: Path) -> Status | None:
    """Read status.json; None before the first start, and if it is damaged."""
    try:
        return files.read_json(folder / "status.json", Status)
    except StorageError:
        return None


def saved_step(folder: Path) -> int:
    """Step of the newest checkpoint according to status.json; 0 if there is none."""
    status = read_status(folder)
    return status.get("saved_step", 0) if status else 0


def read_environment(folder: Path) -> Environment | None:
    """Read run.json of the latest start; None before the first. Raises StorageError."""
    remedy = "remove it: the next start writes it"
    return files.read_json(folder / "run.json", Environment, remedy=remedy)


def read_results(folder: Path) -> Results | None:
    """Read results.json; None before the end of the run. Raises StorageError."""
    remedy = "remove it: the next start makes it from the last checkpoint"
    return files.read_json(folder / "results.json", Results, remedy=remedy)


def read_metrics(folder: str | Path, *, missing_ok: bool = False) -> list[dict[str, Any]]:
    """Read metrics.jsonl, in the order of its steps, without a last line that is still being written.

    Damaged lines are left out with a warning. Raises WorkdirError if there is no metrics.jsonl, unless `missing_ok`.
    """
    file = Path(folder) / "metrics.jsonl"
    if not file.exists():
        if missing_ok:
            return []
        raise WorkdirError(f"cannot read {file}: --workdir must be a run folder")
    return _intact(file, metrics_lines(file))


def metrics_lines(file: Path) -> list[Line]:
    """Read the lines of a metrics.jsonl.

    Steps do not decrease from line to line: where they do, the fewest possible lines count as damaged.
    """
    lines: list[Line] = [
        (text, line if isinstance(line, str) else _checked_errors(dict(line)))
        for text, line in files.read_json_lines(file, Metrics, error=WorkdirError)
    ]
    steps = {i: line["step"] for i, (_, line) in enumerate(lines) if not isinstance(line, str)}
    places = list(steps)
    kept = {places[i] for i in _longest_nondecreasing(list(steps.values()))}
    for i in steps.keys() - kept:
        lines[i] = lines[i][0], f"its step {steps[i]} is not between those of its neighbors"
    return lines


def damaged_lines(file: Path, lines: list[Line]) -> str | None:
    """A warning about the damaged lines of a file; None if there are none, or only the last is cut off."""
    if lines and not lines[-1][0].endswith(b"\n"):
        lines = lines[:-1]
    faults = [(number, line) for number, (_, line) in enumerate(lines, 1) if isinstance(line, str)]
    if not faults:
        return None
    shown = listed([f"line {number} ({fault})" for number, fault in faults], 3)
    return f"{file} is damaged and was read without {shown}"


def validation_errors(lines: Iterable[dict[str, Any]], spec: Config) -> dict[int, float]:
    """Top-1 error on 'val', as a fraction, by the step of each evaluation among lines of metrics.jsonl."""
    key = f"eval_val_{spec.evaluation.views}_top1_error"
    return {line["step"]: line[key] for line in lines if key in line}


def history(folder: str | Path) -> list[Start]:
    """Read history.jsonl: all starts of the run, in order.

    Damaged lines are left out with a warning, and a last line that is cut off without one.
    """
    file = Path(folder) / "history.jsonl"
    if not file.is_file():
        return []
    return _intact(file, files.read_json_lines(file, Start))


def begun_from(folder: str | Path) -> str | None:
    """The weights that the run was initialized with (--init-from); None for random ones."""
    return next((start.get("init_from") for start in history(folder)), None)


def not_utf8(folder: Path) -> str:
    """Return the error message for a run folder whose name is not UTF-8."""
    return (
        f"the name of the run folder {os.fsencode(folder)!r} is not UTF-8 text in this locale, which checkpoints need: "
        "choose another --workdir, or set PYTHONUTF8=1 if the name is UTF-8"
    )


def _intact(file: Path, lines: list[Any]) -> list[Any]:
    if warning := damaged_lines(file, lines):
        log.warning("%s", warning)
    return [line for _, line in lines if not isinstance(line, str)]


def _checked_errors(line: dict[str, Any]) -> dict[str, Any] | str:
    """A line of metrics.jsonl, or the fault of its measurements, whose keys are not all known to Metrics."""
    for key, value in line.items():
        measured = key.startswith(("eval_", "train_"))
        if measured and (isinstance(value, bool) or not isinstance(value, int | float)):
            return f"{key} is not a number"
        if measured and key.endswith("_error") and not 0 <= value <= 1:
            return f"{key} is not a fraction from 0 to 1"
        if measured and abs(value) > _LARGEST:
            return f"{key} is larger than any float32"
        if measured and "epoch" not in line:
            return f"it has {key} and no epoch"
    return line


def _longest_nondecreasing(numbers: list[int]) -> list[int]:
    """Indices of a longest non-decreasing subsequence."""
    ends: list[int] = []  # the smallest last number of a subsequence of each length
    indices: list[int] = []  # where that number is
    previous: list[int | None] = []
    for i, number in enumerate(numbers):
        length = bisect.bisect_right(ends, number)
        ends[length : length + 1], indices[length : length + 1] = [number], [i]
        previous.append(indices[length - 1] if length else None)
    found: list[int] = []
    last = indices[-1] if indices else None
    while last is not None:
        found.append(last)
        last = previous[last]
    return found[::-1]
