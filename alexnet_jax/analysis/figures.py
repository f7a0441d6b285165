"""What the figures share: their command line, how images are drawn, and the two files they write."""

import argparse
import json
import textwrap
from pathlib import Path

from alexnet_jax import cli, files
from alexnet_jax.errors import ConfigError, StorageError, printable

DPI = 120
RIGHT, WRONG = "#1a7f37", "#b42318"
"""Colors of a caption: the network is right, or wrong."""


def parser(description: str) -> argparse.ArgumentParser:
    """With the arguments that every figure of a network takes."""
    made = cli.parser(description)
    made.add_argument("--workdir", required=True, help="a run folder, or a .safetensors file")
    cli.add_step(made)
    made.add_argument("--out", metavar="DIR", help="folder of the figure; default: WORKDIR/figures")
    return made


def folder(options: argparse.Namespace) -> Path:
    """Where the figure goes, made if need be. Raises ConfigError, StorageError."""
    workdir = Path(options.workdir)
    if options.out is None and workdir.suffix == ".safetensors":
        raise ConfigError(f"{workdir} is a file: --out DIR says which folder the figure goes to")
    if options.out is None and not (workdir / "config.json").is_file():
        raise StorageError(f"{workdir} is not a run folder: it has no config.json")
    return make_folder(Path(options.out) if options.out else workdir / "figures")


def make_folder(path: Path) -> Path:
    """`path`, made if need be. Raises StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path}: {error.strerror}") from None
    return path


def show(axes, image, caption: str = "", color: str = "black", **options) -> None:
    """An image or map in matplotlib's `axes`: every pixel a sharp square, without ticks, under its caption."""
    axes.imshow(image, **{"interpolation": "nearest"} | options)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(caption, fontsize=9, color=color)


def plain(axes) -> None:
    """A pale grid behind what is drawn, and no frame above and on the right."""
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def short(name: str, width: int = 20) -> str:
    """A name of a class that fits over an image."""
    name = printable(name.replace("_", " "))
    return literal(
        textwrap.shorten(name, width, placeholder="...") if " " in name else name[:width]
    )


def literal(text: str) -> str:
    """`text` as matplotlib draws it letter by letter: between two dollar signs it would look for a formula."""
    return printable(text).replace("$", r"\$")


def save(figure, numbers: dict, path: Path) -> Path:
    """Write a matplotlib figure to `path`, a PNG, and its numbers as JSON beside it. Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI)
        text = json.dumps({"schema": 1, **numbers}, allow_nan=False)
        files.write_atomically(path.with_suffix(".json"), text + "\n")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None
    return path
