"""Labels in any script: an installed font that has their letters, else Latin letters, and never a box."""

import unicodedata
import warnings

import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure

from alexnet_jax.analysis import figures, fonts


@pytest.fixture(autouse=True)
def only_own_fonts(monkeypatch):
    """The fonts that come with matplotlib, whatever is installed here."""
    own = [e for e in font_manager.fontManager.ttflist if "mpl-data" in e.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    forget()
    yield
    monkeypatch.undo()
    forget()


def forget():
    for function in (fonts._family, fonts._installed, fonts._warn):
        function.cache_clear()


def install(tmp_path, family: str, letters: str) -> None:
    """Make a font of empty glyphs for some letters, and add it to the fonts of matplotlib."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.ttLib.tables._g_l_y_f import Glyph

    names = [".notdef", *(f"u{ord(letter):x}" for letter in letters)]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):x}" for letter in letters})
    builder.setupGlyf({name: Glyph() for name in names})
    builder.setupHorizontalMetrics({name: (500, 0) for name in names})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path / f"{family}.ttf"
    builder.save(path)
    font_manager.fontManager.addfont(path)
    forget()


def test_latin_greek_and_cyrillic_need_no_other_font():
    text = "tulip, élan, Ωμέγα, цветок"
    assert fonts.displayable(text) == text
    assert fonts.families(text) == ["DejaVu Sans"]


def test_an_installed_font_is_found_and_noto_first(tmp_path):
    install(tmp_path, "A Font", "猫")
    install(tmp_path, "Noto Sans Test", "猫犬")
    assert fonts.displayable("猫 cat") == "猫 cat"
    assert fonts.families("猫 cat") == ["DejaVu Sans", "Noto Sans Test"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("고양이", "goyangi"),
        (unicodedata.normalize("NFD", "고양이"), "goyangi"),
        ("ねこ", "neko"),
        ("猫咪", "732b 54aa"),
        ("猫 cat", "732b cat"),
        ("\uff23\uff41\uff54", "Cat"),
    ],
)
def test_letters_that_no_font_has_are_spelled(name, shown, caplog):
    assert fonts.displayable(name) == shown
    assert fonts.displayable(name) == shown
    assert len(caplog.records) == 1 and "no installed font has the" in caplog.text


def test_a_figure_has_no_box_and_no_warning(tmp_path):
    install(tmp_path, "Noto Sans Test", "猫")
    figure = Figure()
    axes = figure.subplots()
    names = ["猫", "고양이", "犬", "$x$"]
    axes.set_xticks(range(4), [figures.short(name) for name in names])
    axes.set_title(figures.literal("猫"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.save(figure, {}, tmp_path / "figure.png")
    assert axes.title.get_fontfamily() == ["DejaVu Sans", "Noto Sans Test"]
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == ["猫", "goyangi", "72ac", r"\$x\$"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("golden_retriever", "golden retriever"),
        ("a name of exactly 20", "a name of exactly 20"),
        ("a long name of a flower", "a long name of a…"),
        ("x" * 30, "x" * 19 + "…"),
        ("Ж" * 20, "Ж" * 20),
    ],
)
def test_names_are_shortened_to_the_width_over_an_image(name, shown):
    assert figures.short(name) == shown


def test_wide_letters_count_twice(tmp_path):
    install(tmp_path, "Noto Sans Test", "猫")
    assert figures.short("猫" * 10) == "猫" * 10
    assert figures.short("猫" * 11) == "猫" * 9 + "…"
