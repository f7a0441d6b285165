"""Write WORKDIR/report.html: the results, curves, kernels and example images of a run in one self-contained file.

alexnet report --workdir runs/mine [--data-path PATH] [--step N]
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from alexnet_jax import cli, config, files
from alexnet_jax.analysis import report_training
from alexnet_jax.errors import AlexNetError, StorageError
from alexnet_jax.inference import trained
from alexnet_jax.inference.trained import Step, TrainedModel
from alexnet_jax.pages.render import render
from alexnet_jax.run import reading
from alexnet_jax.specs import Config

if TYPE_CHECKING:
    from alexnet_jax.data.pipeline.splits import Dataset


def main(arguments: list[str]) -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", required=True, help="the run folder")
    cli.add_step(parser)
    parser.add_argument(
        "--data-path", help="where the images are now; default: where they were in training"
    )
    options = parser.parse_args(arguments)
    print(write(Path(options.workdir), options.step, options.data_path))


def write(folder: Path, step: Step = None, data_path: str | None = None) -> Path:
    """Write report.html into a run folder. A section that cannot be made gives the reason instead.

    Raises:
      StorageError: `folder` is not a run folder, or cannot be written.
    """
    tree = reading.read_config(folder)
    spec = config.parse(tree)
    # These import JAX.
    from alexnet_jax.analysis import pictures, report_evaluation, report_images

    try:
        run, reason = trained.load(folder, step), ""
    except AlexNetError as error:
        if step is not None:
            raise
        run, reason = None, str(error)
    if run is not None:
        spec = run.config  # has the number of classes, which was counted in the data
    saved = report_evaluation.find_predictions(folder, run.step if run else None)

    def model() -> TrainedModel:
        if run is None:
            raise StorageError(reason)
        return run

    @functools.cache
    def dataset() -> "Dataset":
        return pictures.load_dataset(model(), data_path)

    sections: list[tuple[str, Callable[[], Markup]]] = [
        ("Results", lambda: report_evaluation.results(folder, saved)),
        ("Published numbers", lambda: report_evaluation.published(spec)),
        ("Learning curves", lambda: report_training.learning_curves(folder)),
        ("The network", lambda: report_training.network(spec, tree)),
        ("First-layer kernels", lambda: report_images.kernels(model())),
        ("Classes", lambda: report_evaluation.classes(saved, run)),
        ("Calibration", lambda: report_evaluation.calibration(saved)),
        ("Images", lambda: report_images.predictions(saved, model(), dataset)),
        ("Nearest images", lambda: report_images.neighbors(model(), dataset())),
        ("Figures", lambda: report_training.other_figures(folder)),
        ("Reproduction", lambda: report_training.reproduction(folder)),
    ]
    page = render(
        "report.html",
        title=folder.resolve().name,
        facts=_facts(folder, spec, run),
        sections=[(title, body) for title, make in sections if (body := _body(make))],
    )
    path = folder / "report.html"
    try:
        files.write_atomically(path, page)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None
    return path


def _body(make: Callable[[], Markup]) -> Markup:
    """Make the body of a section, or a note on why it cannot be made."""
    try:
        return make()
    except AlexNetError as error:
        return render("missing.html", reason=str(error))


def _facts(folder: Path, spec: Config, run: TrainedModel | None) -> str:
    status = reading.read_status(folder)
    state = status["state"] if status else "state unknown"
    step = run.step if run else status.get("step", 0) if status else 0
    return f"{spec.name}, seed {spec.seed}, {state}, step {step:,}"


if __name__ == "__main__":
    cli.run(main)
