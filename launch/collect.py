"""Compare the results of a sweep with each other and with published numbers: DIR/NAME-SCALE.md, .csv and .png."""

import csv
import io
import statistics
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax import specs
from alexnet_jax.analysis import convergence, figures
from alexnet_jax.cli import markdown as md
from alexnet_jax.config import published
from alexnet_jax.config.published import Claim
from alexnet_jax.errors import DataError
from alexnet_jax.evaluation import compare
from alexnet_jax.files import write_atomically
from alexnet_jax.inference import predictions
from alexnet_jax.run import reading

from . import runs
from .runs import Run

NOTES = """\
Error: top-1 / top-5 in percent of {protocol}, mean over seeds, with the
standard deviation where there are two seeds or more.
Difference: top-1 error minus that of the first row, in points. Its 95 % interval is a bootstrap over test images (the
same for both nets) and over seeds: how much the difference could vary with other images and other seeds. With one
seed it does not include the variation between seeds; with two or three it is somewhat too narrow. p: McNemar's exact
test on the images, for pairs of nets with the same seed (for several seeds twice the mean of their p, valid under any
dependence), then adjusted by Holm's method for the {count} comparisons of this table. A small p means that these
particular nets differ, as nets that differ only in their seed often do; the interval shows whether the change is the
cause.
"""


class Row(NamedTuple):
    """A member with all its finished seeds."""

    member: str
    #: Number of seeds in the sweep.
    seeds: int
    #: Top-1 error of each finished seed, as a fraction.
    top1: tuple[float, ...]
    #: Top-5 error of each finished seed; empty with fewer than six classes.
    top5: tuple[float, ...]
    #: Difference from the base; None for the base.
    difference: compare.Difference | None
    #: p-value, adjusted for multiple comparisons.
    p: float | None
    #: The published effect of this change.
    claim: Claim | None
    #: Distinct evaluation protocols; more than one if the runs differ.
    protocols: tuple[str, ...]


class Finished(NamedTuple):
    """The results of a finished run."""

    seed: int
    #: The images and views on which the errors were measured.
    protocol: str
    top1: float
    top5: float | None
    #: bool [n]: which images are misclassified.
    wrong: np.ndarray


def collect(all_runs: list[Run], title: str) -> list[Path]:
    """Write the three files for the runs of a sweep, its base first, and return their paths.

    Raises DataError, StorageError.
    """
    found = rows(all_runs)
    stem = all_runs[0].out / title.replace(" ", "-")
    text = markdown(found, title)
    write_atomically(stem.with_suffix(".md"), text)
    write_atomically(stem.with_suffix(".csv"), as_csv(found))
    draw(found, title, stem.with_suffix(".png"))
    return [stem.with_suffix(suffix) for suffix in (".md", ".csv", ".png")]


def figure1(all_runs: list[Run], title: str) -> list[Path]:
    """Write the files of the sweep figure1, whose results are curves: .md, .json and .png. Raises DataError."""
    curves = [
        convergence.read(run.folder)._replace(run=run.member)
        for run in all_runs
        if runs.state(run).name == "finished"
    ]
    if not curves:
        raise DataError(f"no run of {title} is finished yet")
    stem = all_runs[0].out / title.replace(" ", "-")
    text = "\n".join([f"# {title}", "", *convergence.markdown(curves)])
    write_atomically(stem.with_suffix(".md"), text + "\n")
    convergence.plot(curves, stem.with_suffix(".png"))
    return [stem.with_suffix(suffix) for suffix in (".md", ".json", ".png")]


def rows(all_runs: list[Run]) -> list[Row]:
    """Compare the members with the first one, the base, and return a row for each."""
    members: dict[str, list[Run]] = {}
    for run in all_runs:
        members.setdefault(run.member, []).append(run)
    finished = {name: list(filter(None, map(read, of_one))) for name, of_one in members.items()}
    base = finished[all_runs[0].member]
    differences: dict[str, compare.Difference] = {}
    ps: dict[str, float] = {}
    for name, nets in finished.items():
        if nets and base and name != all_runs[0].member:
            wrong = (np.array([n.wrong for n in group]) for group in (base, nets))
            differences[name] = compare.bootstrap(*wrong)
            paired = [(a.wrong, b.wrong) for a in base for b in nets if a.seed == b.seed]
            if paired:
                ps[name] = compare.mcnemar_of_seeds(*map(np.array, zip(*paired, strict=True)))
    adjusted = dict(zip(ps, compare.holm(list(ps.values())), strict=True))
    return [
        Row(
            name, len(members[name]), tuple(n.top1 for n in nets),
            tuple(n.top5 for n in nets if n.top5 is not None),
            differences.get(name), adjusted.get(name), published.CLAIMS.get(name),
            tuple(dict.fromkeys(n.protocol for n in nets)),
        )
        for name, nets in finished.items()
    ]  # fmt: skip


