import base64
import io

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.pages import html
from alexnet_jax.pages.html import Html


def test_text_is_escaped_and_html_is_not():
    filled = html.fill('<p title="{a}">{b}{c}</p>', a='"><script>', b="<&", c=Html("<br>"))
    assert filled == '<p title="&quot;&gt;&lt;script&gt;">&lt;&amp;<br></p>'
    assert isinstance(filled, Html) and isinstance(filled + filled, Html)
    with pytest.raises(TypeError, match="escaped"):
        filled + "<script>"


def test_what_is_filled_in_is_not_filled_in_again():
    page = html.page("report.html", title="{{sections}}", facts="{title}", sections=Html("<br>"))
    assert page.count("{{sections}}") == 2 and page.count("<br>") == 1
    assert html.fill("{a}{b}", a="{b}", b="c") == "{b}c"


def test_names_that_are_not_utf_8_can_be_written():
    assert "<h1>a?</h1>" in html.page("report.html", title="a\udcff", facts="", sections="")


def test_a_table_has_a_cell_for_each_value():
    made = html.table(("name", "n"), [("<b>", 3)], numbers=[1])
    assert '<th>name</th><th class="number">n</th>' in made
    assert '<tr><td>&lt;b&gt;</td><td class="number">3</td></tr>' in made


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3), (2, 3, 4)])
def test_a_picture_keeps_its_pixels(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    kind, _, text = html.data_uri(pixels).partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixels)
