"""The notebooks of docs/notebooks, executed cell by cell."""

import subprocess
import sys

import pytest

from alexnet_jax import main
from tests.docs import notebook

TINY = notebook.FOLDER.parents[1] / "tests" / "tiny.py"
NAMES = sorted(path.stem for path in notebook.FOLDER.glob("*.ipynb"))


def cells_of(name):
    return notebook.code_cells(notebook.read(name))


def kinds(outputs):
    return [output["output_type"] for output in outputs]


def executed(name, smaller=lambda names: {}) -> tuple[dict, list]:
    """The names that a notebook defines, and the outputs of its cells, which are of the kinds that are stored in it.

    smaller: Returns other values for names that the first cell sets, so that there is less to do.
    """
    names, cells = {}, cells_of(name)
    outputs = [notebook.execute(cells[0], names)]
    names |= smaller(names)
    outputs += [notebook.execute(cell, names) for cell in cells[1:]]
    assert list(map(kinds, outputs)) == [kinds(cell["outputs"]) for cell in cells]
    return names, outputs


@pytest.fixture
def at_docs(monkeypatch):
    """In the folder of the notebooks, which has the released weights beside it."""
    monkeypatch.chdir(notebook.FOLDER)


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_outputs_are_small_and_in_order(name):
    cells = cells_of(name)
    assert (notebook.FOLDER / f"{name}.ipynb").stat().st_size < 300_000
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell["outputs"]) for cell in cells) >= 3
    assert not [cell for cell in cells if "docs/" in "".join(cell["source"])]


def test_the_tour_shows_what_is_stored_in_it(at_docs):
    names, outputs = executed("tour")
    assert outputs[1] == cells_of("tour")[1]["outputs"]
    assert "quickstart after 450 steps" in str(outputs[1])
    assert len(names["wrong"]) / len(names["labels"]) < 0.02
    assert [found[0] for found in names["nearest"]] == names["queries"]
    alike = names["labels"][names["nearest"]] == names["labels"][names["queries"]][:, None]
    assert alike.mean() > 0.9


@pytest.mark.full
def test_conv1_becomes_what_it_is_at_the_end(at_docs):
    names, _ = executed(
        "conv1",
        lambda names: {"STEPS": [0, 899], "nets": {0: names["nets"][0], 899: names["last"]}},
    )
    assert names["alike"][-1] == pytest.approx(1, abs=1e-6) and names["alike"][0] < 0.9
    assert names["errors"][0] > 0.8 and names["errors"][-1] < 0.15
    # The last net with its own conv1 is itself, from both sides.
    assert names["earlier"][-1] == names["later"][-1] == names["errors"][-1]
    assert names["later"][0] > 0.8  # a good conv1 alone classifies nothing


@pytest.mark.full
def test_the_ablations_train_and_are_compared(tmp_path, monkeypatch, bare_runs):
    monkeypatch.chdir(tmp_path)
    original = main.main
    monkeypatch.setattr(main, "main", lambda args: original([*args, "--config.train.max_steps=2"]))
    names, _ = executed(
        "ablations",
        lambda names: {
            "SEEDS": 1,
            "CONFIGS": {name: names["CONFIGS"][name] for name in ("base", "no LRN")},
        },
    )
    assert list(names["errors"]) == list(names["CONFIGS"])
    assert all(len(errors) == 1 and 0 < errors[0] <= 100 for errors in names["errors"].values())


def test_the_tour_needs_no_repository(tmp_path, monkeypatch, bare_runs):
    """Elsewhere than in the repository it trains its net, here the tiny one for two steps in this process."""
    monkeypatch.chdir(tmp_path)
    original = subprocess.run

    def run(command, **options):
        if command[:4] != [sys.executable, "-m", "alexnet_jax", "train"]:
            return original(command, **options)
        arguments = [str(TINY) if word == "quickstart" else word for word in command[4:]]
        return main.main([*arguments, "--config.train.max_steps=2"])

    monkeypatch.setattr(subprocess, "run", run)
    names: dict = {}
    first, second, *_ = cells_of("tour")
    notebook.execute(first, names)
    [shown] = notebook.execute(second, names)
    assert "tiny after 2 steps" in "".join(shown["text"])


@pytest.mark.full
def test_lesions_hurt_and_the_last_layers_decide(at_docs):
    names, _ = executed(
        "lesion", lambda names: {name: names[name][:40] for name in ("pictures", "labels")}
    )
    assert names["whole"] < 0.02
    assert names["errors"][names["worst"]] > names["whole"]
    assert names["by_activity"][0] == names["whole"] and names["by_activity"][-1] > 0.8
    source = names["net"].predict(names["pictures"][names["eight"]])[0, 8]
    assert [found for found, _ in names["moved"].values()] == pytest.approx([source] * 7, abs=1e-5)


@pytest.mark.full
def test_seeds_agree_more_after_training(at_docs):
    names, _ = executed("seeds", lambda _: {"LAYERS": ["conv1", "fc7"]})
    assert sorted(names["partners"]) == list(range(6))
    assert names["cosines"].mean() > names["by_chance"].mean()
    assert names["both"] > names["errors"][0] * names["errors"][1]
    assert names["trained"][1, 1] > names["random"][1, 1] + 0.2
