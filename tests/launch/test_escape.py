"""Which runs leave the plateau at ln(classes): run folders as after training, with made-up losses."""

import csv
import json
import math

import pytest

from alexnet_jax import config
from alexnet_jax.errors import DataError
from configs import sweeps
from launch import escape, runs, sweep

PLATEAU = math.log(10)
ALIVE = {"host": "here", "heartbeat": "2012-09-30T12:00:00Z"}
MEMBERS = {member.name: member for member in sweeps.members("init", "digits")}


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch):
    monkeypatch.chdir(runs.ROOT)


def made(out, member: str, seed: int, losses=(), state="finished", code=0, signal=0.5) -> runs.Run:
    """Write a run whose mean losses of steps 10, 20 ... are shares of ln(10), and that ended in `state`."""
    _, argument, overrides, _ = MEMBERS[member]
    run = runs.run(member, argument, overrides, seed, out)
    run.folder.mkdir(parents=True)
    loaded = config.load(run.config, list(run.overrides))
    (run.folder / "config.json").write_text(config.to_json(loaded))
    lines = [
        {"step": 10 * i, "epoch": i / 10, "train_loss": share * PLATEAU}
        for i, share in enumerate(losses, 1)
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    status = {"state": state, "code": code, "saved_step": 0} | ALIVE
    (run.folder / "status.json").write_text(json.dumps(status))
    rows = [{"row": "input", "example_rms": 60.0}, {"row": "fc8", "example_rms": signal}]
    (run.folder / "signal.json").write_text(json.dumps({"step": 0, "rows": rows}))
    if state == "finished":
        (run.folder / "results.json").write_text("{}")
    else:
        runs.write_record(run, starts=[{"time": "t", "code": code, "saved_step": 0}])
    return run


def waiting(out, member: str, seed: int) -> runs.Run:
    _, argument, overrides, _ = MEMBERS[member]
    return runs.run(member, argument, overrides, seed, out)


@pytest.fixture
def every(tmp_path):
    """Each outcome: left, stayed, diverged before and after leaving, crashed, and not begun."""
    base, small = "std_003_bias_1", "std_he_bias_0.1_batch_8"
    return [
        made(tmp_path, base, 0, [1.0, 0.98, 0.96, 0.5], signal=0.1),
        made(tmp_path, base, 1, [1.0, 1.0, 0.99, 0.971], signal=0.3),
        made(tmp_path, base, 2, [1.0, 5.0], "diverged", 4, signal=0.2),
        made(tmp_path, small, 0, [0.9, 1.0]),
        made(tmp_path, small, 1, [1.0, 0.9, 5.0], "diverged", 4),
        made(tmp_path, small, 2, [1.0, 0.9], "failed", 7),
        waiting(tmp_path, small, 3),
    ]


def test_outcomes_of_runs(every):
    assert [escape.escape(run)[:3] for run in every] == [
        ("left", 30, 0.3),
        ("stayed", 40, 0.4),
        ("diverged", 20, 0.2),
        ("left", 10, 0.1),  # although it came back
        ("left", 20, 0.2),  # although it diverged later
        ("unfinished", 20, 0.2),  # although it left before it crashed
        ("unfinished", 0, 0.0),
    ]


def test_cells_have_the_factors_and_the_median(every):
    base, small = escape.read(every)
    assert (base.weights, base.bias, base.batch_size) == ("0.03", 1.0, 32)
    assert (small.weights, small.bias, small.batch_size) == ("He", 0.1, 8)
    assert base.signal == 0.2
    # Two of three have not left: the median lies beyond the shortest budget.
    assert (
        base.median_in_words("step") == "after 20" and base.median_in_words("epoch") == "after 0.20"
    )
    assert len(small.counted) == 2 and small.median("step") == 20


def test_the_three_files_say_the_same(every, tmp_path):
    text, table, figure = escape.collect(every, "init digits")
    said = text.read_text()
    assert "| 0.03 | 1 | 32 | 3 of 3 | 1 | 1% to 91% | after 20 | after 0.20 | 0.2 |" in said
    assert "| He | 0.1 | 8 | 2 of 4 | 2 | 16% to 100% | 20 | 0.20 | 0.5 |" in said
    assert "1 of 5 runs ended their budget on the plateau" in said
    assert "might have left later; 1 diverged.\n2 more are unfinished" in said
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["outcome"] for row in rows] == [escape.escape(run).outcome for run in every]
    assert rows[0] | {"weights": "0.03", "step": "30", "signal": "0.1"} == rows[0]
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_nothing_to_report_and_other_sweeps_are_refused(tmp_path):
    with pytest.raises(DataError, match="no run of init digits has ended"):
        escape.collect([waiting(tmp_path, "std_003_bias_1", 0)], "init digits")
    other = runs.run("no_lrn", "configs/ablations.py:no_lrn,digits", {}, 0, tmp_path)
    with pytest.raises(DataError, match="no_lrn is not a member of the sweep init"):
        escape.read([other])


def test_the_sweep_init_has_both_reports(tmp_path, capsys):
    made(tmp_path, "std_003_bias_1", 0, [1.0, 0.9], "diverged", 4)
    arguments = ["init", "--scale", "digits", "--out", str(tmp_path), "--collect", "--seeds", "1"]
    assert sweep.main([*arguments, "--only", "std_001_bias_1"]) == 0
    said = capsys.readouterr().out
    assert "| member | seeds | error |" in said
    assert "| 0.03 | 1 | 32 | 1 of 1 | 1 |" in said and "| 0.01 | 1 | 32 | 0 of 1 |  |" in said
    assert {path.suffix for path in tmp_path.glob("init-digits-escape.*")} == {
        ".md",
        ".csv",
        ".png",
    }
