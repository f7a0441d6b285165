"""The README's table from the paper to the code: every symbol exists and names its section."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEADING = "## From the paper to the code"
PLACE = re.compile(r"`([\w/]+\.py)(?:: (\w+))?`")
SECTION = re.compile(r"§\d(?:\.\d)?")


def rows() -> list[tuple[str, str, str]]:
    """(section, file, symbol or "") of each place that the table names."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split(HEADING)[1].split("\n## ")[0]
    found = []
    for line in table.splitlines():
        if section := SECTION.search(line):
            places = PLACE.findall(line)
            assert places, f"no file in: {line}"
            found += [(section.group(), file, symbol) for file, symbol in places]
    return found


def docstring(file: str, symbol: str) -> str:
    """Of the function or class; of the file for a value, or if there is no symbol."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    if not symbol:
        return ast.get_docstring(tree) or ""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == symbol:
            return ast.get_docstring(node) or ""
        if isinstance(node, ast.Assign) and symbol in map(ast.unparse, node.targets):
            return ast.get_docstring(tree) or ""
    raise AssertionError(f"{file} has no {symbol}")


@pytest.mark.parametrize(("section", "file", "symbol"), rows())
def test_the_code_names_its_section(section, file, symbol):
    assert section in docstring(file, symbol)


def test_the_table_covers_the_paper():
    sections = {section for section, _, _ in rows()}
    assert sections >= {"§2", "§3.1", "§3.2", "§3.3", "§3.4", "§3.5", "§4.1", "§4.2", "§5", "§7"}
