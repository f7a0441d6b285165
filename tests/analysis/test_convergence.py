"""Figure 1 from the logs of runs: the fastest run, the ratios, and the numbers of the figure."""

import json

import pytest
from PIL import Image

from alexnet_jax import config
from alexnet_jax.analysis import convergence
from alexnet_jax.analysis.convergence import Curve
from alexnet_jax.errors import AlexNetError, ConfigError, StorageError, WorkdirError


def curve(kind: str, rate: float, reached: float | None) -> Curve:
    epochs = [float(i) for i in range(1, 13)]
    errors = [0.25 if reached and epoch >= reached else 0.5 - epoch / 100 for epoch in epochs]
    return Curve(f"runs/{kind}_{rate}", kind, rate, epochs, errors)


CURVES = [
    curve("tanh", 0.001, 11),
    curve("tanh", 0.002, None),
    curve("relu", 0.001, 4),
    curve("relu", 0.002, 2),
]


def test_the_fastest_rate_of_each_kind_counts():
    best = convergence.fastest(CURVES)
    assert [(kind, best[kind].rate) for kind in best] == [("relu", 0.002), ("tanh", 0.001)]
    assert convergence.ratios(CURVES) == ["tanh takes 5.5 times the epochs of relu"]
    text = "\n".join(convergence.markdown(CURVES))
    assert "| tanh | 0.002 | not in 12 | 38.0% |" in text and "six times" in text


@pytest.mark.parametrize(
    ("errors", "reached"),
    [([0.5, 0.3, 0.2], 5.0), ([0.2, 0.1], 2.0), ([0.5, 0.25], 4.0), ([0.5, 0.3], None)],
)
def test_the_target_is_reached_where_the_drawn_line_crosses_it(errors, reached, tmp_path):
    one = Curve("run", "relu", 0.1, [2.0, 4.0, 6.0][: len(errors)], errors)
    assert one.epochs_to(0.25) == (None if reached is None else pytest.approx(reached))
    figure = convergence._draw([one], 0.25, ["two", "lines"])
    assert figure.axes[0].get_title() == "two\nlines"
    line, *crossing, _ = figure.axes[0].lines
    words = "not in 4" if reached is None else f"{reached:.2f}"
    assert line.get_label() == f"relu, rate 0.1: {words}"
    assert [mark.get_xydata()[0].tolist() for mark in crossing] == (
        [] if reached is None else [[pytest.approx(reached), 25.0]]
    )


@pytest.mark.parametrize(
    "curves, target, said",
    [
        ([CURVES[1], CURVES[3]], 0.25,
         ["tanh takes more than 6.0 times the epochs of relu, and has not reached 25%"]),
        (CURVES[2:], 0.25, []),
        (CURVES[:2], 0.1, ["none reaches 10%"]),
        ([*CURVES, curve("prelu", 0.1, 3)], 0.25,
         ["prelu takes 1.5 times the epochs of relu", "tanh takes 5.5 times the epochs of relu"]),
    ],
)  # fmt: skip
def test_ratios_in_words(curves, target, said):
    assert convergence.ratios(curves, target) == said


def run_folder(folder, activation, errors):
    folder.mkdir()
    loaded = config.load("tests/tiny.py", [f"--config.model.activation={activation}"])
    (folder / "config.json").write_text(config.to_json(loaded))
    lines = [{"step": i, "epoch": i / 2, "train_top1_error": e} for i, e in enumerate(errors, 1)]
    lines.insert(1, {"step": 1, "epoch": 0.5, "eval_test_center_top1_error": 0.1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_from_run_folders_to_the_figure_and_its_numbers(tmp_path, capsys):
    relu = run_folder(tmp_path / "relu", "relu", [0.4, 0.24, 0.1])
    tanh = run_folder(tmp_path / "tanh", "tanh", [0.6, 0.5, 0.25])
    convergence.main(["--workdir", str(tanh), str(relu), "--out", str(tmp_path / "out")])
    assert "tanh takes 1.5 times the epochs of relu." in capsys.readouterr().out
    with Image.open(tmp_path / "out/convergence.png") as picture:
        assert picture.size == (840, 480)
    numbers = json.loads((tmp_path / "out/convergence.json").read_text())
    assert [c["epochs_to_target"] for c in numbers["curves"]] == [1.5, 0.96875]
    assert numbers["curves"][1]["epochs"] == [0.5, 1.0, 1.5]
    assert (numbers["by"], numbers["target"]) == ("model.activation", 0.25)


def test_other_kinds_than_activations(tmp_path):
    folder = run_folder(tmp_path / "run", "tanh", [0.5])
    assert convergence.read(folder, "seed").kind == "0"
    assert convergence.read(folder, "name").kind == "tiny"


@pytest.mark.parametrize(
    "arguments, error, part",
    [
        (["--by", "model.nothing"], ConfigError, "--by model.nothing"),
        (["--by", "model"], ConfigError, "has no such value"),
        (["--target", "25"], ConfigError, "between 0 and 1"),
        (["--workdir", "{folder}/nowhere"], StorageError, "is not a run folder"),
        (["--workdir", "{folder}/empty"], WorkdirError, "train it further"),
        (["--out", "{folder}/relu/config.json"], StorageError, "cannot create the folder"),
    ],
)
def test_bad_input_is_named(tmp_path, arguments, error, part):
    run_folder(tmp_path / "relu", "relu", [0.4])
    run_folder(tmp_path / "empty", "relu", [])
    before = ["--workdir", "{folder}/relu", "--out", "{folder}/out"]
    with pytest.raises(AlexNetError) as raised:
        convergence.main([a.replace("{folder}", str(tmp_path)) for a in (*before, *arguments)])
    assert isinstance(raised.value, error) and part in str(raised.value)
