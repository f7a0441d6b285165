"""The final report of a run: errors of all held-out splits, figures, and results.json."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.inference import checkpoints, predictions
from alexnet_jax.run import processes
from alexnet_jax.run.watchdog import SLOW
from alexnet_jax.run.workdir import RunFolder
from alexnet_jax.train import checkpoint
from alexnet_jax.train.log import summary
from alexnet_jax.train.loop import Training
from alexnet_jax.train.state import State

#: Draws the figures of a run from its folder and its first-layer kernels, and returns their files.
DrawFigures = Callable[[Path, np.ndarray], list[Path]]


def finish(run: Training, state: State, draw: DrawFigures) -> None:
    """Evaluate the final state, verify its checkpoint, draw figures, and write results.json.

    With train.patience, the checkpoint with the lowest validation error is evaluated instead. All processes must call
    it. Raises Stop, DataError and StorageError.
    """
    last_step, seconds = int(state.step), run.progress.seconds
    state = _reported(run, state)
    step = int(state.step)
    found = run.evaluator.final(state, step)
    first, _ = run.plan.spec.model.convs[0]
    kernels = processes.to_host(state.params[first]["kernel"])
    if not processes.is_primary():
        return
    run.checkpointer.wait()
    run.watchdog.beat(SLOW)
    labels = {name: run.evaluator.labels(name) for name in found}
    splits = record_predictions(run.folder, step, found, labels)
    checkpoints.verify(run.folder.checkpoints, step)
    results = {
        "schema": 1, "step": step, "epoch": run.plan.epoch(step), "config": run.plan.spec.name, "splits": splits,
        "seconds": seconds, "images_per_second": last_step * run.plan.batch_size / seconds,
    }  # fmt: skip
    if run.plan.spec.train.patience is not None:
        results |= {"last_step": last_step, "planned_step": run.plan.last_step}
    figures = draw(run.folder.path, kernels)
    write_results(run.folder, results)
    run.log.say(summary(results))
    # The checkpoint with the lowest error may be gone, if the disk was full.
    best = run.checkpointer.best()
    if best is not None and best[0] != step:
        run.log.say(
            f"  lowest validation error of a checkpoint: {best[1]:.2%} at step {best[0]:,}, --step best"
        )
    run.log.say("figures: " + "  ".join(str(path) for path in figures))


def _reported(run: Training, state: State) -> State:
    """Return the best checkpoint if train.patience is set and it is better than `state`, else `state`."""
    if run.plan.spec.train.patience is None:
        return state

    def better() -> int | None:
        run.checkpointer.wait()
        return run.checkpointer.better_than(int(state.step))

    step = processes.run_on_primary(better)
    return state if step is None else checkpoint.restore(run.folder.checkpoints, step, state)


def record_predictions(
    folder: RunFolder,
    step: int,
    found: Mapping[str, Mapping[str, np.ndarray]],
    labels: Mapping[str, np.ndarray],
) -> dict[str, dict[str, dict]]:
    """Write class probabilities to predictions/, and return the errors by split and view."""
    return {
        name: {
            view: predictions.record(folder.path, name, view, step, probabilities, labels[name])
            for view, probabilities in views.items()
        }
        for name, views in found.items()
    }


def write_results(folder: RunFolder, results: dict[str, Any]) -> None:
    """Write results.json; a run that has it is finished."""
    folder.write("results.json", results)
