"""Measure the errors of a net without some maps or units of a layer, and without as many random ones.

alexnet lesion --workdir W --layer conv5 --each
alexnet lesion --workdir W --layer conv5 --tower 1 2
alexnet lesion --workdir W --layer conv5 --share 0.1 0.3 0.5 --order selectivity

Removed maps are set to 0 or to their mean activation. Writes lesion.json and lesion.png to --out.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures, lesion_figure
from alexnet_jax.data.pipeline import splits
from alexnet_jax.errors import ConfigError
from alexnet_jax.evaluation import lesion, robustness, target
from alexnet_jax.evaluation.classes import scope_in_words
from alexnet_jax.inference import metrics
from alexnet_jax.model.geometry import towers_of

if TYPE_CHECKING:
    from alexnet_jax.evaluation.lesion import Lesion
    from alexnet_jax.evaluation.target import EvalTarget
    from alexnet_jax.inference.network import Network

#: How many single maps the table shows.
SHOWN = 15


def main(arguments: list[str]) -> None:
    """Run `alexnet lesion`."""
    options = _parser().parse_args(arguments)
    subject = target.from_arguments(options)
    from alexnet_jax.inference import network

    net = network.Network(subject.trained)
    network.warn_if_untrained(subject.path, subject.trained)
    _check(options, net)
    folder = Path(options.out) if options.out else subject.folder / "figures"
    report = _report(net, subject, options)
    path = figures.save(
        lesion_figure.draw(report), report, figures.make_folder(folder) / "lesion.png"
    )
    print(json.dumps(report, indent=1) if options.json else f"{table(report)}\n\n{path}")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__ or "")
    target.add_arguments(parser)
    # fmt: off
    parser.add_argument("--split", help=target.SPLIT_HELP)
    parser.add_argument("--layer", required=True, help="a layer such as conv5, or an operation in it such as conv5/act")
    removed = parser.add_mutually_exclusive_group(required=True)
    removed.add_argument("--each", action="store_true", help="every map, one at a time")
    removed.add_argument("--tower", type=int, nargs="+", metavar="T", help="the maps of a tower, from 1")
    removed.add_argument("--map", type=int, nargs="+", metavar="N", help="these maps together, from 0")
    removed.add_argument("--share", type=float, nargs="+", metavar="S", help="shares of the maps, above 0 and up to 1")
    parser.add_argument("--order", choices=lesion.ORDERS,
                        help="with --share: at random, or the most active or class-selective first; default: random")
    parser.add_argument("--reverse", action="store_true", help="begin with the least active or selective")
    parser.add_argument("--to", choices=("zero", "mean"), default="zero",
                        help="what removed maps are set to: 0, or their mean over images and positions; default: zero")
    parser.add_argument("--images", type=int, metavar="N", help="so many images, chosen at random; default: all")
    parser.add_argument("--draws", type=int, default=20, metavar="K", help="random sets of maps to compare with")
    parser.add_argument("--seed", type=int, default=0, help="of random sets and of --images; default: 0")
    parser.add_argument("--json", action="store_true", help="print JSON")
    # fmt: on
    return parser


def _check(options: argparse.Namespace, net: "Network") -> None:
    """Raise ConfigError for options that do not fit the net or each other, all faults at once."""
    units, towers = net.shape_of(options.layer)[-1], _towers(net, options.layer)
    faults = []
    if options.order and not options.share:
        faults.append("--order is for --share")
    if options.reverse and options.order not in lesion.SCORES:
        faults.append("--reverse is for --order activity and --order selectivity")
    if options.tower and towers == 1:
        faults.append(f"{options.layer} is not divided into towers")
    elif not all(1 <= tower <= towers for tower in options.tower or ()):
        faults.append(f"--tower must be from 1 to {towers}")
    if not all(0 <= number < units for number in options.map or ()):
        faults.append(f"--map must be from 0 to {units - 1}")
    if not all(0 < share <= 1 for share in options.share or ()):
        faults.append("--share must be above 0 and at most 1")
    if options.draws < 1 or options.seed < 0:
        faults.append("--draws must be at least 1, and --seed at least 0")
    if faults:
        raise ConfigError("; ".join(faults))


def _towers(net: "Network", layer: str) -> int:
    return towers_of(net.trained.config.model, layer)


def _report(net: "Network", subject: "EvalTarget", options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything. Raises ConfigError and DataError."""
    from alexnet_jax.inference import lesions

    name, layer = subject.split_name(options.split, "center"), options.layer
    split = subject.split(name)
    if options.images is not None:
        split = splits.take(
            split, robustness.choose(len(split.labels), options.images, options.seed)
        )
    labels, names = split.labels, subject.class_names
    if subject.classes is not None:
        labels = np.searchsorted(subject.classes, labels)
    means, counts = lesions.class_means(net, split.images, labels, layer, len(names))
    activity = lesion.activity(means, counts)
    scores = {"activity": activity, "selectivity": lesion.selectivity(means)}
    chosen = _chosen(options, net, scores)
    fill = activity.astype(np.float32) * (options.to == "mean")
    ranks = lesion.measure(net, split.images, labels, layer, chosen, fill, subject.classes)
    found = [
        lesion.summarize(ranks, one, labels, names, all_classes=not options.each) for one in chosen
    ]
    report = {
        "net": str(subject.path), "step": net.trained.step, "config": net.trained.config.name,
        "images": subject.data, "split": name, "count": len(labels), "classes": subject.scope()["classes"],
        "layer": layer, "unit": "map" if len(net.shape_of(layer)) == 3 else "unit", "units": means.shape[1],
        "towers": _towers(net, layer), "to": options.to,
        "kind": next(kind for kind in ("each", "tower", "map", "share") if getattr(options, kind)),
        "order": options.order or ("random" if options.share else None), "reverse": options.reverse,
        "draws": options.draws, "seed": options.seed,
        "confidence": metrics.CONFIDENCE, "resamples": robustness.RESAMPLES,
        "intact": lesion.intact(ranks, len(names)), "lesions": found,
    }  # fmt: skip
    if options.each:
        report["correlations"] = lesion.add_scores(found, scores)
    return report


