"""Draw images with their labels and their five most probable classes (Figure 4 left, §6.1).

alexnet figures predictions --workdir runs/mine [--images tulip.jpg rose.jpg]

Writes figures/predictions.png and figures/predictions.json.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures, pictures
from alexnet_jax.analysis.pictures import Pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet_jax.inference.network import Network

PER_ROW = 4  # as in Figure 4
#: Colors of the bars.
LABEL, OTHER = "#e5746b", "#9fc3e6"


def main(arguments: list[str]) -> None:
    parser = figures.parser(__doc__ or "")
    pictures.add_arguments(parser, count=8)
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "predictions.png"
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    print(plot(net, pictures.select(net, options), path))


def plot(net: "Network", shown: Pictures, path: Path) -> Path:
    """Write a PNG of images above bars of their five most probable classes, and a JSON file with its numbers.

    Images are drawn whole, but the probabilities are those of the center crops.
    """
    rows: list[dict[str, Any]] = []
    for i, top in enumerate(net.top(shown.pixels, 5)):
        label = None if shown.labels is None else net.class_names[shown.labels[i]]
        top = [[name, round(probability, 4)] for name, probability in top]
        rows.append({"image": shown.names[i], "label": label, "top": top})
    return figures.save(_draw(shown.pixels, rows), {"step": net.trained.step, "images": rows}, path)


def _draw(pixels: np.ndarray, rows: list[dict[str, Any]]) -> "Figure":
    from matplotlib.figure import Figure

    columns = min(PER_ROW, len(rows))
    lines, classes = math.ceil(len(rows) / columns), max(len(row["top"]) for row in rows)
    bars_height = 0.24 * classes
    figure = Figure(figsize=(2.1 * columns, (2.3 + bars_height) * lines), layout="constrained")
    heights = (2.0, bars_height) * lines
    grid = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, row in enumerate(rows):
        line, column = divmod(i, columns)
        image, bars = grid[2 * line, column], grid[2 * line + 1, column]
        image.set_axis_on()
        figures.show(image, pixels[i], figures.short(row["label"] or Path(row["image"]).name))
        for rank, (name, probability) in enumerate(row["top"]):
            color = LABEL if name == row["label"] else OTHER
            bars.barh(rank, probability, height=0.86, color=color)
            bars.text(0.02, rank, figures.short(name, 18), va="center", fontsize=8)
            bars.text(0.99, rank, f"{probability:.0%}", va="center", ha="right", fontsize=8)
        bars.set_xlim(0, 1)
        bars.set_ylim(classes - 0.4, -0.6)
    if any(row["label"] for row in rows):
        figures.color_legend(figure, {"label": LABEL, "other classes": OTHER})
    return figure


if __name__ == "__main__":
    cli.run(main)
