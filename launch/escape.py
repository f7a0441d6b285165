"""Which runs of the sweep init leave the plateau of the loss at ln(classes): DIR/NAME-SCALE-escape.md, .csv and .png.

A run has left at the first line of metrics.jsonl with a loss that train/diagnosis.py:has_left. A run that ended its
budget on the plateau is censored: it might have left later. A run that diverged on the plateau has not left.
"""

import csv
import io
import math
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.analysis import figures
from alexnet_jax.cli import markdown as md
from alexnet_jax.errors import DataError, DivergedError
from alexnet_jax.evaluation import compare
from alexnet_jax.inference import trained
from alexnet_jax.run import reading
from alexnet_jax.run.schemas import Signal
from alexnet_jax.train import diagnosis

from . import runs
from .runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What the members of configs/sweeps.py:init are called.
MEMBER = re.compile(r"std_(?P<weights>\w+?)_bias_(?P<bias>[\d.]+)(_batch_\d+)?")
WEIGHTS = {"003": "0.03", "001": "0.01", "he": "He"}
MARKERS = {"left": "o", "stayed": ">", "diverged": "x"}
#: Exit code of a run that diverged.
DIVERGED = DivergedError.exit_code

NOTES = """\
Left: seeds whose training loss fell below ln(classes) by more than {share:.0%}, of those that ended, with the exact
95 % interval of the share (Clopper and Pearson). Step, epoch: where the median seed left, to within a line of the
log; seeds that did not leave count as later than all others. "after N": the median seed had not left at N, where its
budget ended. Images at the output: RMS of the logits' deviation from their mean over images, before the first step
(signal.json), median over seeds.
{censored} of {count} runs ended their budget on the plateau, and might have left later; {diverged} diverged.
{unfinished} more are unfinished or failed for another reason, and are not counted.
"""


class Escape(NamedTuple):
    """How the training loss of a run relates to the plateau."""

    outcome: Literal["left", "stayed", "diverged", "unfinished"]
    #: Where it left, or else its last logged step and epoch.
    step: int = 0
    epoch: float = 0.0
    #: RMS over images of the deviation of the logits from their mean, before the first step.
    signal: float | None = None


class Cell(NamedTuple):
    """The runs of a member."""

    weights: str
    bias: float
    batch_size: int
    escapes: list[Escape]

    @property
    def counted(self) -> list[Escape]:
        """Those of runs that ended."""
        return [escape for escape in self.escapes if escape.outcome != "unfinished"]

    def count(self, outcome: str) -> int:
        """The number of runs with this outcome."""
        return sum(escape.outcome == outcome for escape in self.escapes)

    @property
    def signal(self) -> float | None:
        """The median of the signals that are known."""
        known = [escape.signal for escape in self.escapes if escape.signal is not None]
        return statistics.median(known) if known else None

    def median(self, where: Literal["step", "epoch"]) -> float:
        """The median of the steps or epochs at which runs left; infinite if half of the runs did not."""
        return statistics.median_high(
            getattr(escape, where) if escape.outcome == "left" else math.inf
            for escape in self.counted
        )

    def budget(self, where: Literal["step", "epoch"]) -> float:
        """The least step or epoch at which a run that had not left ended."""
        return min(getattr(escape, where) for escape in self.counted if escape.outcome != "left")

    def median_in_words(self, where: Literal["step", "epoch"]) -> str:
        """Format the median, or "after N"."""
        shown = "{:,.0f}" if where == "step" else "{:.2f}"
        if not self.counted:
            return ""
        if math.isfinite(median := self.median(where)):
            return shown.format(median)
        return f"after {shown.format(self.budget(where))}"


def collect(all_runs: list[Run], title: str) -> list[Path]:
    """Write the three files for the runs of the sweep init, and return their paths. Raises DataError, StorageError."""
    cells = read(all_runs)
    if not any(cell.counted for cell in cells):
        raise DataError(f"no run of {title} has ended yet")
    stem = all_runs[0].out / f"{title.replace(' ', '-')}-escape"
    files.write_atomically(stem.with_suffix(".md"), markdown(cells, title))
    files.write_atomically(stem.with_suffix(".csv"), as_csv(cells))
    draw(cells, title, stem.with_suffix(".png"))
    return [stem.with_suffix(suffix) for suffix in (".md", ".csv", ".png")]


def read(all_runs: list[Run]) -> list[Cell]:
    """Read the runs of each member, sorted by weights, then by bias and batch size."""
    members: dict[str, list[Run]] = {}
    for run in all_runs:
        members.setdefault(run.member, []).append(run)
    cells = []
    for name, of_one in members.items():
        match = MEMBER.fullmatch(name)
        if match is None:
            raise DataError(f"{name} is not a member of the sweep init")
        escapes = [escape(run) for run in of_one]
        weights, bias = WEIGHTS[match["weights"]], float(match["bias"])
        cells.append(Cell(weights, bias, _batch_size(of_one[0]), escapes))
    order = list(WEIGHTS.values())
    return sorted(cells, key=lambda cell: (order.index(cell.weights), -cell.bias, cell.batch_size))


