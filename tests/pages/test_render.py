"""Templates escape values; images are inlined."""

import base64
import io

import numpy as np
import pytest
from jinja2 import UndefinedError
from markupsafe import Markup
from PIL import Image

from alexnet_jax.pages.render import data_uri, render


def test_text_is_escaped_and_markup_is_not():
    page = render("report.html", title='"><script>', facts="<&", sections=[("<i>", Markup("<br>"))])
    assert "<h1>&#34;&gt;&lt;script&gt;</h1>" in page and "&lt;&amp;" in page
    assert "<h2>&lt;i&gt;</h2>\n<br>" in page and isinstance(page, Markup)


def test_values_are_not_templates():
    body = Markup("<br>")
    page = render("report.html", title="{{ facts }}", facts="{% raw %}", sections=[("a", body)])
    assert page.count("{{ facts }}") == 2 and page.count("{% raw %}") == 1


def test_a_missing_value_is_an_error():
    with pytest.raises(UndefinedError):
        render("report.html", title="a")


def test_names_that_are_not_utf_8_can_be_written():
    assert "<h1>a?</h1>" in render("report.html", title="a\udcff", facts="", sections=[])


def test_a_table_has_a_cell_for_each_value():
    headline = [("3", "<b>"), ("", "left out")]
    header, rows = ("split", "views", "step", "<i>"), [("<b>", "center crop", 1, 2)] * 2
    page = render("results.html", headline=headline, header=header, rows=rows)
    assert "<th>split</th>" in page and '<th class="number">step</th>' in page
    cells = (
        '<td data-header="split">&lt;b&gt;</td><td data-header="views">center crop</td>'
        '<td class="number" data-header="step">1</td><td class="number" data-header="&lt;i&gt;">2</td>'
    )
    assert page.count(f"<tr>{cells}</tr>") == 2
    assert "<dd>3</dd><dt>&lt;b&gt;</dt>" in page and "left out" not in page


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3), (2, 3, 4)])
def test_an_image_keeps_its_pixels(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    kind, _, text = data_uri(pixels).partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
