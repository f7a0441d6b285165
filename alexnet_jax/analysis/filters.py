"""Draw the first-layer kernels of each tower (Figure 3, §6.1), and measure how colored each kernel is.

alexnet figures filters --workdir runs/quickstart

Writes figures/filters.png and filters.json.
"""

import json
import math
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
#: Maximum side of a kernel, gap between kernels and height of a caption in the figure, in pixels.
TILE, GAP, CAPTION = 55, 2, 18


def main(arguments: list[str]) -> None:
    """Run `alexnet figures filters`."""
    parser = figures.parser(__doc__ or "")
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "filters.png"
    run = trained.load(options.workdir, options.step)
    model = run.config.model
    print(plot(run.params[model.convs[0][0]]["kernel"], model.towers, path))


def plot(kernel: np.ndarray, towers: int, path: Path | str) -> Path:
    """Draw kernels [kh kw 3 n] to a PNG, and write their color scores as JSON beside it (§6.1).

    Raises:
      ConfigError: The kernels do not have 3 input channels, or cannot be divided among the towers.
    """
    kernel = np.asarray(kernel, np.float32)
    if kernel.ndim != 4 or kernel.shape[2] != 3 or kernel.shape[3] % towers:
        raise ConfigError(
            f"first-layer kernels of shape {kernel.shape} and {towers} towers cannot be drawn: expected a convolution "
            "with 3 input channels and the same number of kernels in each tower"
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
    """Return the fraction [n] of the energy of each kernel that is color: 0 is gray, 1 has no gray component.

    The gray component is the mean of the weights over R, G and B at each position, and the color component is the
    remainder. The score is the sum of squares of the color component divided by that of the kernel. Untrained kernels,
    with independent weights, have a mean score of 2/3; a kernel of zeros has score 0.
    """
    color = kernel - kernel.mean(axis=2, keepdims=True)
    energy = (kernel**2).sum(axis=(0, 1, 2))
    return (color**2).sum(axis=(0, 1, 2)) / np.where(energy > 0, energy, 1)


def tiles(kernel: np.ndarray) -> np.ndarray:
    """Convert kernels [kh kw 3 n] to images uint8 [n kh kw 3]: 0 is mid-gray, the largest magnitude is full scale."""
    gray = 0.5 + 0.5 * kernel / (np.abs(kernel).max() or 1)
    return np.rint(255 * gray).astype(np.uint8).transpose(3, 0, 1, 2)


def _draw(kernel: np.ndarray, means: np.ndarray) -> "Image":
    """Draw a caption and the kernels of each tower, enlarged by an integer factor without interpolation."""
    from PIL import Image, ImageDraw

    height, width, _, count = kernel.shape
    zoom = max(1, TILE // max(height, width))
    step_y, step_x = height * zoom + GAP, width * zoom + GAP
    towers, per_tower = len(means), count // len(means)
    rows = math.ceil(per_tower / PER_ROW)
    block = CAPTION + rows * step_y
    canvas_width = max(min(per_tower, PER_ROW) * step_x + GAP, 200)
    canvas = np.full((towers * block + GAP, canvas_width, 3), 255, np.uint8)
    for i, tile in enumerate(tiles(kernel).repeat(zoom, axis=1).repeat(zoom, axis=2)):
        tower, index = divmod(i, per_tower)
        y = tower * block + CAPTION + index // PER_ROW * step_y
        x = GAP + index % PER_ROW * step_x
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for tower, mean in enumerate(means):
        name = f"tower {tower + 1}" if towers > 1 else f"{count} kernels"
        caption = f"{name}: mean color score {mean:.2f}"
        draw.text((GAP, tower * block + 3), caption, fill=(0, 0, 0))
    return image


if __name__ == "__main__":
    cli.run(main)
