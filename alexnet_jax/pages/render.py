"""Render the templates of templates/ with all values escaped, and inline images as data URIs."""

import base64
import functools
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> Markup:
    """Render a template; every value that is not Markup itself is escaped."""
    text = _environment().get_template(template).render(values)
    return Markup(text.encode("utf-8", "replace").decode())  # file names need not be UTF-8


def data_uri(pixels: np.ndarray, format: str = "PNG") -> str:
    """Encode uint8 [h w], [h w 3] or [h w 4] as PNG or JPEG in a data: URI."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, optimize=True, quality=88)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
