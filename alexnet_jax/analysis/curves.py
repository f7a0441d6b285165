"""Plot the learning curves of a run: loss, error and learning rate by epoch, from metrics.jsonl.

alexnet figures curves --workdir runs/quickstart

Writes figures/curves.png and figures/curves.json.
"""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_jax import cli
from alexnet_jax.analysis import figures
from alexnet_jax.run.reading import read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRAIN_KEYS = ("train_loss", "train_top1_error", "learning_rate")
MEASURES = ("top1_error", "top5_error", "nll")
EVALUATION = re.compile(rf"eval_(?P<split>.+)_(?P<views>[a-z]+)_(?P<measure>{'|'.join(MEASURES)})")


def plot(workdir: Path | str) -> Path:
    """Write figures/curves.png and its numbers, figures/curves.json; return the path of the PNG.

    Raises:
      WorkdirError: `workdir` has no metrics.jsonl.
    """
    curves = read(Path(workdir))
    return figures.save(_draw(curves), curves, Path(workdir) / "figures" / "curves.png")


def read(workdir: Path) -> dict[str, Any]:
    """Read metrics.jsonl into columns: {"schema", "train": columns, "evaluations": {"val_center": columns, ...}}.

    A column maps a key to the list of its values, one per logged step. Errors are fractions; NaN and infinity become
    None.
    """
    train: dict[str, list[Any]] = {key: [] for key in ("step", "epoch", *TRAIN_KEYS)}
    evaluations: dict[str, dict[str, list[Any]]] = {}
    for row in read_metrics(workdir):
        if "train_loss" in row:
            for key, column in train.items():
                column.append(_finite(row.get(key)))
        measures: dict[str, dict[str, float | None]] = {}
        for key, value in row.items():
            if match := EVALUATION.fullmatch(key):
                curve = f"{match['split']}_{match['views']}"
                measures.setdefault(curve, {})[match["measure"]] = _finite(value)
        for curve, values in measures.items():
            columns = evaluations.setdefault(curve, {n: [] for n in ("step", "epoch", *MEASURES)})
            for name, column in columns.items():
                column.append(values.get(name) if name in MEASURES else row.get(name))
    return {"schema": 1, "train": train, "evaluations": evaluations}


def main(arguments: list[str]) -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", required=True, help="the folder of a run")
    print(plot(parser.parse_args(arguments).workdir))


def _finite(value: Any) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _draw(curves: dict[str, Any]) -> "Figure":
    # Not pyplot: it keeps global state and needs a backend.
    from matplotlib.figure import Figure

    train, evaluations = curves["train"], curves["evaluations"]
    figure = Figure(figsize=(7, 8), layout="constrained")
    loss, error, rate = figure.subplots(3, 1, sharex=True, height_ratios=(2, 3, 1))
    # Markers on short curves, because a single point has no visible line.
    style: dict[str, Any] = {"marker": "."} if len(train["epoch"]) < 30 else {}

    loss.plot(train["epoch"], _numbers(train["train_loss"]), color="C0", **style)
    loss.set_ylabel("training loss")

    percent = [100 * value for value in _numbers(train["train_top1_error"])]
    error.plot(train["epoch"], percent, color="C0", alpha=0.6, label="train", **style)
    for i, (curve, columns) in enumerate(sorted(evaluations.items())):
        for measure, line in (("top1_error", "-"), ("top5_error", "--")):
            values = [100 * value for value in _numbers(columns[measure])]
            if any(math.isfinite(value) for value in values):
                name = f"{curve.replace('_', ' ')}, {measure[:3]}-{measure[3]}"
                error.plot(columns["epoch"], values, f"o{line}C{i + 1}", ms=4, label=name)
    error.set_ylabel("error (%)")
    error.set_ylim(bottom=0)
    error.legend(frameon=False)

    rates = _numbers(train["learning_rate"])
    rate.plot(train["epoch"], rates, color="C0", drawstyle="steps-post", **style)
    if any(value > 0 for value in rates):
        rate.set_yscale("log")
        figures.plain_log_ticks(rate, [value for value in rates if value > 0])
    rate.set_ylabel("learning rate")
    rate.set_xlabel("epoch")
    for axes in (loss, error, rate):
        figures.plain(axes)
    return figure


def _numbers(column: list[float | None]) -> list[float]:
    """Replace None with NaN, which matplotlib skips."""
    return [math.nan if value is None else value for value in column]


if __name__ == "__main__":
    cli.run(main)
