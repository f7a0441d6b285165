"""The figure of `alexnet lesion`: how much the error changes without maps, and for which classes."""

from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax.analysis import figures
from alexnet_jax.model.geometry import tower_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: How many classes are shown: those with the largest changes.
CLASSES = 12
_ADJECTIVES = {"activity": "active", "selectivity": "selective"}
_CHANGE = "change of top-1 error (points)"


def title(report: dict[str, Any], one: dict[str, Any]) -> str:
    """Name the maps that a lesion of a report removes."""
    kind = report["kind"]
    return f"{kind if kind in ('tower', 'share') else report['unit']} {one['title']}"


def draw(report: dict[str, Any]) -> "Figure":
    """Draw the report of `alexnet lesion`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    if report["kind"] == "each":
        _draw_ranking(left, report)
        _draw_scores(right, report)
    else:
        draw_left = _draw_curve if report["kind"] == "share" else _draw_sets
        draw_left(left, report)
        _draw_classes(right, report)
    for axes in (left, right):
        figures.plain(axes)
    intact = 100 * report["intact"]["top1"]["value"]
    figure.suptitle(
        f"{report['layer']}, {report['unit']}s set to {report['to']}, {report['count']:,} images, "
        f"error of the intact net {intact:.1f} %",
        fontsize=10,
    )
    return figure


def _percent(values: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Values [n] in percent, and how far their bounds [2 n] are below and above; NaN for undefined bounds."""
    rows = [[one["value"], one["low"], one["high"]] for one in values]
    middle, low, high = 100 * np.array(rows, float).T
    return middle, np.maximum([middle - low, high - middle], 0)


def _draw_ranking(axes: "Axes", report: dict[str, Any]) -> None:
    """The change without each map, in order, colored by tower."""
    order = np.argsort(
        [-one["top1"]["change"]["value"] for one in report["lesions"]], kind="stable"
    )
    middle, error = _percent([report["lesions"][i]["top1"]["change"] for i in order])
    ranks = np.arange(1, len(order) + 1)
    axes.fill_between(
        ranks, middle - error[0], middle + error[1], color="gray", alpha=0.25, linewidth=0
    )
    towers = tower_of(order, report["units"], report["towers"])
    for tower in range(report["towers"]):
        label = f"tower {tower + 1}" if report["towers"] > 1 else None
        axes.plot(ranks[towers == tower], middle[towers == tower], ".", ms=5, label=label)
    axes.set_xlabel(f"rank of the {report['unit']} that is removed")
    axes.set_ylabel(_CHANGE)
    if report["towers"] > 1:
        axes.legend(frameon=False, fontsize=9)


def _draw_scores(axes: "Axes", report: dict[str, Any]) -> None:
    """The change without each map, against its selectivity, or its activity where that is not defined."""
    name = "activity" if report["lesions"][0]["selectivity"] is None else "selectivity"
    scores = [one[name] for one in report["lesions"]]
    axes.plot(
        scores, [100 * one["top1"]["change"]["value"] for one in report["lesions"]], ".", ms=5
    )
    correlation = report["correlations"][name]
    added = "" if correlation is None else f" (rank correlation {correlation:+.2f})"
    axes.set_xlabel(f"{name}{added}")
    axes.set_ylabel(_CHANGE)


def _draw_sets(axes: "Axes", report: dict[str, Any]) -> None:
    """The change without each set of maps, above the changes without random ones."""
    lesions = report["lesions"]
    intact = report["intact"]["top1"]["value"]
    for place, one in enumerate(lesions):
        middle, error = _percent([one["top1"]["change"]])
        axes.errorbar(middle, [place], xerr=error, fmt="o", color=f"C{place % 10}")
        errors = np.array(one["top1"]["controls"]["errors"])
        axes.plot(
            100 * (errors - intact), np.full(len(errors), place + 0.25), "|", color="gray", ms=9
        )
    label = f"as many random {report['unit']}s, {report['draws']} draws"
    axes.plot([], [], "|", color="gray", label=label)
    names = [f"without {figures.short(title(report, one))}" for one in lesions]
    axes.set_yticks(range(len(lesions)), names)
    axes.set_ylim(len(lesions) - 0.2, -0.8)
    axes.set_xlabel(_CHANGE)
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1))


def _draw_curve(axes: "Axes", report: dict[str, Any]) -> None:
    """The error against the share of the maps that is removed, from none."""
    lesions, intact = report["lesions"], report["intact"]["top1"]
    shares = [0, *(100 * one["count"] / report["units"] for one in lesions)]
    lines = {_order(report): [intact, *(one["top1"]["error"] for one in lesions)]}
    if "controls" in lesions[0]["top1"]:
        lines["random"] = [intact, *(one["top1"]["controls"]["error"] for one in lesions)]
    for name, color in zip(lines, ("C0", "gray"), strict=False):
        middle, error = _percent(lines[name])
        axes.fill_between(
            shares, middle - error[0], middle + error[1], color=color, alpha=0.25, linewidth=0
        )
        axes.plot(shares, middle, marker=".", color=color, label=name)
    axes.axhline(
        100 * (1 - 1 / report["classes"]["predicted"]), color="k", lw=0.8, ls="--", label="chance"
    )
    axes.set_xlabel(f"{report['unit']}s removed (%)")
    axes.set_ylabel("top-1 error (%)")
    axes.legend(frameon=False, fontsize=9)


def _order(report: dict[str, Any]) -> str:
    if report["order"] == "random":
        return f"random, mean of {report['draws']} draws"
    return f"{'least' if report['reverse'] else 'most'} {_ADJECTIVES[report['order']]} first"


def _draw_classes(axes: "Axes", report: dict[str, Any]) -> None:
    """The changes of the classes with the largest one, a mark for each lesion."""
    lesions = report["lesions"]
    changes = np.array([[100 * c["change"]["value"] for c in one["classes"]] for one in lesions])
    names = [one["class"] for one in lesions[0]["classes"]]
    shown = np.argsort(-np.abs(changes).max(axis=0), kind="stable")[:CLASSES]
    for i, one in enumerate(lesions):
        places = np.arange(len(shown)) + 0.5 * i / len(lesions)
        middle, error = _percent([one["classes"][j]["change"] for j in shown])
        label = figures.short(title(report, one))
        axes.errorbar(
            middle, places, xerr=error, fmt="o", ms=4, lw=1, color=f"C{i % 10}", label=label
        )
    axes.set_yticks(range(len(shown)), [figures.short(names[j]) for j in shown], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="k", lw=0.8)
    axes.set_xlabel(f"{_CHANGE} of a class")
    if len(lesions) > 1:
        axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
