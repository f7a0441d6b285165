"""Draw the training error of several runs, and compare the epochs they need (Figure 1, §3.1).

alexnet figures convergence --workdir runs/relu runs/tanh --out figures [--by model.activation]

Runs with the same value of the config key --by form a group, represented by its fastest run: in the paper each
activation function had its own best learning rate.
"""

import dataclasses
import itertools
import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from alexnet_jax import cli
from alexnet_jax.analysis import figures
from alexnet_jax.cli import markdown as md
from alexnet_jax.errors import ConfigError, WorkdirError
from alexnet_jax.inference import trained
from alexnet_jax.run import reading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATION = "model.activation"
#: The training error that the paper's "six times faster" refers to.
TARGET = 0.25


class Curve(NamedTuple):
    """The training error of a run; each point is the mean since the previous one."""

    run: str
    #: The value of the key that groups runs.
    kind: str
    #: Initial learning rate of the weights.
    rate: float
    epochs: list[float]
    errors: list[float]

    def epochs_to(self, target: float) -> float | None:
        """Epochs until the drawn line first reaches `target`; None if it never does."""
        place = next((i for i, error in enumerate(self.errors) if error <= target), None)
        if not place:
            return None if place is None else self.epochs[0]
        (start, end), (high, low) = (
            values[place - 1 : place + 1] for values in (self.epochs, self.errors)
        )
        return start + (end - start) * (high - target) / (high - low)

    def reached_in_words(self, target: float) -> str:
        """The result of `epochs_to` with two decimals, or the epochs in which the target was not reached."""
        reached = self.epochs_to(target)
        return f"not in {self.epochs[-1]:.0f}" if reached is None else f"{reached:.2f}"


def main(arguments: list[str]) -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", nargs="+", required=True, metavar="W", help="run folders")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the figure")
    parser.add_argument("--by", default=ACTIVATION, metavar="KEY",
                        help=f"config key that groups runs; default: {ACTIVATION}")  # fmt: skip
    parser.add_argument(
        "--target", type=float, default=TARGET, help=f"training error; default: {TARGET}"
    )
    options = parser.parse_args(arguments)
    if not 0 < options.target < 1:
        raise ConfigError(f"--target is an error between 0 and 1, such as {TARGET}")
    curves = [read(Path(folder), options.by) for folder in options.workdir]
    path = figures.make_folder(Path(options.out)) / "convergence.png"
    print("\n".join(markdown(curves, options.by, options.target)), "\n")
    print(plot(curves, path, options.by, options.target))


def read(folder: Path, by: str = ACTIVATION) -> Curve:
    """Read the curve of a run folder. Raises ConfigError for an unknown key; StorageError and WorkdirError."""
    config = trained.load_config(folder)
    try:
        kind = operator.attrgetter(by)(config)
    except AttributeError:
        kind = config
    if dataclasses.is_dataclass(kind):
        raise ConfigError(
            f"--by {by}: the config of {folder} has no such value; model.activation is one"
        )
    lines = [
        line
        for line in reading.read_metrics(folder)
        if {"epoch", "train_top1_error"} <= line.keys()
    ]
    if not lines:
        raise WorkdirError(f"{folder}/metrics.jsonl has no training error yet: train it further")
    return Curve(
        str(folder), str(kind), config.schedule.weights.learning_rate,
        [line["epoch"] for line in lines], [line["train_top1_error"] for line in lines],
    )  # fmt: skip


def fastest(curves: list[Curve], target: float = TARGET) -> dict[str, Curve]:
    """The curve of each kind that reaches `target` first, or else comes closest; fastest kind first."""

    def order(curve: Curve) -> tuple[bool, float]:
        reached = curve.epochs_to(target)
        return reached is None, reached or min(curve.errors)

    best: dict[str, Curve] = {}
    for curve in sorted(curves, key=order):
        best.setdefault(curve.kind, curve)
    return best


