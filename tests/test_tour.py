"""The notebook docs/tour.ipynb, carried out cell by cell; and the weights of docs/weights, against their cards."""

import json
import subprocess
import sys

import pytest

from alexnet_jax import files, main
from alexnet_jax.inference import trained
from alexnet_jax.interop import verify
from tests.docs import notebook
from tests.docs.notebook import DOCS, TOUR

CELLS = notebook.code_cells(json.loads(TOUR.read_text(encoding="utf-8")))


def kinds(outputs):
    return [output["output_type"] for output in outputs]


def test_the_notebook_runs_and_shows_what_is_stored_in_it(monkeypatch):
    monkeypatch.chdir(DOCS)
    names: dict = {}
    made = [notebook.execute(cell, names) for cell in CELLS]
    assert list(map(kinds, made)) == [kinds(cell["outputs"]) for cell in CELLS]
    assert made[1] == CELLS[1]["outputs"] and "quickstart after 450 steps" in str(made[1])
    assert ["display_data" in kinds(outputs) for outputs in made].count(True) == 4
    assert len(names["wrong"]) / len(names["labels"]) < 0.02
    assert [found[0] for found in names["nearest"]] == names["queries"]
    alike = names["labels"][names["nearest"]] == names["labels"][names["queries"]][:, None]
    assert alike.mean() > 0.9


def test_the_stored_outputs_are_small_and_in_order():
    assert TOUR.stat().st_size < 300_000
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    assert all(cell["outputs"] for cell in CELLS[1:])


def test_the_notebook_needs_no_repository(tmp_path, monkeypatch, without_figures):
    """Elsewhere than in docs/ it trains its net, here for two steps in this process."""
    monkeypatch.chdir(tmp_path)

    original = subprocess.run

    def run(command, **options):
        if command[:4] != [sys.executable, "-m", "alexnet_jax", "train"]:
            return original(command, **options)
        return main.main([*command[4:], "--config.train.max_steps=2"])

    monkeypatch.setattr(subprocess, "run", run)
    names: dict = {}
    notebook.execute(CELLS[0], names)
    [shown] = notebook.execute(CELLS[1], names)
    assert "quickstart after 2 steps" in "".join(shown["text"])
    assert not [cell for cell in CELLS if "docs/" in "".join(cell["source"])]


def test_released_weights_are_small_and_those_of_their_cards():
    released = list((DOCS / "weights").rglob("*.safetensors"))
    shipped = list(trained.SHIPPED.glob("*.safetensors"))
    assert (len(released), len(shipped)) == (38, 1)
    for path in (*released, *shipped):
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        limit = 4_000_000 if path in shipped else 1_000_000
        assert path.stat().st_size < limit and files.sha256_of(path) == card["sha256"]
        assert card["commit"] and not card["uncommitted_changes"]


@pytest.mark.parametrize("name", ["quickstart-seed0-step450", "series/scales-digits-seed2-step899"])
def test_released_nets_do_as_well_as_their_cards_say(name):
    result = verify.verify(DOCS / "weights" / f"{name}.safetensors", evaluate=True)
    assert "measured again" in result
