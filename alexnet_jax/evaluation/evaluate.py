"""Evaluation over exactly every image of a split, in training and from a run folder.

python -m alexnet_jax.evaluation.evaluate --workdir W [--split val] [--views center|ten|nine] [--step N]
"""

import argparse
import json
from pathlib import Path

import numpy as np

from alexnet_jax import cli
from alexnet_jax.errors import DataError
from alexnet_jax.evaluation import errors, saved


def predictions(predict, split, batch_size: int, poll=lambda: None) -> np.ndarray:
    """Class probabilities [n classes] of every image of `split`, in order.

    `predict(images, indices)` gives the probabilities [batch_size classes] of `images[indices]`; the last batch is
    filled up with copies of its first image, whose predictions are dropped. `poll` is called before each batch and
    may raise to leave.
    """
    parts = []
    for start in range(0, len(split.labels), batch_size):
        poll()
        indices = np.arange(start, min(start + batch_size, len(split.labels)))
        padded = np.concatenate([indices, np.full(batch_size - len(indices), start)])
        parts.append(np.asarray(predict(split.images, padded))[: len(indices)])
    return np.concatenate(parts)


def predictor(eval_step, params, batch_stats, mesh):
    """`predict` for `predictions`, from a jitted step of training.step.make_eval_step.

    Parameters that are NumPy arrays go to the devices here, once, and not with every batch.
    """
    import jax

    from alexnet_jax import processes
    from alexnet_jax.data import placement

    if not isinstance(jax.tree.leaves(params)[0], jax.Array):
        whole = jax.NamedSharding(mesh, jax.P())
        params, batch_stats = jax.device_put((params, batch_stats), whole)

    def predict(images, indices):
        return processes.to_host(
            eval_step(params, batch_stats, placement.sent(images, mesh, indices))
        )

    return predict


def main(arguments: list[str]) -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", required=True, help="the run folder")
    parser.add_argument("--split", help="val or test; default: both, where they exist")
    parser.add_argument(
        "--views", choices=("center", "ten", "nine"), help="default: the config's final views"
    )
    parser.add_argument("--step", type=int, help="the checkpoint; default: the newest")
    parser.add_argument(
        "--data-path", help="where the images are now; default: where they were in training"
    )
    options = parser.parse_args(arguments)
    print(json.dumps(evaluate(options), indent=1))


def evaluate(options: argparse.Namespace) -> dict:
    """The errors of a run folder, by split and views; per-image probabilities go to its predictions/ folder."""
    import dataclasses

    from alexnet_jax import workdir
    from alexnet_jax.data import sources
    from alexnet_jax.model.alexnet import AlexNet
    from alexnet_jax.parallel import device_mesh, round_up
    from alexnet_jax.training.step import make_eval_step

    run = workdir.load(options.workdir, options.step)
    spec = run.config
    data = dataclasses.replace(spec.data, path=options.data_path or spec.data.path)
    dataset = sources.open_dataset(data, spec.seed)
    if tuple(dataset.class_names) != run.class_names:
        raise DataError(
            f"the classes of {data.path or data.source} are not those the run was trained on"
        )
    held_out = [name for name in ("val", "test") if name in dataset.splits]
    if options.split and options.split not in dataset.splits:
        raise DataError(
            f"{data.path or data.source} has no split {options.split!r}; it has {', '.join(dataset.splits)}"
        )
    mesh = device_mesh()
    batch_size = round_up(spec.evaluation.batch_size, mesh.size)
    report: dict = {"step": run.step, "config": spec.name, "splits": {}}
    for view in (options.views,) if options.views else spec.evaluation.final_views:
        step = make_eval_step(spec, AlexNet(spec.model), run.statistics, mesh, view)
        predict = predictor(step, run.params, run.batch_stats, mesh)
        for name in (options.split,) if options.split else held_out:
            split = dataset.splits[name]
            probabilities = predictions(predict, split, batch_size)
            report["splits"].setdefault(name, {})[view] = record(
                Path(options.workdir), name, view, run.step, probabilities, split.labels
            )
    return report


def record(workdir: Path, split: str, view: str, step: int, probabilities, labels) -> dict:
    """Keep probabilities [n classes] and labels [n] as predictions/<split>_<view>_<step>.npz; their errors."""
    saved.save(workdir, split, view, step, saved.Predictions(probabilities, labels))
    return errors.summarize(probabilities, labels)


if __name__ == "__main__":
    cli.run(main)