def ratios(curves: list[Curve], target: float = TARGET) -> list[str]:
    """Sentences that compare the epochs of each kind with those of the fastest."""
    (first, fast), *others = fastest(curves, target).items()
    shortest = fast.epochs_to(target)
    if shortest is None:
        return [f"none reaches {target:.0%}"]
    sentences = []
    for kind, curve in others:
        reached = curve.epochs_to(target)
        times = f"{(reached or curve.epochs[-1]) / shortest:.1f} times"
        more, end = ("", "") if reached else ("more than ", f", and has not reached {target:.0%}")
        sentences.append(f"{kind} takes {more}{times} the epochs of {first}{end}")
    return sentences


def markdown(curves: list[Curve], by: str = ACTIVATION, target: float = TARGET) -> list[str]:
    """A Markdown table of all curves, then their ratios, and the ratio of the paper if it has one."""
    rows = []
    for curve in sorted(curves, key=lambda curve: (curve.kind, curve.rate)):
        shown = curve.reached_in_words(target)
        rows.append((curve.kind, f"{curve.rate:g}", shown, f"{min(curve.errors):.1%}"))
    reached_text = f"epochs to {target:.0%} training error"
    header = (by.rpartition(".")[2], "rate", reached_text, "lowest training error")
    lines = [
        *md.table(header, rows, right=(1, 2, 3)),
        "",
        *(f"{sentence}." for sentence in ratios(curves, target)),
    ]
    if by == ACTIVATION and {"relu", "tanh"} <= {curve.kind for curve in curves}:
        lines.append(
            "The paper (§3.1): tanh takes six times the epochs of ReLUs to reach 25 %, on CIFAR-10, with a four-layer "
            "net and learning rates that it does not specify."
        )
    return lines


def plot(curves: list[Curve], path: Path, by: str = ACTIVATION, target: float = TARGET) -> Path:
    """Draw the curves to a PNG, all but the fastest of each kind pale, and write their numbers as JSON beside it.

    {"by", "target", "ratios", "curves": [{"run", "kind", "rate", "epochs", "errors", "epochs_to_target"}]}
    """
    numbers: dict[str, Any] = {
        "by": by,
        "target": target,
        "ratios": ratios(curves, target),
        "curves": [c._asdict() | {"epochs_to_target": c.epochs_to(target)} for c in curves],
    }
    return figures.save(_draw(curves, target, numbers["ratios"]), numbers, path)


def _draw(curves: list[Curve], target: float, title: list[str]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    best = fastest(curves, target)
    styles = ("-", "--", "-.", ":")  # Figure 1: ReLUs, which are faster, solid; tanh dashed
    places = {kind: place for place, kind in enumerate(best)}
    markers = itertools.cycle("os^vDP*X")  # to tell the rates of a kind apart
    for curve in sorted(curves, key=lambda curve: (places[curve.kind], curve.rate)):
        place, alpha = places[curve.kind], 1 if curve is best[curve.kind] else 0.35
        kind, words = figures.literal(curve.kind), curve.reached_in_words(target)
        axes.plot(
            curve.epochs, [100 * error for error in curve.errors], color=f"C{place % 10}",
            ls=styles[place % len(styles)], alpha=alpha,
            label=f"{kind}, rate {curve.rate:g}: {words}",
            marker=(marker := next(markers)), ms=4, markevery=max(1, len(curve.epochs) // 10),
        )  # fmt: skip
        if (reached := curve.epochs_to(target)) is not None:
            axes.plot(reached, 100 * target, marker, color=f"C{place % 10}", ms=8)
    axes.axhline(100 * target, color="gray", lw=1)
    axes.set_xlabel("epochs")
    axes.set_ylabel("training error (%)")
    axes.set_title("\n".join(map(figures.literal, title)), fontsize=9)
    axes.set_ylim(bottom=0)
    axes.legend(
        frameon=False, fontsize=9, title=f"epochs to {target:.0%} training error", alignment="left"
    )
    figures.plain(axes)
    return figure


if __name__ == "__main__":
    cli.run(main)
