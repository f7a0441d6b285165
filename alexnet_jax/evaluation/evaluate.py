"""Compute the top-1 and top-5 error of a trained network.

alexnet evaluate --workdir W [--split val] [--views center|ten|nine|dense] [--step N]

To evaluate on another dataset whose classes are all or some of the net's, give --source NAME, --data-path PATH, and
--out DIR for the predictions. --labels JSON gives each image several right labels.
"""

import json
from collections.abc import Sequence
from typing import Any

from alexnet_jax import cli, specs
from alexnet_jax.config import published
from alexnet_jax.errors import DataError
from alexnet_jax.evaluation import target as targets
from alexnet_jax.evaluation.classes import scope_in_words
from alexnet_jax.evaluation.target import EvalTarget
from alexnet_jax.inference import metrics


def main(arguments: list[str]) -> None:
    """Run `alexnet evaluate`."""
    parser = cli.parser(__doc__ or "")
    targets.add_arguments(parser)
    targets.add_labels(parser)
    parser.add_argument(
        "--split", help="val, test or train; default: val and test, as far as they exist"
    )
    parser.add_argument("--views", choices=specs.VIEWS, help="default: the config's final views")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    target = targets.from_arguments(options)
    report = evaluate(target, options.split, options.views)
    print(json.dumps(report, indent=1) if options.json else _text(report))


def evaluate(
    target: EvalTarget, split: str | None = None, view: str | None = None
) -> dict[str, Any]:
    """Compute the errors of a trained network, and save its class probabilities for each image in predictions/.

    Args:
        split: By default, val and test, as far as they exist.
        view: By default, the views of the config's final evaluation.

    Returns:
        {"net", "config", "step", "data", "predictions", "splits": {"test": {"ten": errors}}} and the keys of
        EvalTarget.scope. Errors are those of `errors_of`, "crops", the number of crops per image, and with sets of
        labels "not_counted", the number of images without labels.

    Raises:
        ConfigError: The views do not fit the network.
        DataError: The dataset has no such split, or no held-out split.
        StorageError: The predictions cannot be written.
    """
    from alexnet_jax.data.pipeline import views

    model, folder = target.trained, target.folder
    held_out = [name for name in ("val", "test") if name in target.dataset.splits]
    if not split and not held_out:
        raise DataError(
            f"{target.data} has neither val nor test; use --split train to evaluate on training images"
        )
    splits: dict[str, dict[str, Any]] = {}
    for name in (split,) if split else held_out:
        for v in (view,) if view else model.config.evaluation.final_views:
            errors = errors_of(*target.compute(name, v))
            if target.has_label_sets:
                errors["not_counted"] = len(target.split(name).labels) - errors["count"]
            splits.setdefault(name, {})[v] = errors | {"crops": views.number(v, model.config)}
    return {
        "net": str(target.path),
        "config": model.config.name,
        "step": model.step,
        "data": target.data,
        "predictions": str(folder / "predictions"),
        **target.scope(),
        "splits": splits,
    }


def errors_of(probabilities: Any, labels: Any) -> dict[str, Any]:
    """Return the metrics of metrics.summarize and the "calibration_error"; labels are [n], or sets [n classes]."""
    error = metrics.expected_calibration_error(probabilities, labels)
    return metrics.summarize(probabilities, labels) | {"calibration_error": error}


def error_table(
    header: tuple[str, ...], rows: Sequence[tuple[tuple[str, ...], dict[str, Any]]]
) -> list[str]:
    """Format rows of cells, each followed by the result of `errors_of`, as lines of text.

    Top-5 errors have no column if there are too few classes for them, and NLL has none for sets of labels.
    """
    columns = {
        "top1_error": ("top-1 error", ".2%"),
        "top5_error": ("top-5 error", ".2%"),
        "nll": ("NLL", ".4f"),
        "calibration_error": ("ECE", ".2%"),
    }
    keys = [key for key in columns if any(key in errors for _, errors in rows)]
    table = [(*header, *(columns[key][0] for key in keys))]
    for cells, errors in rows:
        table.append((*cells, *(format(errors[key], columns[key][1]) for key in keys)))
    return cli.table(table, right=range(len(header) - 1, len(table[0])))


def published_errors(classes: int) -> list[str]:
    """Return lines of text with the published errors of AlexNet, of which there are some for ImageNet alone."""
    if classes != published.CLASSES:
        return []
    return [
        "",
        "Published errors on ImageNet with 1,000 classes, not comparable to other datasets (top-1 / top-5, %):",
        "",
        *cli.table([published.HEADER, *published.rows()], right=(1, 2)),
    ]


def _text(report: dict[str, Any]) -> str:
    rows: list[tuple[tuple[str, ...], dict[str, Any]]] = []
    for split, views in report["splits"].items():
        for view, errors in views.items():
            crops = "1 crop" if errors["crops"] == 1 else f"{errors['crops']} crops"
            rows.append(((split, f"{view}, {crops}", f"{errors['count']:,}"), errors))
    return "\n".join([
        f"{report['net']}, step {report['step']:,} of {report['config']}, on {report['data']}", "",
        *error_table(("split", "views", "images"), rows), "",
        *scope_in_words(report),
        f"class probabilities of each image: {report['predictions']}",
        *published_errors(report["classes"]["predicted"]),
    ])  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
