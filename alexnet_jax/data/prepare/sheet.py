"""Contact sheet: one image of each class, to see whether the labels are right."""

import pathlib

import numpy as np

from alexnet_jax.data.prepare.checks import Contents
from alexnet_jax.errors import StorageError

#: Maximum number of classes on a sheet.
LARGEST_SHEET = 100
_THUMB, _TEXT, _COLUMNS = 96, 16, 10


def draw_sheet(contents: Contents, path: pathlib.Path) -> None:
    """Draw the first image of train and of val or test, with the name, for up to LARGEST_SHEET classes.

    Raises StorageError.
    """
    from PIL import Image, ImageDraw, ImageFont

    count = len(contents.classes)
    chosen = np.unique(np.linspace(0, count - 1, min(count, LARGEST_SHEET)).astype(int)).tolist()
    shown = [name for name in ("train", "val", "test") if name in contents.splits][:2]
    columns = min(_COLUMNS // len(shown), len(chosen))
    rows = -(-len(chosen) // columns)
    width, height = _THUMB * len(shown) + 8, _THUMB + _TEXT + 4
    sheet = Image.new("RGB", (columns * width, rows * height + _TEXT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    draw.text((2, 1), f"{' | '.join(shown)}, {len(chosen)} of {count} classes", "black", font)
    firsts = {
        name: dict(zip(*np.unique(contents.splits[name].labels, return_index=True), strict=True))
        for name in shown
    }
    for cell, label in enumerate(chosen):
        left, top = cell % columns * width, cell // columns * height + _TEXT
        for i, name in enumerate(shown):
            if label in firsts[name]:
                first = firsts[name][label]
                pixels = contents.splits[name].images[np.array([first])][0]
                thumb = Image.fromarray(pixels).resize((_THUMB, _THUMB))
                sheet.paste(thumb, (left + i * _THUMB, top))
        word = contents.words[label].split(",")[0]
        text = f"{label} {word}"
        while len(text) > 1 and draw.textlength(text, font) > width - 4:
            text = text[:-1]
        draw.text((left + 1, top + _THUMB + 1), text, "black", font)
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; choose another --sheet FILE.png"
        ) from None
