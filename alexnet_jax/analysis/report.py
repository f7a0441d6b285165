"""One page of all that a run folder knows of itself: report.html there, in one file, to keep and to send.

Command: alexnet report --workdir runs/mine [--data-path PATH] [--step N]
"""

import functools
from collections.abc import Callable
from pathlib import Path

from alexnet_jax import cli, config, files
from alexnet_jax.analysis import record
from alexnet_jax.errors import AlexNetError, StorageError
from alexnet_jax.inference import trained
from alexnet_jax.inference.trained import Step, TrainedModel
from alexnet_jax.pages import html
from alexnet_jax.pages.html import Html, fill
from alexnet_jax.run import reading
from alexnet_jax.specs import Config


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
    """Make report.html of a run folder; what is missing there is said in its place.

    Raises StorageError if it is no run folder or cannot be written.
    """
    tree = reading.read_config(folder)
    spec = config.parse(tree)
    from alexnet_jax.analysis import answers, pictures  # with JAX

    try:
        run, why = trained.load(folder, step), ""
    except AlexNetError as error:
        if step is not None:
            raise
        run, why = None, str(error)
    if run is not None:
        spec = run.config  # with the classes that were counted
    kept = answers.find(folder, run.step if run else None)

    def net() -> TrainedModel:
        if run is None:
            raise StorageError(why)
        return run

    @functools.cache
    def dataset():
        return pictures.load(net(), data_path)

    sections = [
        ("Results", lambda: record.results(folder, kept)),
        ("Published numbers", lambda: record.published(spec)),
        ("Learning curves", lambda: record.learning(folder)),
        ("The network", lambda: record.network(spec, tree)),
        ("First-layer kernels", lambda: answers.kernels(net())),
        ("Classes", lambda: answers.classes(kept, run)),
        ("Sure and right", lambda: answers.confidence(kept)),
        ("Images", lambda: answers.images(kept, net(), dataset)),
        ("Nearest images", lambda: answers.neighbors(net(), dataset())),
        ("Figures", lambda: record.figures(folder)),
        ("To run it again", lambda: record.again(folder)),
    ]
    page = html.page(
        "report.html",
        title=folder.resolve().name,
        facts=_facts(folder, spec, run),
        sections=html.join((_section(title, make) for title, make in sections), "\n"),
    )
    path = folder / "report.html"
    try:
        files.write_atomically(path, page)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None
    return path


def _section(title: str, make: Callable[[], Html]) -> Html:
    """A part of the page, or in its place why it is not there."""
    try:
        body = make()
    except AlexNetError as error:
        body = record.missing(str(error))
    template = '<section class="card"><h2>{title}</h2>\n{body}</section>'
    return fill(template, title=title, body=body)


def _facts(folder: Path, spec: Config, run: TrainedModel | None) -> str:
    status = reading.read_status(folder)
    state = status["state"] if status else "of unknown state"
    at = run.step if run else status.get("step", 0) if status else 0
    return f"{spec.name}, seed {spec.seed}, {state}, step {at:,}"


if __name__ == "__main__":
    cli.run(main)
