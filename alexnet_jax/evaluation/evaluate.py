"""Errors over exactly every image of a split, in training and from a run folder or a weights file.

alexnet evaluate --workdir W [--split val] [--views center|ten|nine|dense] [--step N]

Other images of the same classes: --source NAME, --data-path PATH, and --out DIR for their predictions.
"""

import json
import typing

from alexnet_jax import cli, specs
from alexnet_jax.config import published
from alexnet_jax.errors import DataError
from alexnet_jax.inference import calibration
from alexnet_jax.inference import metrics as errors

if typing.TYPE_CHECKING:
    from alexnet_jax.evaluation.target import EvalTarget


def main(arguments: list[str]) -> None:
    from alexnet_jax.evaluation import target

    parser = cli.parser(__doc__ or "")
    target.add_arguments(parser)
    parser.add_argument("--split", help="val, test or train; default: val and test, as there are")
    parser.add_argument("--views", choices=specs.VIEWS, help="default: the config's final views")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    report = evaluate(target.from_arguments(options), options.split, options.views)
    print(json.dumps(report, indent=1) if options.json else _text(report))


def evaluate(target: "EvalTarget", split: str | None = None, view: str | None = None) -> dict:
    """The errors of a net by split and views; per-image probabilities go to predictions/.

    {"net", "config", "step", "data", "predictions", "splits": {"test": {"ten": {"count", "top1_error", "top5_error",
    "nll", "calibration_error", "crops"}}}}, as errors.summarize and calibration have them. split: None takes those of
    val and test that there are. view: None takes those of the config's final evaluation. Raises ConfigError,
    DataError, StorageError.
    """
    from alexnet_jax.data.pipeline import views

    run, folder = target.run, target.folder
    held_out = [name for name in ("val", "test") if name in target.dataset.splits]
    if not split and not held_out:
        raise DataError(f"{target.data} has neither val nor test; --split train takes what it has")
    splits: dict = {}
    for name in (split,) if split else held_out:
        for one in (view,) if view else run.config.evaluation.final_views:
            found = target.compute(name, one)
            splits.setdefault(name, {})[one] = errors.summarize(*found) | {
                "calibration_error": calibration.expected_calibration_error(*found),
                "crops": views.number(one, run.config),
            }
    return {
        "net": str(target.path), "config": run.config.name, "step": run.step, "data": target.data,
        "predictions": str(folder / "predictions"), "splits": splits,
    }  # fmt: skip


def _text(report: dict) -> str:
    """Tables of a report of `evaluate`, and of what was published."""
    rows: list[tuple[str, ...]] = [
        ("split", "views", "images", "top-1 error", "top-5 error", "NLL", "ECE")
    ]
    for split, views in report["splits"].items():
        for view, found in views.items():
            top5 = f"{found['top5_error']:.2%}" if "top5_error" in found else ""
            crops = "1 crop" if found["crops"] == 1 else f"{found['crops']} crops"
            rows.append((split, f"{view}, {crops}", f"{found['count']:,}", f"{found['top1_error']:.2%}",
                         top5, f"{found['nll']:.4f}", f"{found['calibration_error']:.2%}"))  # fmt: skip
    return "\n".join([
        f"{report['net']}, step {report['step']:,} of {report['config']}, on {report['data']}", "",
        *cli.table(rows, right=(2, 3, 4, 5, 6)), "",
        f"probabilities of every image: {report['predictions']}", "",
        *published_errors(),
    ])  # fmt: skip


def published_errors() -> list[str]:
    """Lines with the published errors of AlexNet, and what they are of."""
    return [
        "Published, of ImageNet with its 1,000 classes, and so not comparable to other images (top-1 / top-5, %):",
        "",
        *cli.table([published.HEADER, *published.rows()], right=(1, 2)),
    ]


if __name__ == "__main__":
    cli.run(main)
