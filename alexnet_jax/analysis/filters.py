"""Draw the first-layer kernels tower over tower (Figure 3, §6.1), and score how colored each is.

alexnet figures filters --workdir runs/quickstart

Writes figures/filters.png and filters.json.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures
from alexnet_jax.errors import ConfigError
from alexnet_jax.inference import trained

if TYPE_CHECKING:
    from PIL.Image import Image

#: Kernels in a row: three rows for each tower of the paper's network, as in Figure 3.
PER_ROW = 16
#: Largest side of a kernel in the figure, space between kernels and height of a caption, in pixels.
TILE, GAP, CAPTION = 55, 2, 18


def main(arguments: list[str]) -> None:
    parser = figures.parser(__doc__ or "")
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "filters.png"
    run = trained.load(options.workdir, options.step)
    model = run.config.model
    print(plot(run.params[model.convs[0][0]]["kernel"], model.towers, path))


def plot(kernel: np.ndarray, towers: int, path: Path | str) -> Path:
    """Draw kernels [kh kw 3 n] to a PNG, and write their color scores as JSON beside it (§6.1).

    Raises:
      ConfigError: The kernels are not over RGB, or cannot be divided among the towers.
    """
    kernel = np.asarray(kernel, np.float32)
    if kernel.ndim != 4 or kernel.shape[2] != 3 or kernel.shape[3] % towers:
        raise ConfigError(
            f"first-layer kernels of shape {kernel.shape} and {towers} towers cannot be drawn: "
            "it takes shared kernels over 3 color channels, as many in each tower"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = color_scores(kernel).reshape(towers, -1)
    means = scores.mean(axis=1)
    _draw(kernel, means).save(path)
    report = {
        "schema": 1,
        "kernels": kernel.shape[3],
        "tower_mean_color_score": [round(float(mean), 4) for mean in means],
        "color_score": [[round(float(score), 4) for score in tower] for tower in scores],
    }
    path.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    return path


def color_scores(kernel: np.ndarray) -> np.ndarray:
    """The share of each kernel's energy that is color, [n]: 0 is gray, 1 has no gray part.

    At each place the three weights are split into their mean over R, G and B (gray) and the rest (color); the score
    is the sum of squares of the rest over that of all. Untrained kernels, with independent weights, score 2/3 on
    average; a kernel of zeros scores 0.
    """
    color = kernel - kernel.mean(axis=2, keepdims=True)
    energy = (kernel**2).sum(axis=(0, 1, 2))
    return (color**2).sum(axis=(0, 1, 2)) / np.where(energy > 0, energy, 1)


def tiles(kernel: np.ndarray) -> np.ndarray:
    """Kernels [kh kw 3 n] as images uint8 [n kh kw 3]: zero is mid-gray, the largest weight of all is full scale."""
    gray = 0.5 + 0.5 * kernel / (np.abs(kernel).max() or 1)
    return np.rint(255 * gray).astype(np.uint8).transpose(3, 0, 1, 2)


def _draw(kernel: np.ndarray, means: np.ndarray) -> "Image":
    """For each tower a caption and its kernels, enlarged by a whole factor without interpolation."""
    from PIL import Image, ImageDraw

    height, width, _, count = kernel.shape
    zoom = max(1, TILE // max(height, width))
    step_y, step_x = height * zoom + GAP, width * zoom + GAP
    towers, per_tower = len(means), count // len(means)
    rows = -(-per_tower // PER_ROW)
    block = CAPTION + rows * step_y
    canvas_width = max(min(per_tower, PER_ROW) * step_x + GAP, 200)
    canvas = np.full((towers * block + GAP, canvas_width, 3), 255, np.uint8)
    for i, tile in enumerate(tiles(kernel).repeat(zoom, axis=1).repeat(zoom, axis=2)):
        tower, place = divmod(i, per_tower)
        y = tower * block + CAPTION + place // PER_ROW * step_y
        x = GAP + place % PER_ROW * step_x
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for tower, mean in enumerate(means):
        caption = f"tower {tower + 1}: mean color score {mean:.2f}"
        draw.text((GAP, tower * block + 3), caption, fill=(0, 0, 0))
    return image


if __name__ == "__main__":
    cli.run(main)
