"""Helpers shared by all figures: options, drawing, and writing a PNG with its numbers."""

import argparse
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import cli, files
from alexnet_jax.analysis import fonts
from alexnet_jax.errors import ConfigError, StorageError, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
#: Caption colors of correct and wrong predictions.
RIGHT, WRONG = "#1a7f37", "#b42318"


def parser(description: str) -> argparse.ArgumentParser:
    """Return an argument parser with the options of every figure of one network."""
    built = cli.parser(description)
    built.add_argument("--workdir", required=True, help="a run folder, or a .safetensors file")
    cli.add_step(built)
    built.add_argument(
        "--out", metavar="DIR", help="folder for the figure; default: WORKDIR/figures"
    )
    return built


def folder(options: argparse.Namespace, name: str = "figures") -> Path:
    """Return --out, or the folder `name` of the run, created if needed. Raises ConfigError and StorageError."""
    workdir = Path(options.workdir)
    if options.out is None and workdir.suffix == ".safetensors":
        raise ConfigError(f"{workdir} is a file: --out DIR says which folder to write to")
    if options.out is None and not (workdir / "config.json").is_file():
        raise StorageError(f"{workdir} is not a run folder: it has no config.json")
    return make_folder(Path(options.out) if options.out else workdir / name)


def make_folder(path: Path) -> Path:
    """Create a folder if needed and return its path. Raises StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create the folder {path}: {error.strerror}") from None
    return path


def show(axes: "Axes", image: Any, caption: str = "", color: str = "black", **options: Any) -> None:
    """Show an image or map with a caption, without interpolation and ticks."""
    options = {"interpolation": "nearest"} | options
    axes.imshow(image, **options)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(caption, fontsize=9, color=color)


def mosaic(tiles: np.ndarray, rows: int, columns: int, gap: int) -> np.ndarray:
    """Arrange at most rows * columns tiles uint8 [n h w 3] in one image, row by row, with white gaps."""
    height, width = tiles.shape[1:3]
    shape = rows * (height + gap) - gap, columns * (width + gap) - gap, 3
    canvas = np.full(shape, 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        canvas[y : y + height, x : x + width] = tile
    return canvas


def plain(axes: "Axes") -> None:
    """Draw a pale grid behind the data, and no frame lines at the top and right."""
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain_log_ticks(axes: "Axes", values: Sequence[float]) -> None:
    """Label a logarithmic y axis with plain numbers, at 1, 2 and 5 times powers of ten if `values` span few of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    few = max(values) / min(values) < 500
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def color_legend(figure: "Figure", colors: dict[str, str]) -> None:
    """Say below a figure what its colors mean."""
    from matplotlib.patches import Patch

    handles = [Patch(color=color, label=name) for name, color in colors.items()]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9
    )


def short(name: str, width: int = 20) -> str:
    """Shorten a class name to fit over an image; `width` is in Latin letters, of which Chinese ones take two."""
    name = fonts.displayable(printable(name.replace("_", " ")))
    if _width(name) > width:
        while _width(name) >= width:
            name = name[:-1]
        words = name.rpartition(" ")[0]
        name = (words if _width(words) > width // 2 else name).rstrip() + "…"
    return _without_formulas(name)


def literal(text: str) -> str:
    """Prepare text of a user for a figure: visible in the installed fonts, and no formulas."""
    return _without_formulas(fonts.displayable(printable(text)))


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "FW" else 1 for letter in text)


def _without_formulas(text: str) -> str:
    """Escape dollar signs, which mark formulas in matplotlib."""
    return text.replace("$", r"\$")


def save(figure: "Figure", numbers: dict[str, Any], path: Path) -> Path:
    """Write a figure as PNG, and its numbers to a JSON file of the same name. Raises StorageError."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text) and len(families := fonts.families(text.get_text())) > 1:
            text.set_fontfamily(families)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI)
        text = json.dumps({"schema": 1, **numbers}, allow_nan=False)
        files.write_atomically(path.with_suffix(".json"), text + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None
    return path
