"""Text of figures in any script: installed fonts that have its letters, or Latin letters where there are none."""

import functools
import logging
import re
import unicodedata

log = logging.getLogger(__name__)

#: The family that comes with matplotlib.
DEFAULT = "DejaVu Sans"
#: The last word of the Unicode name of a letter is its sound in most scripts other than Chinese.
_SOUND = re.compile(r".* (?:LETTER|SYLLABLE|VOWEL SIGN) (?:SMALL )?([A-Z]+)")


def families(text: str) -> list[str]:
    """Return the font families for a text: matplotlib's own, then installed ones for letters that it lacks."""
    found = (_family(letter) for letter in text)
    return list(dict.fromkeys([DEFAULT, *(family for family in found if family)]))


def displayable(text: str) -> str:
    """Replace each letter that no installed font has by its sound in Latin letters, or its number in hexadecimal.

    Warns once for each script.
    """
    text = unicodedata.normalize("NFC", text)
    missing = {letter for letter in text if _family(letter) is None}
    if not missing:
        return text
    for letter in missing:
        _warn(unicodedata.name(letter, "unnamed").partition(" ")[0])
    spelled = (_spelled(letter) if letter in missing else letter for letter in text)
    return " ".join("".join(spelled).split())


@functools.cache
def _family(letter: str) -> str | None:
    """Return a family that has a letter; None if no installed one has it."""
    if letter.isascii():  # also line breaks, which no font has
        return DEFAULT
    code = ord(letter)
    return next((family for family, path in _installed() if code in _letters(path)), None)


@functools.cache
def _installed() -> list[tuple[str, str]]:
    """List families and a regular font file of each: matplotlib's own first, then Noto's, then others by name."""
    from matplotlib.font_manager import fontManager

    regular: dict[str, str] = {}
    for entry in sorted(fontManager.ttflist, key=lambda e: (e.style != "normal", e.weight != 400)):
        if not entry.name.startswith("Last Resort"):  # has a box for every letter
            regular.setdefault(entry.name, entry.fname)

    def order(family: str) -> tuple[bool, bool, str]:
        return family != DEFAULT, not family.startswith("Noto Sans"), family

    return [(family, regular[family]) for family in sorted(regular, key=order)]


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """The code points of a font file; none if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def _spelled(letter: str) -> str:
    parts = unicodedata.normalize("NFKD", letter)
    parts = "".join(part for part in parts if not unicodedata.combining(part))
    if parts != letter and all(map(_family, parts)):
        return parts
    if sound := _SOUND.fullmatch(unicodedata.name(letter, "")):
        return sound[1].lower()
    return "" if unicodedata.combining(letter) else f"{ord(letter):x} "


@functools.cache
def _warn(script: str) -> None:
    log.warning(
        "no installed font has the %s letters of some names, which figures show in Latin letters; install one, such as "
        "Noto Sans CJK (Debian: fonts-noto-cjk)", script,
    )  # fmt: skip
