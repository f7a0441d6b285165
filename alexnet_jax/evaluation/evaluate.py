"""Top-1 and top-5 error of a trained network on a split.

alexnet evaluate --workdir W [--split val] [--views center|ten|nine|dense] [--step N]

Another dataset with the same classes: --source NAME, --data-path PATH, and --out DIR for the predictions.
"""

import json
from typing import Any

from alexnet_jax import cli, specs
from alexnet_jax.config import published
from alexnet_jax.errors import DataError
from alexnet_jax.evaluation import target as targets
from alexnet_jax.evaluation.target import EvalTarget
from alexnet_jax.inference import metrics

#: Columns of `error_cells`.
ERROR_COLUMNS = ("top-1 error", "top-5 error", "NLL", "ECE")


def main(arguments: list[str]) -> None:
    parser = cli.parser(__doc__ or "")
    targets.add_arguments(parser)
    parser.add_argument("--split", help="val, test or train; default: val and test, as there are")
    parser.add_argument("--views", choices=specs.VIEWS, help="default: the config's final views")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    report = evaluate(targets.from_arguments(options), options.split, options.views)
    print(json.dumps(report, indent=1) if options.json else _text(report))


def evaluate(
    target: EvalTarget, split: str | None = None, view: str | None = None
) -> dict[str, Any]:
    """Compute the errors of a trained network, and save its probabilities of every image to predictions/.

    Args:
        split: default: val and test, as far as there are.
        view: default: those of the config's final evaluation.

    Returns:
        {"net", "config", "step", "data", "predictions", "splits": {"test": {"ten": errors}}}; the errors are those of
        `errors_of` and "crops", their number for an image.

    Raises:
        ConfigError, DataError, StorageError
    """
    from alexnet_jax.data.pipeline import views

    model, folder = target.trained, target.folder
    held_out = [name for name in ("val", "test") if name in target.dataset.splits]
    if not split and not held_out:
        raise DataError(f"{target.data} has neither val nor test; --split train takes what it has")
    splits: dict[str, dict[str, Any]] = {}
    for name in (split,) if split else held_out:
        for one in (view,) if view else model.config.evaluation.final_views:
            errors = errors_of(*target.compute(name, one))
            splits.setdefault(name, {})[one] = errors | {"crops": views.number(one, model.config)}
    return {
        "net": str(target.path),
        "config": model.config.name,
        "step": model.step,
        "data": target.data,
        "predictions": str(folder / "predictions"),
        "splits": splits,
    }


def errors_of(probabilities: Any, labels: Any) -> dict[str, Any]:
    """The errors of metrics.summarize, and "calibration_error"."""
    error = metrics.expected_calibration_error(probabilities, labels)
    return metrics.summarize(probabilities, labels) | {"calibration_error": error}


def error_cells(errors: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a table for what `errors_of` returns."""
    top5 = f"{errors['top5_error']:.2%}" if "top5_error" in errors else ""
    calibration_error = f"{errors['calibration_error']:.2%}"
    return (f"{errors['top1_error']:.2%}", top5, f"{errors['nll']:.4f}", calibration_error)


def published_errors() -> list[str]:
    """Lines with the published errors of AlexNet."""
    return [
        "Published, of ImageNet with its 1,000 classes, and so not comparable to other images (top-1 / top-5, %):",
        "",
        *cli.table([published.HEADER, *published.rows()], right=(1, 2)),
    ]


def _text(report: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("split", "views", "images", *ERROR_COLUMNS)]
    for split, views in report["splits"].items():
        for view, errors in views.items():
            crops = "1 crop" if errors["crops"] == 1 else f"{errors['crops']} crops"
            rows.append((split, f"{view}, {crops}", f"{errors['count']:,}", *error_cells(errors)))
    return "\n".join([
        f"{report['net']}, step {report['step']:,} of {report['config']}, on {report['data']}", "",
        *cli.table(rows, right=(2, 3, 4, 5, 6)), "",
        f"probabilities of every image: {report['predictions']}", "",
        *published_errors(),
    ])  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
