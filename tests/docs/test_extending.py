"""Every example of docs/extending*.md: its diffs apply to the sources, and what follows them runs.

An example is one or more ```diff blocks and the ```sh or ```py block after them, which must succeed in a copy of the
tree that has the diffs.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("alexnet_jax", "configs", "tests/tiny.py")
BLOCK = re.compile(r"^```(diff|sh|py)\n(.*?)^```$|^#+ ([^\n]+)$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    name: str
    diffs: tuple[str, ...]
    language: str
    commands: str


def examples(page: Path) -> list[Example]:
    """The examples of a page, named by the page and the heading above them."""
    found, heading, diffs = [], "", []
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        language, text, title = match.groups()
        if title:
            heading = title
        elif language == "diff":
            diffs.append(text)
        elif diffs:  # a block that runs without a diff before it is an illustration
            found.append(Example(f"{page.stem}: {heading}", tuple(diffs), language, text))
            diffs = []
    assert not diffs, f"{page.name}: no block that runs follows the last diff"
    return found


PAGES = sorted((ROOT / "docs").glob("extending*.md"))
EXAMPLES = [example for page in PAGES for example in examples(page)]


def copy_of_the_tree(folder: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignored)
        elif source.exists():
            shutil.copy(source, target)


def run(command: list[str], folder: Path, text: str) -> None:
    """Run `command` in `folder` with `text` as its input; fail with what it prints."""
    environment = os.environ | {"PYTHONPATH": str(folder), "JAX_NUM_CPU_DEVICES": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    # Not inside a repository: git apply would otherwise look for one above the folder.
    environment |= {"GIT_CEILING_DIRECTORIES": str(folder.parent), "GIT_DIR": str(folder / "none")}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_applies_and_runs(example, tmp_path):
    copy_of_the_tree(tmp_path)
    for diff in example.diffs:
        run(["git", "apply", "--recount", "-"], tmp_path, diff)
    interpreter = [sys.executable, "-"] if example.language == "py" else ["bash", "-e", "-s"]
    run(interpreter, tmp_path, example.commands)


def test_there_are_examples_to_run():
    assert len(EXAMPLES) >= 1
