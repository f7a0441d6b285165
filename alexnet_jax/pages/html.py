"""Pages in one file: what comes from outside is escaped, pictures are inlined, nothing is loaded from anywhere."""

import base64
import html
import io
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np


class Html(str):
    """Text that is HTML already; any other text is escaped where it is filled in."""

    def __add__(self, other: "Html") -> "Html":
        if not isinstance(other, Html):
            raise TypeError("text is escaped by `fill` before it is added")
        return Html(str(self) + other)


def fill(template: str, **values) -> Html:
    """`template` with each {name} replaced by its value: Html as it is, all else as escaped text."""
    return Html(template.format_map({name: _escaped(value) for name, value in values.items()}))


def join(parts: Iterable[Html], between: str = "") -> Html:
    return Html(between.join(parts))


def page(name: str, **values) -> Html:
    """A page of this folder with each {{name}} replaced as in `fill`, and the style that all share."""
    values["style"] = Html(_file("style.css"))
    made = re.sub(r"\{\{(\w+)\}\}", lambda found: _escaped(values[found[1]]), _file(name))
    return Html(made.encode("utf-8", "replace").decode())  # names of files need not be UTF-8


def table(header: Iterable, rows: Iterable[Iterable], numbers: Iterable[int] = ()) -> Html:
    """A table of texts or Html; the columns `numbers` are set to the right."""
    right = set(numbers)

    def line(tag: str, cells: Iterable) -> Html:
        kinds = [' class="number"' if i in right else "" for i, _ in enumerate(cells)]
        made = (
            fill("<{tag}{kind}>{cell}</{tag}>", tag=Html(tag), kind=Html(kind), cell=cell)
            for kind, cell in zip(kinds, cells, strict=True)
        )
        return Html(f"<tr>{join(made)}</tr>")

    body = join((line("td", list(row)) for row in rows), "\n")
    head = line("th", list(header))
    return Html(
        f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
    )


def data_uri(pixels: np.ndarray, format: str = "PNG") -> str:
    """uint8 [h w], [h w 3] or [h w 4] in a data: address, as PNG or JPEG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, optimize=True, quality=88)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _escaped(value) -> str:
    return value if isinstance(value, Html) else html.escape(str(value))


def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
