"""The tables from the paper: to the code (docs/paper-to-code.md), whose docstrings name sections, and to the program.

The second, of docs/paper-and-source.md, is compared with configs/paper.py and configs/krizhevsky2012.py.
"""

import ast
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from alexnet_jax.analysis import describe

ROOT = Path(__file__).resolve().parent.parent
PLACE = re.compile(r"`([\w/]+\.py)(?:: (\w+))?`")
SECTION = re.compile(r"§\d(?:\.\d)?")


def rows() -> list[tuple[str, str, str]]:
    """(section, file, symbol or "") of each place that the table names."""
    text = (ROOT / "docs" / "paper-to-code.md").read_text(encoding="utf-8")
    table = text.split("\n## ")[0]
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


class Line:
    """A line of the table "What differs"."""

    def __init__(self, text: str) -> None:
        self.title, self.paper, self.program, keys = (
            cell.strip() for cell in text.strip("|\n ").split(" | ")
        )
        alike = " ".join(re.findall(r"\(([^)]*)\)", keys))
        self.alike = re.findall(r"`([^`]+)`", alike)
        self.differ = [key for key in re.findall(r"`([^`]+)`", keys) if key not in self.alike]


def lines() -> list[Line]:
    text = (ROOT / "docs/paper-and-source.md").read_text(encoding="utf-8")
    table = text.split("## What differs")[1].split("\nMomentum")[0]
    rows = [row for row in table.splitlines() if row.startswith("| ") and not row.startswith("| |")]
    return [Line(row) for row in rows]


PRINTED, RAN = describe._values("paper"), describe._values("krizhevsky2012")
DIFFERENT = {
    key
    for key in PRINTED.keys() | RAN.keys()
    if key != "name" and PRINTED.get(key) != RAN.get(key)
    # The defaults of a section that paper.py does not have.
    and not re.fullmatch(r"schedule\.biases\.(max_drops|patience|min_improvement|target|plateaus)", key)
} - {"schedule.biases"}  # fmt: skip


def test_every_line_has_a_key():
    found = lines()
    assert len(found) > 15
    for line in found:
        assert line.alike or line.differ, line.title


def test_the_keys_are_those_in_which_the_two_configs_differ():
    patterns = [pattern for line in lines() for pattern in line.differ]
    named = {key for key in DIFFERENT if any(fnmatchcase(key, p) for p in patterns)}
    assert named == DIFFERENT
    for pattern in patterns:
        assert any(fnmatchcase(key, pattern) for key in DIFFERENT), pattern


def test_the_keys_in_brackets_are_alike():
    for line in lines():
        for pattern in line.alike:
            found = [key for key in PRINTED if fnmatchcase(key, pattern)]
            assert found, pattern
            for key in found:
                assert PRINTED[key] == RAN.get(key), key


SAID = {
    "LRN": [("model.lrn_constants.alpha", "alpha = {}", "2e-5"), ("model.lrn_constants.k", "k = {}", "")],
    "spatial normalization": [("model.spatial_norm.alpha", "", "{}"), ("model.spatial_norm.beta", "", "power {}")],
    "initial weights": [("model.convs.conv4.init_std", "{}", "{}")],
    "learning rate": [("schedule.biases.learning_rate", "", "{}"), ("schedule.weights.learning_rate", "", "{}")],
    "weight decay": [("optimizer.weight_decay", "{}", "{}")],
    "length": [("train.epochs", "{}", "{}")],
    "color noise, size": [("augment.color_std", "N(0, {}²)", "N(0, {}²)")],
    "color noise, time": [("augment.color_off_epoch", "always", "{} of 91")],
    "crops": [("augment.crop_chunk", "", "by {} images")],
    "dropout": [("model.dropout.rate", "x {}", "")],
}  # fmt: skip


def written(number: float | None) -> str:
    """1e-4, but 0.0005."""
    if number is None:
        return ""
    return f"{number:g}" if number > 4e-4 else f"{number:.0e}".replace("e-0", "e-")


@pytest.mark.parametrize("title", SAID)
def test_the_numbers_are_those_of_the_configs(title):
    (line,) = [line for line in lines() if line.title == title]
    for key, paper, program in SAID[title]:
        for cell, text, values in ((line.paper, paper, PRINTED), (line.program, program, RAN)):
            value = values.get(key)
            assert text.format(written(value)) in cell


def test_words_of_the_table_are_those_of_the_configs():
    names = {
        "act": "ReLU",
        "lrn": "LRN",
        "spatial_norm": "**spatial normalization**",
        "pool": "pool",
    }
    found = {line.title: line for line in lines()}
    for number in (1, 2, 5):
        key = f"model.convs.conv{number}.then"
        for cell, values in (
            (found[f"layer {number}"].paper, PRINTED),
            (found[f"layer {number}"].program, RAN),
        ):
            assert cell.startswith(", ".join(["convolution", *(names[o] for o in values[key])]))
    first, second, third = (f"{epochs:g}" for epochs in RAN["schedule.weights.drops"])
    assert f"after {first}, {second} and {third} epochs" in found["drops of the rate"].program
    assert PRINTED["schedule.weights.max_drops"] == 3
    assert PRINTED["optimizer.bias_weight_decay"] == PRINTED["optimizer.weight_decay"]
    assert RAN["optimizer.bias_weight_decay"] == 0
    assert PRINTED["model.lrn_constants.within_towers"] is True
    offsets = PRINTED["data.image_size"] - PRINTED["augment.crop_size"] + 1
    assert f"{offsets} x {offsets}" in found["crops"].paper
    rows = [*(f"convs.conv{i}" for i in range(1, 6)), *(f"fcs.fc{i}" for i in (6, 7, 8))]
    with_one = [row.partition(".")[2] for row in rows if PRINTED[f"model.{row}.bias"] == 1]
    assert with_one == ["conv2", "conv4", "conv5", "fc6", "fc7"]