def _chosen(
    options: argparse.Namespace, net: "Network", scores: dict[str, np.ndarray | None]
) -> "list[Lesion]":
    units, random = net.shape_of(options.layer)[-1], (options.draws, options.seed)
    if options.each:
        return lesion.of_each(units)
    if options.tower:
        return lesion.of_towers(units, _towers(net, options.layer), options.tower, *random)
    if options.map:
        return lesion.of_maps(units, options.map, *random)
    if options.order not in lesion.SCORES:
        return lesion.of_shares(units, options.share, None, *random)
    score = scores[options.order]
    if score is None:
        raise ConfigError(
            f"the selectivity of {options.layer} is not defined: it has negative activations, or the images are of one "
            "class; use the output of a ReLU, such as conv5/act"
        )
    order = np.argsort(score if options.reverse else -score, kind="stable")
    return lesion.of_shares(units, options.share, order, *random)


def table(report: dict[str, Any]) -> str:
    """Format a report for a terminal."""
    value = {"zero": "0", "mean": "their mean activation"}[report["to"]]
    intact = ", ".join(
        f"top-{top[3:]} error {_error(one)}" for top, one in report["intact"].items()
    )
    what = f"{report['unit']}s of {report['layer']} ({report['units']:,}) set to {value}"
    lines = [
        f"{report['net']}, step {report['step']:,}: {what}",
        f"{report['count']:,} images of {report['images']}, {report['split']}; {report['confidence']:.0%} intervals",
        *scope_in_words(report),
        f"intact: {intact}",
        "",
    ]
    is_each = report["kind"] == "each"
    columns = [_single(report, one) if is_each else _set(report, one) for one in _shown(report)]
    rows = [tuple(columns[0]), *(tuple(one.values()) for one in columns)]
    return "\n".join(
        [*lines, *cli.table(rows, right=range(1, len(rows[0]) - 1)), "", *_notes(report)]
    )


def _shown(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The lesions in the table: of single maps, those with the largest change of error."""
    if report["kind"] != "each":
        return report["lesions"]
    ranked = sorted(report["lesions"], key=lambda one: -one["top1"]["change"]["value"])
    return ranked[:SHOWN]


def _single(report: dict[str, Any], one: dict[str, Any]) -> dict[str, str]:
    """The row of a single map: heading of the column -> cell."""
    return {
        "without": lesion_figure.title(report, one),
        "change of top-1 error": _change(one["top1"]["change"]),
        **{key: "" if one[key] is None else f"{one[key]:.3g}" for key in lesion.SCORES},
        "class hurt most": _hurt(one),
    }


def _set(report: dict[str, Any], one: dict[str, Any]) -> dict[str, str]:
    """The row of several maps: heading of the column -> cell."""
    top1, row = one["top1"], {}
    if controls := top1.get("controls"):
        row = {
            "random ones": f"{100 * controls['change']['value']:+.1f}",
            "more than these": _change(controls["excess"]),
            "p": f"{controls['p']:.2g}",
        }
    return {
        "without": lesion_figure.title(report, one),
        f"{report['unit']}s": f"{one['count']:,}",
        "top-1 error": _error(top1["error"]),
        "change": _change(top1["change"]),
        **row,
        "class hurt most": _hurt(one),
    }


def _notes(report: dict[str, Any]) -> list[str]:
    """Say how to read the table, a line each."""
    if report["kind"] == "each":
        rest, found = max(report["units"] - SHOWN, 0), report["correlations"]
        notes = [f"the other {rest:,} are in lesion.json"] if rest else []
        for name, value in found.items():
            if value is not None:
                notes.append(f"rank correlation of {name} and change: {value:+.2f}")
        return notes
    if report["order"] == "random":
        return [f"means of {report['draws']} random sets"]
    return [
        f"random ones: the change without as many at random, mean of {report['draws']} draws; p: share of draws and "
        "this one with an error as large as this one's",
    ]


def _error(value: dict[str, float | None]) -> str:
    return _interval(value, "{:.1f}") + " %"


def _change(value: dict[str, float | None]) -> str:
    return _interval(value, "{:+.1f}")


def _interval(value: dict[str, float | None], form: str) -> str:
    numbers = [form.format(100 * one) for one in value.values() if one is not None]
    return f"{numbers[0]} ({numbers[1]} to {numbers[2]})" if len(numbers) == 3 else numbers[0]


def _hurt(one: dict[str, Any]) -> str:
    hurt = one["hurt_most"]
    return f"{hurt['class']} {_change(hurt['change'])}" if hurt["change"]["value"] > 0 else ""


if __name__ == "__main__":
    cli.run(main)
