"""The Markdown pages of the repository: their shell blocks, links and headings."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
#: What comes before a block whose commands are too long, or need too much, to be run by tests.
LONG = "<!-- long -->"


class Command(NamedTuple):
    """A command of a shell block."""

    page: str
    words: tuple[str, ...]
    is_long: bool


def pages() -> list[Path]:
    """Every page that is written for readers, without measurements of a day."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "docs" / "weights" / "README.md"]
    return sorted([*found, ROOT / "launch" / "README.md"])


def commands(page: Path) -> list[Command]:
    """The commands of the ```sh blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for mark, block in re.findall(rf"({LONG}\n)?```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                name = str(page.relative_to(ROOT))
                found.append(Command(name, tuple(words), bool(mark)))
    return found


def without_code(text: str) -> str:
    """A page without its code, in which brackets are no links."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "code", text)


def links(page: Path) -> list[str]:
    """The targets of the links and images of a page that are no addresses."""
    found = re.findall(r"\]\(([^()\s]+)\)", without_code(page.read_text(encoding="utf-8")))
    return [target for target in found if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}
