"""Tables from finished runs: run folders as after training, with made-up predictions."""

import csv
import json

import numpy as np
import pytest

from alexnet_jax import config
from alexnet_jax.errors import DataError
from alexnet_jax.inference import predictions
from configs import sweeps
from launch import collect, runs

IMAGES = 2000


def finished(run: runs.Run, error: float, seed: int) -> runs.Run:
    """Write a finished run with about this error; hard images are hard for all networks."""
    hard = np.random.default_rng(0).random(IMAGES)
    luck = np.random.default_rng(seed).normal(0, 0.1, IMAGES)
    score = hard + luck
    wrong = score > np.quantile(score, 1 - error)
    labels = np.arange(IMAGES) % 10
    answers = np.where(wrong, (labels + 1) % 10, labels)
    probabilities = np.full((IMAGES, 10), 0.01, np.float32)
    probabilities[np.arange(IMAGES), answers] = 0.91
    run.folder.mkdir(parents=True)
    errors = predictions.record(run.folder, "test", "center", 90, probabilities, labels)
    results: dict = {"step": 90, "epoch": 1.0, "config": "digits", "seconds": 9.0}
    results |= {"splits": {"test": {"center": errors}}}
    (run.folder / "results.json").write_text(json.dumps(results))
    status = {"state": "finished", "code": 0, "saved_step": 90}
    status |= {"host": "here", "heartbeat": "2012-09-30T12:00:00Z"}
    (run.folder / "status.json").write_text(json.dumps(status))
    return run


@pytest.fixture
def every(tmp_path):
    """Three seeds of a base, of an equal member and of one worse by 6 points; and an unfinished member."""
    found = []
    for number, (member, error) in enumerate((("base", 0.3), ("k_1", 0.3), ("no_lrn", 0.36))):
        for seed in range(3):
            run = runs.run(
                member, "configs/scales.py:digits", {"train.epochs": number + 1.0}, seed, tmp_path
            )
            found.append(finished(run, error, 100 * number + seed))
    return [*found, runs.run("tanh", "configs/ablations.py:tanh,digits", {}, 0, tmp_path)]


def test_differences_come_with_intervals_and_what_was_published(every):
    base, same, worse, missing = collect.rows(every)
    assert base.difference is None and base.p is None
    assert base.top1 == pytest.approx([0.3] * 3) and len(base.top5) == 3
    assert same.difference and same.difference.low < 0 < same.difference.high
    assert worse.difference and worse.difference.mean == pytest.approx(0.06)
    assert worse.difference.low > 0.03
    assert worse.p is not None and same.p is not None and worse.p < 0.01 < same.p
    assert missing.top1 == () and missing.seeds == 1
    assert worse.claim and worse.claim.paper == "+1.4 / +1.2 (§3.3)"


def test_the_three_files_say_the_same(every, tmp_path):
    markdown, table, figure = collect.collect(every, "normalization digits")
    text = markdown.read_text()
    assert "| no_lrn | 3 of 3 | 36.00 ± 0.00 / " in text
    assert "percent of 2,000 images of test (center crop, last checkpoint), mean over seeds" in text
    assert "+6.00" in text and "#148" in text and "Holm's method for the 2 comparisons" in text
    rows = {row["member"]: row for row in csv.DictReader(table.read_text().splitlines())}
    assert float(rows["no_lrn"]["difference"]) == pytest.approx(0.06)
    assert rows["tanh"]["top1_error"] == "" and rows["tanh"]["seeds"] == "0"
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_one_seed_says_so_and_nothing_finished_is_a_table_too(every):
    rows = collect.rows([every[0], every[6], every[9]])
    assert "1 of 1 | 30.00 / " in collect.markdown(rows, "t")
    assert rows[1].difference
    assert collect.rows(every[9:])[0].difference is None
    unfinished = runs.run("base", "configs/scales.py:digits", {}, 7, every[0].out)
    without_base = collect.rows([unfinished, *every[3:9]])
    assert [row.difference for row in without_base] == [None] * 3
    assert [row.p for row in without_base] == [None] * 3


def test_figure_1_is_collected_from_finished_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(runs.ROOT)
    every = [
        runs.run(member.name, member.config, member.overrides, 0, tmp_path)
        for member in sweeps.members("figure1", "digits")
    ]
    with pytest.raises(DataError, match="no run of figure1 digits is finished"):
        collect.figure1(every, "figure1 digits")
    for run, error in ((every[0], 0.2), (every[-1], 0.24)):
        finished(run, 0.3, 0)
        loaded = config.load(run.config, list(run.overrides))
        (run.folder / "config.json").write_text(config.to_json(loaded))
        lines = [{"step": 1, "epoch": 2.0, "train_top1_error": error}]
        lines.insert(0, {"step": 1, "epoch": 1.0, "train_top1_error": error + 0.04})
        (run.folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    text, numbers, figure = collect.figure1(every, "figure1 digits")
    # From 28 % at epoch 1 to 24 % at epoch 2 the line is at 25 % at 1.75.
    assert "| tanh | 0.004 | 1.75 | 24.0% |" in text.read_text()
    names = [curve["run"] for curve in json.loads(numbers.read_text())["curves"]]
    assert names == ["relu_0.0005", "tanh_0.004"]
    assert figure.read_bytes().startswith(b"\x89PNG")
