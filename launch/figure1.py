"""Figure 1 (§3.1): training error against epochs, each activation at the rate that brings it to 25 % first."""

import json
from pathlib import Path
from typing import NamedTuple

from alexnet_jax import workdir
from alexnet_jax.files import write_atomically
from launch import runs
from launch.runs import Run

TARGET = 0.25
"""Training error."""


class Curve(NamedTuple):
    member: str
    activation: str
    rate: float
    epochs: list[float]
    errors: list[float]

    @property
    def epochs_to_target(self) -> float | None:
        """Epochs until the mean training error between two lines of the log is at most TARGET."""
        pairs = zip(self.epochs, self.errors, strict=True)
        return next((epoch for epoch, error in pairs if error <= TARGET), None)


def collect(every: list[Run], title: str) -> list[Path]:
    """Write DIR/NAME-SCALE.md, .json and .png for the finished runs of the sweep; their paths."""
    curves = [read(run) for run in every if runs.state(run).name == "finished"]
    stem = every[0].out / title.replace(" ", "-")
    write_atomically(stem.with_suffix(".md"), markdown(curves, title))
    write_atomically(stem.with_suffix(".json"), json.dumps([c._asdict() for c in curves]) + "\n")
    draw(curves, title, stem.with_suffix(".png"))
    return [stem.with_suffix(suffix) for suffix in (".md", ".json", ".png")]


def read(run: Run) -> Curve:
    """The training curve of a finished run."""
    lines = [line for line in workdir.read_metrics(run.folder) if "train_top1_error" in line]
    config = workdir.load_config(run.folder)
    return Curve(run.member, config.model.activation, config.schedule.weights.learning_rate,
                 [line["epoch"] for line in lines], [line["train_top1_error"] for line in lines])  # fmt: skip


def fastest(curves: list[Curve]) -> dict[str, Curve]:
    """Of each activation the curve that reaches the target first; if none does, the one that comes lowest."""

    def order(curve: Curve):
        reached = curve.epochs_to_target
        return (reached is None, reached or min(curve.errors, default=1.0))

    best: dict[str, Curve] = {}
    for curve in sorted(curves, key=order):
        best.setdefault(curve.activation, curve)
    return best


def ratio(curves: list[Curve]) -> str:
    """How many times more epochs tanh takes than ReLU, in words."""
    best = fastest(curves)
    if not {"relu", "tanh"} <= set(best):
        return "not all of relu and tanh are finished"
    relu, tanh = best["relu"].epochs_to_target, best["tanh"].epochs_to_target
    if relu is None:
        return f"relu did not reach {TARGET:.0%}"
    if tanh is None:
        return (
            f"more than {best['tanh'].epochs[-1] / relu:.1f} times: tanh did not reach {TARGET:.0%}"
        )
    return f"{tanh / relu:.1f} times"


def markdown(curves: list[Curve], title: str) -> str:
    """The epochs of every curve, and the ratio beside the paper's."""
    lines = [
        "| activation | rate | epochs to 25 % training error | lowest training error |",
        "|---|---|---|---|",
    ]
    for curve in curves:
        reached = curve.epochs_to_target
        shown = (
            f"{reached:.2f}"
            if reached
            else f"not in {curve.epochs[-1]:.0f}"
            if curve.epochs
            else ""
        )
        lines.append(
            f"| {curve.activation} | {curve.rate:g} | {shown} | {min(curve.errors, default=1):.1%} |"
        )
    table = "\n".join(lines)
    return (
        f"# {title}\n\n{table}\n\ntanh takes, at the fastest rate of each: {ratio(curves)}. The paper (§3.1): six "
        "times, for a four-layer net that it does not specify, at rates that it does not print.\n"
    )


def draw(curves: list[Curve], title: str, path: Path) -> None:
    """The fastest of each activation in full, the others pale; ReLU solid and tanh dashed, as in the paper."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    best = fastest(curves)
    for curve in curves:
        relu, first = curve.activation == "relu", curve is best[curve.activation]
        axes.plot(
            curve.epochs, [100 * error for error in curve.errors], color="C0" if relu else "C1",
            ls="-" if relu else "--", alpha=1 if first else 0.25,
            label=f"{curve.activation}, rate {curve.rate:g}" if first else None,
        )  # fmt: skip
    axes.axhline(100 * TARGET, color="gray", lw=1)
    axes.set_xlabel("epochs")
    axes.set_ylabel("training error (%)")
    axes.set_title(f"{title}: tanh takes {ratio(curves)}")
    axes.set_ylim(bottom=0)
    if best:
        axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
