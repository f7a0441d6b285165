"""First-layer kernels as a picture, tower over tower (Figure 3, §6.1), and how colored each is.

Command: alexnet filters --workdir runs/quickstart
"""

import json
from pathlib import Path

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures
from alexnet_jax.errors import ConfigError
from alexnet_jax.inference import trained

PER_ROW = 16  # as in Figure 3: three rows of 16 kernels for each tower
TILE = 55  # pixels of the picture that a kernel gets, at most
GAP = 2
CAPTION = 18


def plot(kernel: np.ndarray, towers: int, path: Path | str) -> Path:
    """Kernels [kh kw 3 n] as a PNG at `path`, and their color scores as JSON beside it (§6.1).

    One contrast for all of them: zero is mid-gray, the largest weight of all is full scale.
    Enlarged by a whole factor, without interpolation. Raises ConfigError for kernels not over RGB.
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
    _picture(kernel, means).save(path)
    report = {
        "schema": 1,
        "kernels": kernel.shape[3],
        "tower_mean_color_score": [round(float(mean), 4) for mean in means],
        "color_score": [[round(float(score), 4) for score in tower] for tower in scores],
    }
    path.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    return path


def color_scores(kernel: np.ndarray) -> np.ndarray:
    """[n]: the share of a kernel's energy that is color: 0 is gray, 1 has no gray part at all.

    At each place the three weights are split into their mean over R, G and B (gray) and the rest
    (color); the score is the sum of squares of the rest over that of the whole. Untrained kernels,
    of independent weights, score 2/3 on average; a kernel of zeros scores 0.
    """
    color = kernel - kernel.mean(axis=2, keepdims=True)
    whole = (kernel**2).sum(axis=(0, 1, 2))
    return (color**2).sum(axis=(0, 1, 2)) / np.where(whole > 0, whole, 1)


def main(arguments: list[str]) -> None:
    parser = figures.parser("Draw the first-layer kernels: figures/filters.png and filters.json.")
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "filters.png"
    run = trained.load(options.workdir, options.step)
    model = run.config.model
    print(plot(run.params[model.convs[0][0]]["kernel"], model.towers, path))


def _picture(kernel: np.ndarray, means: np.ndarray):
    """A PIL image: for each tower a caption, then its kernels in rows of 16."""
    from PIL import Image, ImageDraw

    height, width, _, count = kernel.shape
    zoom = max(1, TILE // max(height, width))
    step_y, step_x = height * zoom + GAP, width * zoom + GAP
    largest = np.abs(kernel).max()
    gray = 0.5 + 0.5 * kernel / (largest if largest > 0 else 1)
    tiles = np.round(255 * gray).astype(np.uint8).transpose(3, 0, 1, 2)
    tiles = tiles.repeat(zoom, axis=1).repeat(zoom, axis=2)

    towers, each = len(means), count // len(means)
    rows = -(-each // PER_ROW)
    block = CAPTION + rows * step_y
    canvas_width = max(min(each, PER_ROW) * step_x + GAP, 200)
    canvas = np.full((towers * block + GAP, canvas_width, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        tower, place = divmod(i, each)
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
