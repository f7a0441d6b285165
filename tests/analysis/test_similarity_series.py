"""Checkpoints of a run, compared with the last one."""

import json

import pytest

from alexnet_jax import main as training
from alexnet_jax.analysis import similarity, similarity_inputs, similarity_measures
from alexnet_jax.analysis.similarity_inputs import Net
from alexnet_jax.errors import ConfigError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of six steps with checkpoints of steps 0, 1, 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    training.main([
        "--config", "tests/tiny.py", "--workdir", str(folder), "--config.train.max_steps=6",
        "--config.train.keep_powers_of_two=true", "--config.train.log_every=1",
    ])  # fmt: skip
    return folder


def test_layers_approach_their_last_state(run, tmp_path, capsys):
    similarity.main(["--nets", f"{run}@all", "--count", "60", "--resamples", "20", "--permutations",
                     "19", "--out", str(tmp_path)])  # fmt: skip
    report, said = json.loads((tmp_path / "similarity.json").read_text()), capsys.readouterr().out
    [series] = report["settling"]
    assert series["run"] == str(run) and series["steps"] == [0, 1, 2, 4, 6]
    assert report["pairs"] == [] and [net["step"] for net in report["nets"]] == series["steps"]
    assert series["epochs"] == pytest.approx([32 * step / 382 for step in series["steps"]])
    for layer in series["layers"].values():
        values = [one["value"] for one in layer["cka"]]
        assert len(values) == 4 and max(values) == values[-1] < 1
        assert all(one["low"] <= one["value"] <= one["high"] for one in layer["rdm"])
        above = [
            step for step, value in zip(series["steps"], [*values, 1], strict=True) if value >= 0.9
        ]
        assert layer["settled"] == above[0]
    assert json.loads((tmp_path / "settling.json").read_text())["runs"] == report["settling"]
    assert (tmp_path / "settling.png").stat().st_size > 10_000
    assert f"{run}: 5 checkpoints, compared with the last, of step 6" in said


def test_names_of_checkpoints(run):
    assert similarity_inputs.checkpoints_of(str(run)) == [(str(run), None)]
    assert similarity_inputs.checkpoints_of(f"{run}@4") == [(str(run), 4)]
    assert similarity_inputs.checkpoints_of(f"{run}@best") == [(str(run), "best")]
    assert [step for _, step in similarity_inputs.checkpoints_of(f"{run}@all")] == [0, 1, 2, 4, 6]
    (run.parent / "odd@4").symlink_to(run)
    assert similarity_inputs.checkpoints_of(f"{run.parent}/odd@4") == [
        (f"{run.parent}/odd@4", None)
    ]


def test_a_checkpoint_named_twice_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match=r"names a net twice: .*tiny"):
        similarity.main(["--nets", f"{run}@6", str(run), "--out", str(tmp_path / "out")])


def test_what_is_compared():
    """Earlier checkpoints with the last of their run, and the last ones of two runs layer by layer."""
    layers = {"conv1": 1, "fc6": 1}
    nets = [Net(path, step, step, "", 0, layers) for path, step in (("a", 9), ("b", 1), ("a", 4))]
    assert similarity_measures.series(nets) == [[2, 0], [1]]
    order = [(i, name) for i in range(3) for name in layers]
    pairs = similarity_measures.compared(nets, order)
    named = [(order[first], order[second]) for first, second in pairs]
    earlier = [((2, name), (0, name)) for name in layers]
    assert named == [*earlier, *(((0, a), (1, b)) for a in layers for b in layers)]