def read(run: Run) -> Finished | None:
    """Read the final errors of a run on its last held-out split with its last views; None if it is not finished."""
    if runs.state(run).name != "finished":
        return None
    results = reading.read_results(run.folder)
    last = runs.last_errors(results)
    if not results or last is None:
        raise DataError(f"{run.folder / 'results.json'} has no errors of held-out images")
    split, view, errors = last
    saved = predictions.load(run.folder, split, view, results["step"])
    protocol = (
        f"{errors['count']:,} images of {split} ({specs.views_in_words(view)}, last checkpoint)"
    )
    return Finished(
        run.seed, protocol, errors["top1_error"], errors.get("top5_error"), saved.wrong()
    )


def protocol(found: list[Row]) -> str:
    """Describe the images and views on which the errors of the table were measured."""
    return (
        " or ".join(dict.fromkeys(one for row in found for one in row.protocols)) or "nothing yet"
    )


def markdown(found: list[Row], title: str) -> str:
    """Format the table and its explanation."""
    header = (
        "member", "seeds", "error", "difference", "95 % interval", "p", "paper", "2012 log", "caution",
    )  # fmt: skip
    cells = []
    for row in found:
        d, claim = row.difference, row.claim or Claim("", "")
        cells.append([
            row.member, f"{len(row.top1)} of {row.seeds}", _errors(row),
            f"{100 * d.mean:+.2f}" if d else "", f"{100 * d.low:+.2f} to {100 * d.high:+.2f}" if d else "",
            "" if row.p is None else f"{row.p:.2g}", claim.paper, claim.log, claim.caution,
        ])  # fmt: skip
    table = "\n".join(md.table(header, cells))
    count = sum(row.p is not None for row in found)
    return f"# {title}\n\n{table}\n\n{NOTES.format(count=count, protocol=protocol(found))}"


def _errors(row: Row) -> str:
    """Format the errors of a member, such as '32.10 ± 0.21 / 2.80'."""
    if not row.top1:
        return ""
    text = f"{100 * statistics.mean(row.top1):.2f}"
    if len(row.top1) > 1:
        text += f" ± {100 * statistics.stdev(row.top1):.2f}"
    return text + (f" / {100 * statistics.mean(row.top5):.2f}" if row.top5 else "")


def as_csv(found: list[Row]) -> str:
    """Format the table as CSV, with a line per member; errors and differences are fractions."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("member", "seeds", "top1_error", "top1_sd", "top5_error", "difference", "low", "high",
                     "p_holm", "paper", "log", "caution", "protocol"))  # fmt: skip
    for row in found:
        top1, top5, d, claim = row.top1, row.top5, row.difference, row.claim or Claim("", "")
        writer.writerow((
            row.member, len(top1), statistics.mean(top1) if top1 else "",
            statistics.stdev(top1) if len(top1) > 1 else "", statistics.mean(top5) if top5 else "",
            *((d.mean, d.low, d.high) if d else ("", "", "")), "" if row.p is None else row.p, *claim,
            " or ".join(row.protocols),
        ))  # fmt: skip
    return file.getvalue()


def draw(found: list[Row], title: str, path: Path) -> None:
    """Plot the differences from the base with their intervals."""
    from matplotlib.figure import Figure

    shown = [(row.member, row.difference) for row in found if row.difference]
    figure = Figure(figsize=(7, 1.2 + 0.3 * max(1, len(shown))), layout="constrained")
    axes = figure.subplots()
    for y, (_, d) in enumerate(shown):
        axes.plot([100 * d.low, 100 * d.high], [y, y], color="C0", lw=2)
        axes.plot(100 * d.mean, y, "o", color="C0")
    axes.axvline(0, color="gray", lw=1)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.invert_yaxis()
    axes.set_xlabel(f"top-1 error minus that of {found[0].member} (points, 95 % interval)")
    axes.set_title(f"{title}: {protocol(found)}", fontsize=9)
    figures.plain(axes)
    axes.grid(visible=False, axis="y")
    figure.savefig(path, dpi=figures.DPI)
