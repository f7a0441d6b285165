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

    The bar of the true label is red. Images are drawn whole, but the probabilities are those of the center crops.
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
    lines = math.ceil(len(rows) / columns)
    figure = Figure(figsize=(2.1 * columns, 3.5 * lines), layout="constrained")
    grid = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=(2.0, 1.2) * lines)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, row in enumerate(rows):
        line, column = divmod(i, columns)
        image, bars = grid[2 * line, column], grid[2 * line + 1, column]
        image.set_axis_on()
        figures.show(image, pixels[i], figures.short(row["label"] or Path(row["image"]).name))
        for rank, (name, probability) in enumerate(row["top"]):
            color = "#e5746b" if name == row["label"] else "#9fc3e6"
            bars.barh(rank, probability, height=0.86, color=color)
            bars.text(0.02, rank, figures.short(name, 24), va="center", fontsize=8)
        bars.set_xlim(0, 1)
        bars.set_ylim(4.6, -0.6)
    return figure


if __name__ == "__main__":
    cli.run(main)
