"""The log of a run: metrics.jsonl and what a resumed run keeps of it, and sinks that fail."""

import errno
import inspect
import io
import json
import os

import pytest

from alexnet_jax.errors import StorageError
from alexnet_jax.train import log as logs
from alexnet_jax.train.log import Log, MetricsFile, RunLog, cut_back
from alexnet_jax.train.meter import Meter

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
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0)
    metrics.add(4, 1.0, {"train_loss": 2.0})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*metrics.jsonl: No space left"):
        metrics.write_line()
    metrics.close()


@pytest.mark.fault("F50")
def test_tensorboard_and_log_txt_that_cannot_be_written_change_nothing(tmp_path):
    (tmp_path / "tensorboard").symlink_to("/dev/full")
    (tmp_path / "log.txt").symlink_to("/dev/full")
    log = Log(tmp_path, 4, 48)
    log.say("a line")
    log.train(8, 48, 32, 2.0, VALUES)
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
            patch.setattr(log._board._writer, name, fail)
        log.train(4, 48, 32, 1.0, VALUES)
        log.flush()
    log.close()
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [4]


def test_what_is_said_is_printed_and_kept_in_log_txt(tmp_path, capsys):
    log = Log(tmp_path, 0, 48)
    log.say("two\nlines")
    log.train(24, 48, 32, 2.0, VALUES)
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

    monkeypatch.setattr(logs.sys, "stderr", terminal := Terminal())
    log, meter = Log(tmp_path, 0, 48), Meter()
    log.progress(1, meter, 32)  # nothing was read yet
    meter.recent.append({"step": 3, "loss": 2.5, "grad_norm": 1.0})
    log.progress(4, meter, 32)
    log.say("a line")
    log.train(4, 48, 32, 1.0, VALUES)
    log.close()
    assert "a line" in terminal.getvalue() and "loss 2.500" in terminal.getvalue()
    assert capsys.readouterr().out == ""
    assert "step 4/48" in (tmp_path / "log.txt").read_text()


def test_the_log_of_other_processes_takes_the_same_calls():
    names = [name for name in vars(RunLog) if not name.startswith("_")]
    assert len(names) == 6
    for name in names:
        expected = inspect.signature(getattr(RunLog, name)).parameters
        assert name in vars(Log)
        assert list(inspect.signature(getattr(Log, name)).parameters) == list(expected), name
    silent = RunLog()
    silent.train(4, 48, 32, 1.0, VALUES)
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
