"""The figures of `alexnet similarity`: heatmaps of all layers, and the approach of layers to their last state."""

from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax.analysis import figures
from alexnet_jax.analysis.similarity_measures import Measures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {"cka": "CKA", "rdm": "Spearman correlation of RDMs"}


def heatmaps(report: dict[str, Any], measures: Measures, nets: list[int]) -> "Figure":
    """Draw CKA and RDM correlation of all layers of `nets`, layer by layer; undefined values are gray.

    Nets are A, B, ..., as the title says.
    """
    from matplotlib.figure import Figure

    letters = {net: chr(ord("A") + i) if i < 26 else str(i) for i, net in enumerate(nets)}
    shown = [i for net in nets for i, (other, _) in enumerate(measures.layers) if other == net]
    labels = [
        f"{letters[net]} {name}" if len(nets) > 1 else name
        for net, name in (measures.layers[i] for i in shown)
    ]
    side = max(3.2, 0.19 * len(shown) + 1)
    figure = Figure(figsize=(2 * side + 1, side + 0.6 + 0.16 * len(nets)), layout="constrained")
    image: Any = None
    for axes, (key, title) in zip(figure.subplots(1, 2), TITLES.items(), strict=True):
        values = getattr(measures, key)[np.ix_(shown, shown)]
        axes.set_facecolor("lightgray")
        image = axes.imshow(values, vmin=0, vmax=1, cmap="magma", interpolation="nearest")
        axes.set_xticks(range(len(shown)), labels, rotation=90, fontsize=7)
        axes.set_yticks(range(len(shown)), labels, fontsize=7)
        axes.set_title(title, fontsize=9)
        for border in np.cumsum([len(_of(measures, net)) for net in nets])[:-1] - 0.5:
            axes.axhline(border, color="white", lw=1)
            axes.axvline(border, color="white", lw=1)
        if len(shown) <= 12:
            _write_values(axes, values)
    figure.colorbar(image, ax=figure.axes, shrink=0.8, extend="min")
    named = [f"{letters[net]}: {figures.literal(report['nets'][net]['net'])}" for net in nets]
    images = f"{report['images']['count']:,} images of {report['images']['from']}"
    figure.suptitle("\n".join([figures.literal(images), *named]), fontsize=8)
    return figure


def _of(measures: Measures, net: int) -> list[str]:
    return [name for other, name in measures.layers if other == net]


def _write_values(axes: "Axes", values: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = "black" if value > 0.6 else "white"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=color
            )


def settling(runs: list[dict[str, Any]]) -> "Figure":
    """Draw the similarity of each layer to its last state against the epoch, or the step: a row for each run."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.9 * len(runs) + 0.4), layout="constrained")
    grid = figure.subplots(len(runs), len(TITLES), sharey=True, squeeze=False)
    for row, run in zip(grid, runs, strict=True):
        places = (run["epochs"] or run["steps"])[:-1]
        colors = colormaps["viridis"](np.linspace(0, 0.92, len(run["layers"])))
        for axes, (key, title) in zip(row, TITLES.items(), strict=True):
            for color, (name, layer) in zip(colors, run["layers"].items(), strict=True):
                value, low, high = (_column(layer[key], name) for name in ("value", "low", "high"))
                axes.fill_between(places, low, high, color=color, alpha=0.2, lw=0)
                axes.plot(places, value, color=color, marker=".", ms=4, lw=1.2, label=name)
            if np.median(places) < places[-1] / 10:  # checkpoints of steps 1, 2, 4, 8, ...
                axes.set_xscale("symlog", linthresh=min(one for one in places if one > 0))
            axes.set_title(f"{figures.literal(run['run'])}: {title}", fontsize=8)
            axes.set_ylim(min(0, axes.get_ylim()[0]), 1.02)
            figures.plain(axes)
        row[0].set_ylabel("similarity to the last checkpoint", fontsize=9)
        row[-1].legend(frameon=False, fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("epoch" if runs[-1]["epochs"] else "step")
    return figure


def _column(values: list[dict[str, Any]], key: str) -> list[float]:
    return [np.nan if one[key] is None else one[key] for one in values]
