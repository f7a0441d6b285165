"""Measure the errors of nets on corrupted images: by corruption and severity, and the mean corruption error (mCE).

alexnet robustness --workdir A [B C] --out DIR [--baseline D E F] [--data-path PATH] [--corrupted PATH]

A, B and C are run folders or .safetensors files that differ in their seed; so are D, E and F, whose errors divide those
of the first in mCE (Hendrycks and Dietterich, 2019). The 15 corruptions are made from the held-out images, or read from
--corrupted: a folder in the layout of ImageNet-C or CIFAR-10-C. Writes robustness.md, .json and .png to DIR.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_jax import cli, files, specs
from alexnet_jax.analysis import figures
from alexnet_jax.cli import environment, markdown
from alexnet_jax.config import published
from alexnet_jax.data.pipeline.corruptions import CORRUPTIONS, KNOWN, SEVERITIES
from alexnet_jax.errors import ConfigError, StorageError
from alexnet_jax.evaluation import robustness, target
from alexnet_jax.evaluation.target import EvalTarget
from alexnet_jax.inference import metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Reference of CE -> what it is, in the heading of a column.
REFERENCES = {"published": "published AlexNet", "baseline": "--baseline"}
#: Columns of the figure.
COLUMNS = 5


def main(arguments: list[str]) -> None:
    """Run `alexnet robustness`."""
    options = _parser().parse_args(arguments)
    nets, baseline = options.workdir, options.baseline or []
    for group in (nets, baseline):
        if len({Path(net).resolve() for net in group}) < len(group):
            raise ConfigError("a net is named twice: each counts as a seed of its own")
    if options.no_clean and not options.corrupted:
        raise ConfigError("--no-clean is for --corrupted, whose clean images may not be at hand")
    chosen = {"source": options.source, "step": options.step}
    targets = target.open_all([*nets, *baseline], options.data_path, **chosen)
    images = _images(targets, options)
    folder = figures.make_folder(Path(options.out))
    wrong = robustness.measure(targets, images, options.views, environment.say_error)
    report = _protocol(targets, images, options) | _errors(wrong, images, len(nets), targets[0])
    text = table(report)
    path = figures.save(draw(report), report, folder / "robustness.png")
    try:
        files.write_atomically(path.with_suffix(".md"), text + "\n")
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror}") from None
    print(json.dumps(report, indent=1) if options.json else f"{text}\n\n{path}")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__ or "")
    # fmt: off
    parser.add_argument("--workdir", nargs="+", required=True, metavar="W", help="nets that differ in their seed")
    parser.add_argument("--baseline", nargs="+", metavar="W", help="nets that divide their errors")
    cli.add_step(parser)
    parser.add_argument("--source", choices=target.SOURCES, help="what the images come from; default: as in training")
    parser.add_argument("--data-path", metavar="PATH", help="where the images are now; default: as in training")
    target.add_protocol(parser)
    parser.add_argument("--corrupted", metavar="PATH", help="images as of ImageNet-C or CIFAR-10-C; default: made here")
    parser.add_argument("--no-clean", action="store_true", help="with --corrupted: no clean images, so no relative mCE")
    parser.add_argument("--corruptions", nargs="+", metavar="NAME", choices=KNOWN, help="which")
    parser.add_argument("--images", type=int, metavar="N", help="so many images, chosen at random; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the corruptions and of --images; default: 0")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--json", action="store_true", help="print JSON")
    # fmt: on
    return parser


def _images(targets: list[EvalTarget], options: argparse.Namespace) -> robustness.Images:
    """Open the images for all nets, which must see the same. Raises ConfigError and DataError."""
    first = targets[0]
    for one in targets[1:]:
        ours, theirs = (robustness.sizes(net.trained.config) for net in (first, one))
        if ours != theirs:
            raise ConfigError(
                f"{first.path} and {one.path} have images of other sizes, stored and cut: {ours} and {theirs}"
            )
    split = None if options.no_clean else first.split_name(options.split, options.views)
    seeds = {one.trained.config.seed for one in targets}
    if split not in (None, "test") and first.trained.config.data.validation and len(seeds) > 1:
        raise ConfigError(
            f"nets of other seeds hold out other images: {split} has images that some were trained on; use --split test"
        )
    names, seed, count = options.corruptions, options.seed, options.images
    if seed < 0:
        raise ConfigError("--seed must be at least 0")
    if options.corrupted:
        path = Path(options.corrupted)
        return robustness.stored(first, path, split, names, seed, count, options.views)
    assert split is not None  # main refuses --no-clean without --corrupted
    return robustness.generated(first, split, names or list(CORRUPTIONS), seed, count)


def _protocol(
    targets: list[EvalTarget], images: robustness.Images, options: argparse.Namespace
) -> dict[str, Any]:
    """What was evaluated, as JSON."""
    nets = [
        {"net": str(one.path), "step": one.trained.step, "config": one.trained.config.name,
         "seed": one.trained.config.seed}
        for one in targets
    ]  # fmt: skip
    of = len(targets[0].trained.class_names)
    key = next(key for key in images.conditions if key != robustness.CLEAN)
    return {
        "nets": nets[: len(options.workdir)],
        "baseline": nets[len(options.workdir) :],
        "images": images.title,
        "made_here": not options.corrupted,
        "paired": images.is_paired,
        "views": options.views,
        "seed": options.seed,
        "count": len(images.labels[key]),
        "classes": {"predicted": of if images.classes is None else len(images.classes), "of": of},
        "confidence": metrics.CONFIDENCE,
        "resamples": robustness.RESAMPLES,
    }


def _errors(
    wrong: dict[tuple[str, int], Any], images: robustness.Images, nets: int, first: EvalTarget
) -> dict[str, Any]:
    """The errors of the nets, relative to the baseline and to what was published."""
    references = {}
    if len(first.trained.class_names) == published.CLASSES and images.classes is None:
        references["published"] = robustness.published_reference()
    if any(len(one) > nets for one in wrong.values()):
        baseline = {key: one[nets:] for key, one in wrong.items()}
        references["baseline"] = robustness.resampled(baseline, images.is_paired, group=1)
    ours = {key: one[:nets] for key, one in wrong.items()}
    return robustness.summarize(robustness.resampled(ours, images.is_paired, group=0), references)


def table(report: dict[str, Any]) -> str:
    """Format a report as a Markdown table, with a line on the images and one on each reference."""
    references = list(report["mce"])
    header = ["top-1 error, %", "mean", *map(str, SEVERITIES)]
    for title in references:
        header += [f"CE, % of {REFERENCES[title]}", f"relative CE, % of {REFERENCES[title]}"]
    blank = [""] * len(SEVERITIES)
    rows = [["no corruption", _interval(report["clean"]), *blank, *[""] * (2 * len(references))]]
    for name, found in report["corruptions"].items():
        row = [
            name + (" (extra)" if found["category"] == "extra" else ""),
            _interval(found["error"]),
        ]
        row += [_percent(one) for one in found["errors"]]
        for title in references:
            row += [_percent(found[kind].get(title)) for kind in ("ce", "relative_ce")]
        rows.append(row)
    count = len(CORRUPTIONS) - len(report["missing"])
    mean = [f"mean of {count} corruptions", _interval(report["mean_error"]), *blank]
    for title in references:
        mean += [_interval(report["mce"][title]), _interval(report["relative_mce"][title])]
    rows.append(mean)
    lines = markdown.table(header, rows, range(1, len(header)))
    return "\n".join([*lines, "", *_notes(report)])


def _notes(report: dict[str, Any]) -> list[str]:
    """Say what was evaluated and what the references are, a paragraph each."""
    nets, classes = report["nets"], report["classes"]
    named = ", ".join(f"{one['net']} (step {one['step']:,})" for one in nets)
    over = "images and nets" if len(nets) > 1 else "images"
    some = f", among {classes['predicted']:,} of {classes['of']:,} classes"
    among = some if classes["predicted"] < classes["of"] else ""
    notes = [
        f"{_count(nets)}: {named}. {report['count']:,} images of {report['images']}; "
        f"{specs.views_in_words(report['views'])}{among}. Intervals: {report['confidence']:.0%}, bootstrap over {over}."
    ]
    if report["made_here"]:
        notes.append(
            "The corruptions were made here, frost from a procedural texture: errors are not those on the files of "
            "ImageNet-C or CIFAR-10-C."
        )
    if "published" in report["mce"]:
        notes.append(
            "published AlexNet: its errors on ImageNet-C in Hendrycks and Dietterich (2019); the last row has mCE and "
            f"relative mCE as defined there{'; not on these images' * report['made_here']}."
        )
    if "baseline" in report["mce"]:
        named = ", ".join(one["net"] for one in report["baseline"])
        notes.append(f"--baseline: the errors on the same images of {named}.")
    if report["missing"]:
        notes.append(f"mCE is not defined without {', '.join(report['missing'])}.")
    if report["clean"] and not report["paired"]:
        notes.append(
            "Which clean image a corrupted one was made of is not known: they are drawn independently in the intervals."
        )
    return [line for note in notes for line in (note, "")][:-1]


def _count(nets: list[Any]) -> str:
    return "1 net" if len(nets) == 1 else f"{len(nets)} nets"


def _percent(value: dict[str, Any] | None) -> str:
    return "" if value is None else f"{100 * value['value']:.1f}"


def _interval(value: dict[str, Any] | None) -> str:
    if value is None or value["low"] is None:
        return _percent(value)
    return f"{_percent(value)} ({100 * value['low']:.1f} to {100 * value['high']:.1f})"


def draw(report: dict[str, Any]) -> "Figure":
    """Draw the error by severity of each corruption, with intervals; severity 0 is no corruption."""
    from matplotlib.figure import Figure

    names = list(report["corruptions"])
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(2.2 * COLUMNS, 1.9 * rows + 0.7), layout="constrained")
    cells = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(cells.flat, names, strict=False):
        _draw_corruption(axes, report, name)
    for axes in cells.flat[len(names) :]:
        axes.set_axis_off()
    for axes in cells[:, 0]:
        axes.set_ylabel("top-1 error (%)", fontsize=9)
    figure.supxlabel("severity (0: no corruption)", fontsize=9)
    mean = report["mean_error"]
    title = f"{_count(report['nets'])}, {report['count']:,} images"
    figure.suptitle(f"{title}: mean error {_interval(mean)} %" if mean else title, fontsize=10)
    return figure


def _draw_corruption(axes: "Axes", report: dict[str, Any], name: str) -> None:
    values = report["corruptions"][name]["errors"]
    severities = list(SEVERITIES)
    if report["clean"]:
        values, severities = [report["clean"], *values], [0, *severities]
    middle = [100 * one["value"] for one in values]
    if all(one["low"] is not None for one in values):
        low, high = ([100 * one[key] for one in values] for key in ("low", "high"))
        axes.fill_between(severities, low, high, alpha=0.25, linewidth=0)
    axes.plot(severities, middle, marker=".", markersize=5)
    axes.set_title(name.replace("_", " "), fontsize=9)
    axes.set_xticks(severities)
    axes.set_ylim(0, 100)
    figures.plain(axes)


if __name__ == "__main__":
    cli.run(main)
