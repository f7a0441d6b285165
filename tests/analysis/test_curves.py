"""Learning curves from complete, short and damaged metrics.jsonl."""

import json

import pytest
from PIL import Image

from alexnet_jax.analysis import curves
from alexnet_jax.errors import WorkdirError


def train_line(step, **changes):
    row = dict(step=step, epoch=step / 10, time=0.0, train_loss=2.0 / step, train_top1_error=0.5)
    row |= dict(learning_rate=0.01, grad_norm=1.0, images_per_second=9.0, data_wait_fraction=0.0)
    return row | changes


def evaluation_line(step, **changes):
    row = dict(step=step, epoch=step / 10, time=0.0)
    measures = dict(top1_error=0.4, top5_error=0.1, nll=1.2)
    return row | {f"eval_val_center_{name}": value for name, value in measures.items()} | changes


def write(folder, rows, ending=""):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + ending)
    return folder


def test_a_picture_and_the_same_numbers_are_written(tmp_path):
    rows = [train_line(10), train_line(20), evaluation_line(20, eval_test_ten_top1_error=0.3)]
    path = curves.plot(write(tmp_path, rows))
    assert path == tmp_path / "figures" / "curves.png"
    with Image.open(path) as picture:
        assert picture.size == (840, 960)
    numbers = json.loads((tmp_path / "figures" / "curves.json").read_text())
    assert numbers["train"]["train_loss"] == [0.2, 0.1]
    assert numbers["train"]["epoch"] == [1.0, 2.0]
    assert numbers["evaluations"]["val_center"]["top5_error"] == [0.1]
    assert numbers["evaluations"]["test_ten"] == {
        "step": [20], "epoch": [2.0], "top1_error": [0.3], "top5_error": [None], "nll": [None],
    }  # fmt: skip


@pytest.mark.parametrize(
    "rows",
    [[], [train_line(1)], [evaluation_line(1)], [train_line(1, learning_rate=0.0)]],
    ids=["nothing", "one step", "evaluations only", "rate zero"],
)
def test_few_lines_still_make_a_picture(tmp_path, rows):
    assert curves.plot(write(tmp_path, rows)).stat().st_size > 0


def test_a_loss_that_is_not_finite_leaves_a_gap(tmp_path):
    rows = [train_line(1), train_line(2, train_loss=float("nan")), train_line(3)]
    curves.plot(write(tmp_path, rows))
    numbers = json.loads((tmp_path / "figures" / "curves.json").read_text())
    assert numbers["train"]["train_loss"][1] is None


def test_a_last_line_cut_short_is_left_out(tmp_path):
    found = curves.read(write(tmp_path, [train_line(1), train_line(2)], ending='{"step": 3, "ep'))
    assert found["train"]["step"] == [1, 2]


@pytest.mark.parametrize(
    "damaged",
    [b"{broken", b'{"step": 2}\xff', b'{"step": "2"}', b"[]", b"[" * 9000, b'{"step": ' + b"9" * 400 + b"}",
     b'{"step": 200, "train_loss": 1.0}', b'{"step": 2, "eval_val_center_top1_error": "x"}'],
    ids=["no JSON", "no UTF-8", "a text", "a list", "depth", "a long number", "a later step", "an error in words"],
)  # fmt: skip
def test_a_damaged_line_is_named_and_left_out(tmp_path, caplog, damaged):
    write(tmp_path, [train_line(1)])
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(damaged + b"\n" + json.dumps(train_line(3)).encode() + b"\n")
    found = curves.read(tmp_path)
    assert found["train"]["step"] == [1, 3]
    (said,) = caplog.messages
    assert "metrics.jsonl is damaged and was read without line 2 (" in said and "\n" not in said


def test_a_folder_without_metrics_is_no_run(tmp_path):
    with pytest.raises(WorkdirError, match="must be a run folder"):
        curves.plot(tmp_path)


def test_the_command_prints_the_path(tmp_path, capsys):
    write(tmp_path, [train_line(1)])
    curves.main(["--workdir", str(tmp_path)])
    assert capsys.readouterr().out.strip() == str(tmp_path / "figures" / "curves.png")


@pytest.mark.parametrize(
    ("rates", "labels"),
    [([0.02, 0.002], {"0.002", "0.005", "0.01", "0.02"}), ([1, 1e-5], {"1", "0.01", "0.0001"})],
)
def test_learning_rates_are_plain_numbers(rates, labels):
    train = {"epoch": [1.0, 2.0], "train_loss": [1.0, 1.0], "train_top1_error": [0.5, 0.5]}
    figure = curves._draw({"train": train | {"learning_rate": rates}, "evaluations": {}})
    figure.canvas.draw()
    shown = {text.get_text() for text in figure.axes[2].get_yticklabels()}
    assert shown >= labels and not any("$" in text for text in shown)
