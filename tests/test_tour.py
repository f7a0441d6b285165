"""The notebook docs/tour.ipynb, carried out cell by cell; and the weights of docs/weights, against their cards."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from alexnet_jax import files
from alexnet_jax.interop import verify

DOCS = Path(__file__).resolve().parent.parent / "docs"
CELLS = json.loads((DOCS / "tour.ipynb").read_text(encoding="utf-8"))["cells"]


def test_the_notebook_runs_and_shows_what_it_says(monkeypatch, capsys):
    monkeypatch.chdir(DOCS)
    monkeypatch.setattr(sys, "path", sys.path[:])
    names: dict = {}
    for cell in CELLS:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    figures = plt.get_fignums()
    plt.close("all")
    assert len(figures) == 4 and "quickstart after 450 steps" in capsys.readouterr().out
    assert len(names["wrong"]) / len(names["labels"]) < 0.02
    assert [found[0] for found in names["nearest"]] == names["queries"]
    alike = names["labels"][names["nearest"]] == names["labels"][names["queries"]][:, None]
    assert alike.mean() > 0.9


def test_no_output_is_committed_with_the_notebook():
    code = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


def test_released_weights_are_small_and_those_of_their_cards():
    released = list((DOCS / "weights").rglob("*.safetensors"))
    assert len(released) == 38
    for path in released:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert path.stat().st_size < 1_000_000 and files.sha256_of(path) == card["sha256"]
        assert card["commit"] and not card["uncommitted_changes"]


@pytest.mark.parametrize("name", ["quickstart-seed0-step450", "series/scales-digits-seed2-step899"])
def test_released_nets_do_as_well_as_their_cards_say(name):
    result = verify.verify(DOCS / "weights" / f"{name}.safetensors", evaluate=True)
    assert "measured again" in result