def escape(run: Run) -> Escape:
    """Read whether and where a run left the plateau. Raises StorageError, and WorkdirError for damaged metrics."""
    state, signal = runs.state(run), _signal(run.folder)
    outcome = "stayed" if state.name == "finished" else "unfinished"
    if state.code == DIVERGED:
        outcome = "diverged"
    lines = [
        line for line in reading.read_metrics(run.folder, missing_ok=True) if "train_loss" in line
    ]
    # Whether an unfinished run has left is not asked: more of them would be counted than of those that will not leave.
    if outcome != "unfinished" and (classes := trained.load_config(run.folder).model.num_classes):
        for line in lines:
            if diagnosis.has_left(line["train_loss"], classes):
                return Escape("left", line["step"], line["epoch"], signal)
    step, epoch = (lines[-1]["step"], lines[-1]["epoch"]) if lines else (0, 0.0)
    return Escape(outcome, step, epoch, signal)


def _signal(folder: Path) -> float | None:
    """Read the signal of the last layer from signal.json; None where it is missing."""
    content = files.read_json(folder / "signal.json", Signal)
    return content["rows"][-1]["example_rms"] if content else None


def _batch_size(run: Run) -> int:
    loaded = runs.load_config(run.config, run.overrides)
    return configs.parse(loaded, needs_images=False).train.batch_size


def markdown(cells: list[Cell], title: str) -> str:
    """Format the table and its explanation."""
    header = (
        "weights", "bias", "batch", "seeds", "left", "95 % interval", "step", "epoch", "images at the output",
    )  # fmt: skip
    rows = []
    for cell in cells:
        count = len(cell.counted)
        low, high = compare.proportion_interval(cell.count("left"), count) if count else (0, 0)
        rows.append([
            cell.weights, f"{cell.bias:g}", f"{cell.batch_size:,}", f"{count} of {len(cell.escapes)}",
            cell.count("left") if count else "", f"{low:.0%} to {high:.0%}" if count else "",
            cell.median_in_words("step"), cell.median_in_words("epoch"),
            "" if cell.signal is None else f"{cell.signal:.2g}",
        ])  # fmt: skip
    table = "\n".join(md.table(header, rows, right=range(1, len(header))))
    total = {
        outcome: sum(cell.count(outcome) for cell in cells)
        for outcome in ("stayed", "diverged", "unfinished")
    }
    notes = NOTES.format(
        share=diagnosis.LEFT, censored=total["stayed"], diverged=total["diverged"],
        unfinished=total["unfinished"], count=sum(len(cell.counted) for cell in cells),
    )  # fmt: skip
    return f"# {title}: leaving the plateau\n\n{table}\n\n{notes}"


def as_csv(cells: list[Cell]) -> str:
    """Format the runs as CSV, a line for each; step and epoch are where it left, or its last logged ones."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("weights", "bias", "batch_size", "seed", *Escape._fields))
    for cell in cells:
        for seed, one in enumerate(cell.escapes):
            writer.writerow((cell.weights, cell.bias, cell.batch_size, seed, *one))
    return file.getvalue()


def draw(cells: list[Cell], title: str, path: Path) -> None:
    """Plot where each run left the plateau: a row for weights and bias, a color for the batch size, a dot for a run."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys((cell.weights, cell.bias) for cell in cells))
    sizes = sorted({cell.batch_size for cell in cells})
    figure = Figure(figsize=(8, 1.5 + 0.4 * len(names)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, where in zip(panels, ("step", "epoch"), strict=True):
        for cell in cells:
            place = sizes.index(cell.batch_size)
            y = names.index((cell.weights, cell.bias)) + 0.25 * (place - (len(sizes) - 1) / 2)
            for i, one in enumerate(cell.escapes):
                if marker := MARKERS.get(one.outcome):
                    fill = f"C{place}" if one.outcome == "left" else "none"
                    x, shift = getattr(one, where), 0.04 * i  # seeds often leave at the same line
                    axes.plot(x, y + shift, marker, ms=3.5, color=f"C{place}", mfc=fill)
        axes.set_xlim(left=0)
        axes.set_xlabel(where)
        axes.set_yticks(range(len(names)), [f"{weights}, bias {bias:g}" for weights, bias in names])
        figures.plain(axes)
    panels[0].invert_yaxis()
    figure.suptitle(f"{title}: where the loss of each run left ln(classes)", fontsize=10)
    _legend(figure, sizes)
    figure.savefig(path, dpi=figures.DPI)


def _legend(figure: "Figure", sizes: list[int]) -> None:
    from matplotlib.lines import Line2D

    style = {"ls": "none", "ms": 5}
    handles = [
        Line2D([], [], marker="o", color=f"C{i}", label=f"batch {size}", **style)
        for i, size in enumerate(sizes)
    ]
    for outcome, words in (("stayed", "still there at the end"), ("diverged", "diverged")):
        marker = MARKERS[outcome]
        handles.append(
            Line2D([], [], marker=marker, color="gray", mfc="none", label=words, **style)
        )
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )
