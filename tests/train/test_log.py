"""The log of a run: metrics.jsonl and what a resumed run keeps of it, and sinks that fail."""

import csv
import errno
import inspect
import io
import json
import os
import sys
import types

import pytest
from tensorboardX.proto.event_pb2 import Event

from alexnet_jax.errors import StorageError
from alexnet_jax.train import log as logs
from alexnet_jax.train import terminal, writers
from alexnet_jax.train.log import Log, RunLog
from alexnet_jax.train.meter import Meter
from alexnet_jax.train.writers import JsonLines, cut_back

VALUES = {
    "train_loss": 2.0, "train_top1_error": 0.5, "learning_rate": 0.01, "images_per_second": 100.0,
    "data_wait_fraction": 0.25, "batch_hash": "ab",
}  # fmt: skip
ERRORS = {"count": 100, "top1_error": 0.25, "top5_error": 0.05, "nll": 1.5}


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path):
    """metrics.jsonl of steps 4, 8 and 12."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}, "epoch": {step / 4}}}\n' for step in (4, 8, 12)))
    return path


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (4, 1), (7, 1), (8, 2), (12, 3), (99, 3)])
def test_lines_after_the_step_are_removed(path, step, kept):
    found, damage = cut_back(path, step)
    assert [line["step"] for _, line in found if not isinstance(line, str)] == [4, 8, 12][:kept]
    assert len(lines(path)) == kept and damage is None


def test_a_new_run_has_no_lines(tmp_path):
    assert cut_back(tmp_path / "metrics.jsonl", 0) == ([], None)


def test_all_values_of_a_step_share_a_line_that_the_next_step_or_flush_writes(tmp_path):
    log, path = Log(tmp_path, 0, 48), tmp_path / "metrics.jsonl"
    log.metrics(4, 1.0, {"train_loss": 2.0})
    log.metrics(4, 1.0, {"eval_val_center_nll": 1.5})
    assert path.read_text() == ""
    log.metrics(8, 2.0, {"train_loss": 1.0})
    (first,) = lines(path)
    assert first.pop("time") > 0
    assert first == {"step": 4, "epoch": 1.0, "train_loss": 2.0, "eval_val_center_nll": 1.5}
    log.flush()
    log.flush()
    assert [line["step"] for line in lines(path)] == [4, 8]
    log.close()


def test_a_line_that_was_not_flushed_is_dropped(tmp_path):
    log = Log(tmp_path, 0, 48)
    log.metrics(4, 1.0, {"train_loss": 2.0})
    log.close()
    assert lines(tmp_path / "metrics.jsonl") == []


def test_the_line_of_an_interrupted_evaluation_is_replaced(path, tmp_path):
    log = Log(tmp_path, 12, 48, unfinished=True)
    log.metrics(12, 3.0, {"eval_val_center_nll": 1.5})
    assert lines(path)[-1] == {"step": 12, "epoch": 3.0}, (
        "until the line is whole, the old one stays"
    )
    log.metrics(16, 4.0, {"train_loss": 1.0})
    log.flush()
    log.close()
    assert [line["step"] for line in lines(path)] == [4, 8, 12, 16]
    assert lines(path)[2]["eval_val_center_nll"] == 1.5


def test_a_line_of_another_step_is_not_replaced(path, tmp_path):
    log = Log(tmp_path, 10, 48, unfinished=True)
    log.metrics(10, 2.5, {"eval_val_center_nll": 1.5})
    log.flush()
    log.close()
    assert [line["step"] for line in lines(path)] == [4, 8, 10]


def test_metrics_that_cannot_be_written_are_an_error(tmp_path, monkeypatch):
    metrics = JsonLines(tmp_path / "metrics.jsonl", 0)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*metrics.jsonl: No space left"):
        metrics.write({"step": 4, "epoch": 1.0, "train_loss": 2.0})
    metrics.close()


@pytest.mark.fault("F50")
def test_tensorboard_and_log_txt_that_cannot_be_written_change_nothing(tmp_path):
    (tmp_path / "tensorboard").symlink_to("/dev/full")
    (tmp_path / "log.txt").symlink_to("/dev/full")
    log = Log(tmp_path, 4, 48)
    log.say("a line")
    log.train(8, 32, 2.0, VALUES)
    log.flush()
    log.close()
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [8]


@pytest.mark.fault("F50")
def test_a_tensorboard_writer_that_fails_later_changes_nothing(tmp_path, monkeypatch):
    log = Log(tmp_path, 0, 48)

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        for name in ("write_event", "flush"):
            patch.setattr(log._writers["tensorboard"]._writer, name, fail)
        log.train(4, 32, 1.0, VALUES)
        log.flush()
    log.close()
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [4]


def test_an_error_of_a_writer_is_printed_once_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    class Offline:
        def __init__(self, workdir, next_step):
            self.calls = 0

        def write(self, row):
            self.calls += 1
            raise RuntimeError("no\nnetwork")

        def close(self):
            raise RuntimeError("not open")

    monkeypatch.setitem(writers.WRITERS, "offline", Offline)
    log = Log(tmp_path, 0, 48, writers=("offline", "csv"))
    log.metrics(4, 1.0, {"train_loss": 2.0})
    log.metrics(8, 2.0, {"train_loss": 1.0})
    log.flush()
    offline = log._writers["offline"]
    log.close()
    assert isinstance(offline, Offline) and offline.calls == 2
    assert [row["step"] for row in rows(tmp_path)] == ["4", "8"]
    said = capsys.readouterr().out.splitlines()
    assert said == ["warning: no metrics could be written to offline: no network"]


def rows(folder) -> list[dict]:
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_column_for_each_metric_also_for_those_that_come_later(tmp_path):
    log = Log(tmp_path, 0, 48, writers=("csv",))
    log.metrics(4, 1.0, {"train_loss": 2.0})
    log.flush()
    log.metrics(8, 2.0, {"train_loss": 1.0})
    log.metrics(8, 2.0, {"eval_val_center_nll": 1.5})
    log.flush()
    log.metrics(12, 3.0, {"train_loss": 0.5})
    log.flush()
    found = [{key: row[key] for key in row if key != "time"} for row in rows(tmp_path)]
    assert [list(row.values()) for row in found] == [
        ["4", "1.0", "2.0", ""], ["8", "2.0", "1.0", "1.5"], ["12", "3.0", "0.5", ""]
    ]  # fmt: skip
    assert list(found[0]) == ["step", "epoch", "train_loss", "eval_val_center_nll"]
    log.close()


@pytest.mark.parametrize("unfinished", [False, True])
def test_csv_of_a_resumed_run_is_that_of_metrics_jsonl(path, tmp_path, unfinished):
    (tmp_path / "metrics.csv").write_text('step,epoch\n4,1.0\n8,2.0\n12,3.0\n16,"torn')
    log = Log(tmp_path, 8, 48, unfinished=unfinished, writers=("csv",))
    if unfinished:
        log.metrics(8, 2.0, {"eval_val_center_nll": 1.5})
    log.metrics(16, 4.0, {"train_loss": 1.0})
    log.flush()
    log.close()
    assert [row["step"] for row in rows(tmp_path)] == ["4", "8", "16"]
    for row, line in zip(rows(tmp_path), lines(path), strict=True):
        assert {key: value for key, value in row.items() if value} == {
            key: str(value) for key, value in line.items()
        }


@pytest.mark.parametrize(("unfinished", "start"), [(False, 13), (True, 12)])
def test_tensorboard_drops_what_a_resumed_run_writes_again(path, tmp_path, unfinished, start):
    log = Log(tmp_path, 12, 48, unfinished=unfinished)
    log.metrics(12 if unfinished else 16, 3.0, {"eval_val_center_nll": 1.5})
    log.flush()
    log.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    events = [Event.FromString(record) for record in records(file.read_bytes())]
    session = next(event for event in events if event.HasField("session_log"))
    assert session.step == start
    tags = [value.tag for event in events for value in event.summary.value]
    assert tags == ["eval_val_center_nll"]


def records(data: bytes):
    """The records of a file of TFRecords: a length of 8 bytes, 4 of its checksum, the record, 4 of its checksum."""
    while data:
        length = int.from_bytes(data[:8], "little")
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_what_is_said_is_printed_and_kept_in_log_txt(tmp_path, capsys):
    log = Log(tmp_path, 0, 48)
    log.say("two\nlines")
    log.train(24, 32, 2.0, VALUES)
    log.evaluation(24, 2.0, "val", "center", ERRORS)
    log.close()
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["two", "lines"]
    assert said[2] == (
        "step 24/48  epoch 2.00  loss 2.0000  error 50.0%  rate 0.01  100.0 images/s  data wait 25%  8 s left"
    )
    assert said[3] == (
        "step 24  epoch 2.00  val (center): top1 error 25.00%  top5 error 5.00%  nll 1.5000"
    )
    kept = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in kept] == said


def test_a_terminal_has_a_bar_in_place_of_the_lines_of_steps(tmp_path, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", stderr := Terminal())
    log, meter = Log(tmp_path, 0, 48), Meter()
    log.progress(1, meter, 32)  # nothing was read yet
    meter.recent.append({"step": 3, "loss": 2.5, "grad_norm": 1.0})
    log.progress(4, meter, 32)
    log.say("a line")
    log.train(4, 32, 1.0, VALUES)
    log.close()
    assert "a line" in stderr.getvalue() and "loss 2.500" in stderr.getvalue()
    assert capsys.readouterr().out == ""
    assert "step 4/48" in (tmp_path / "log.txt").read_text()


def test_a_notebook_has_a_bar_that_is_replaced_in_place(tmp_path, capsys, monkeypatch):
    shown = []

    class Handle:
        def update(self, content):
            shown[-1] = content

    def display(content, display_id):
        assert display_id is True
        shown.append(content)
        return Handle()

    notebook = types.ModuleType("IPython")
    notebook.display = types.ModuleType("IPython.display")
    notebook.display.HTML, notebook.display.display = str, display
    notebook.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", notebook.display)
    log, meter = Log(tmp_path, 0, 48), Meter()
    assert len(shown) == 1 and "0/48" in shown[0] and "compiling" in shown[0]
    meter.recent.append({"step": 3, "loss": 2.5, "grad_norm": 1.0})
    log.progress(4, meter, 32)
    log.say("a line")
    log.train(4, 32, 1.0, VALUES)
    log.close()
    assert len(shown) == 1 and "4/48" in shown[0] and "loss 2.500" in shown[0]
    assert capsys.readouterr().out == "a line\n", "the lines of steps are in log.txt alone"


def test_ipython_in_a_terminal_is_no_notebook(monkeypatch):
    shell = types.SimpleNamespace(get_ipython=object)
    monkeypatch.setitem(sys.modules, "IPython", shell)
    assert terminal.progress_bar(0, 48) is None


def test_the_log_of_other_processes_takes_the_same_calls():
    names = [name for name in vars(RunLog) if not name.startswith("_")]
    assert len(names) == 6
    for name in names:
        expected = inspect.signature(getattr(RunLog, name)).parameters
        assert name in vars(Log)
        assert list(inspect.signature(getattr(Log, name)).parameters) == list(expected), name
    silent = RunLog()
    silent.train(4, 32, 1.0, VALUES)
    silent.close()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45, "45 s"), (720, "12 min"), (51120, "14.2 h"), (440640, "5.1 days")],
)
def test_durations(seconds, text):
    assert logs.duration(seconds) == text


def test_the_summary_has_an_accuracy_for_each_split_and_view():
    results = {"config": "tiny", "step": 1000, "epoch": 4.0, "seconds": 8.0,
               "splits": {"val": {"center": ERRORS}, "test": {"ten": {**ERRORS, "count": 1000}}}}  # fmt: skip
    assert logs.summary(results).splitlines() == [
        "tiny: step 1,000, epoch 4.0, 8 s",
        "  val (center): accuracy 75.00%, top-1 error 25.00%, top-5 error 5.00%, nll 1.500, 100 images",
        "  test (ten): accuracy 75.00%, top-1 error 25.00%, top-5 error 5.00%, nll 1.500, 1,000 images",
    ]
