"""Disks that are full, fail or cannot be written, damaged checkpoints, and what is in the run folder."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax import files
from alexnet_jax.inference import checkpoints
from alexnet_jax.run import reading
from alexnet_jax.train import log, writers
from tests.reliability.compare import differences, leftovers, snapshot
from tests.reliability.starter import ROOT, killed_once_saved

TRAIN = [sys.executable, "-m", "tests.reliability.faults", "--config", "tests/tiny.py", "--workdir"]


def tree(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def last_line(outcome) -> str:
    return outcome.err.splitlines()[-1]


def in_own_mounts(script: str, timeout: float = 90) -> subprocess.CompletedProcess:
    """A shell script in a mount namespace of its own. Skips where the system allows none."""
    command = ["unshare", "-rm", "bash", "-euc", script]
    if shutil.which("unshare") is None or subprocess.run([*command[:-1], "true"]).returncode:
        pytest.skip("unshare -rm is not allowed here")
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=environment
    )


@pytest.mark.full
@pytest.mark.fault("F7", "F1")
def test_a_run_walks_back_past_damage_and_ends_with_the_same_bits(starter, golden, tmp_path):
    assert starter.run(tmp_path / "run", fault=killed_once_saved("train.step:33")).code == -9
    newest = tmp_path / "run" / "checkpoints" / "30"
    written = [path for path in (newest / "state").rglob("*") if path.is_file()]
    data = max(written, key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 3] ^= 4
    data.write_bytes(content)
    outcome = starter.run(tmp_path / "run")
    assert outcome.code == 0
    assert "E_CHECKPOINT" in outcome.out and ".bad-30" in outcome.out
    assert "continuing from step 24" in outcome.out
    assert (tmp_path / "run" / "checkpoints" / ".bad-30").is_dir()
    assert differences(golden, snapshot(tmp_path / "run")) == []


@pytest.mark.full
@pytest.mark.fault("F7")
def test_no_run_begins_from_scratch_where_a_checkpoint_was(starter, tmp_path):
    assert starter.run(tmp_path / "run", fault=killed_once_saved("train.step:8")).code == -9
    shutil.move(tmp_path / "run" / "checkpoints" / "6", tmp_path / "6")
    outcome = starter.run(tmp_path / "run")
    assert outcome.code == 5 and "step 6 was saved" in last_line(outcome)
    shutil.copytree(tmp_path / "6", tmp_path / "run" / "checkpoints" / "6")
    (tmp_path / "run" / "checkpoints" / "6" / "meta.json").write_text("{}")
    outcome = starter.run(tmp_path / "run")
    assert outcome.code == 5 and "no intact checkpoint" in last_line(outcome)


@pytest.mark.full
@pytest.mark.fault("F9")
def test_a_disk_too_small_is_refused_at_the_start(tmp_path):
    script = f"mount -t tmpfs -o size=40M tmpfs {tmp_path}; exec {' '.join(TRAIN)} {tmp_path}/run"
    done = in_own_mounts(script)
    assert done.returncode == 5, done.stderr
    assert "bytes and" in done.stderr and "are free" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.full
@pytest.mark.fault("F9")
def test_a_disk_that_fills_up_ends_the_run_and_leaves_its_checkpoints(tmp_path):
    (tmp_path / "mnt").mkdir()
    mount, kept = tmp_path / "mnt", tmp_path / "kept"
    script = f"""
        mount -t tmpfs -o size=80M tmpfs {mount}
        export ALEXNET_FAULT=train.step:20:sleep=3
        {" ".join(TRAIN)} {mount}/run > {tmp_path}/out 2> {tmp_path}/err & job=$!
        for i in $(seq 600); do test -d {mount}/run/checkpoints/18 && break; sleep 0.1; done
        dd if=/dev/zero of={mount}/fill bs=4k 2> /dev/null || true
        code=0; wait $job || code=$?
        cp -r {mount}/run {kept}
        rm {mount}/fill
        unset ALEXNET_FAULT
        {" ".join(TRAIN)} {mount}/run > /dev/null
        cp -r {mount}/run {tmp_path}/end
        exit $code"""
    done = in_own_mounts(script)
    error = (tmp_path / "err").read_text()
    assert done.returncode == 5, (done.stderr, error)
    assert "error[E_STORAGE]" in error.splitlines()[-1]
    assert "Traceback" not in error
    steps = checkpoints.committed_steps(kept / "checkpoints")
    assert steps[-1] == 18
    for step in steps:
        checkpoints.verify(kept / "checkpoints", step)
    assert checkpoints.committed_steps(tmp_path / "end" / "checkpoints")[-1] == 48
    assert not leftovers(tmp_path / "end")


@pytest.mark.full
@pytest.mark.fault("F9", "F10")
@pytest.mark.parametrize(
    "fault",
    ["save.state:3:raise=ENOSPC", "save.hashed:3:raise=EIO", "save.renamed:3:raise=EIO"],
)
def test_an_error_of_the_disk_that_passes_changes_nothing(starter, golden, tmp_path, fault):
    outcome = starter.run(tmp_path / "run", fault=fault, sabotage="retry_at_once")
    assert outcome.code == 0, outcome.err
    end = snapshot(tmp_path / "run")
    # On a full disk the best checkpoint may have made room.
    assert [name for name in differences(golden, end) if name.startswith(("48/", "metrics"))] == []
    assert not leftovers(tmp_path / "run")


@pytest.mark.fault("F10", "F11")
@pytest.mark.full
@pytest.mark.parametrize("kind", ["EIO", "ENOSPC"])
def test_a_last_checkpoint_that_cannot_be_saved_is_never_success(starter, tmp_path, status, kind):
    fault = ",".join(f"save.state:{n}:raise={kind}" for n in range(8, 13))
    outcome = starter.run(tmp_path / "run", fault=fault, sabotage="retry_at_once")
    assert outcome.code == 5
    assert "cannot save step 48" in last_line(outcome)
    said = status(tmp_path / "run")
    assert (said["state"], said["code"], said["saved_step"]) == ("failed", 5, 42)
    checkpoints.verify(tmp_path / "run" / "checkpoints", 42)
    assert not leftovers(tmp_path / "run")
    assert starter.run(tmp_path / "run").code == 0


@pytest.mark.fault("F18")
def test_a_disk_that_cannot_be_written_is_refused_before_jax_is_imported(tmp_path):
    script = f"""
        mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,ro {tmp_path}
        exec {sys.executable} -X importtime -m alexnet_jax.main --config tests/tiny.py --workdir {tmp_path}/a/run"""
    done = in_own_mounts(script)
    assert done.returncode == 5, done.stderr
    assert f"cannot write to {tmp_path}" in done.stderr.splitlines()[-1]
    assert not [line for line in done.stderr.splitlines() if line.endswith(" jax")]


@pytest.mark.full
@pytest.mark.fault("F18")
@pytest.mark.parametrize(
    "name",
    ["new\nline", *(pytest.param(n, marks=pytest.mark.full) for n in ("with space", "käfer-甲虫"))],
)
def test_any_name_of_a_run_folder_works(starter, golden, tmp_path, name):
    folder = tmp_path / name
    assert starter.run(folder, fault="train.step:14:kill").code == -9
    assert starter.run(folder).code == 0
    assert differences(golden, snapshot(folder)) == []
    refused = starter.run(folder, "--config.seed=1")
    assert refused.code == 2 and len(refused.err.splitlines()) == 1


@pytest.mark.fault("F20")
def test_a_finished_run_is_not_touched_by_a_second_start(starter, golden_folder):
    before = tree(golden_folder)
    outcome = starter.run(golden_folder)
    assert outcome.code == 0 and "already finished" in outcome.out
    assert tree(golden_folder) == before


@pytest.mark.full
@pytest.mark.fault("F7", "F20")
def test_a_finished_run_whose_checkpoint_is_damaged_is_trained_again(
    starter, golden, golden_folder, tmp_path
):
    shutil.copytree(golden_folder, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "48" / "statistics.npz").write_bytes(b"")
    outcome = starter.run(tmp_path / "run")
    assert outcome.code == 0 and "continuing from step 42" in outcome.out
    assert differences(golden, snapshot(tmp_path / "run")) == []


@pytest.mark.fault("F50")
@pytest.mark.parametrize("torn", ['{"step": 99', "\x00\x00\x00\n", '{"no": 1}\n'])
def test_a_torn_line_of_metrics_is_cut_off(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    whole = "".join(f'{{"step": {step}}}\n' for step in (4, 8, 12))
    path.write_text(whole + torn)
    assert len(writers.cut_back(path, 12)[0]) == 3
    assert path.read_text() == whole
    assert len(writers.cut_back(path, 8)[0]) == 2
    assert path.read_text() == whole[: whole.index('{"step": 12')]


@pytest.mark.fault("F50")
@pytest.mark.parametrize(
    "damaged",
    [b'{"step": 8, \xff}', b'{"stop": 8}', b"{}", b"\x00" * 11, b'{"step": 800}', b'{"step": 0}', b'{"step": 8',
     b'{"step": ' + b"9" * 400 + b"}", b"[" * 9000],
)  # fmt: skip
def test_a_damaged_line_of_metrics_is_named_and_costs_no_other(tmp_path, damaged):
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"step": %d}' % step for step in (2, 4, 8, 12, 16, 20)]
    lines[2] = damaged
    path.write_bytes(b"\n".join(lines) + b"\n" + b'{"step": 24')
    kept, said = writers.cut_back(path, 16)
    assert path.read_bytes() == b"\n".join(lines[:5]) + b"\n"
    assert [line["step"] for _, line in kept if not isinstance(line, str)] == [2, 4, 12, 16]
    assert said and f"{path} is damaged and was read without line 3 (" in said and "\n" not in said


@pytest.mark.fault("F50")
def test_a_run_goes_on_over_a_damaged_line_of_its_metrics(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 4}\n{"step": 8\xff}\n{"step": 12, "epoch": 3.0}\n{"step": 16}\n')
    sinks = log.Log(tmp_path, 12, 40, unfinished=True)
    sinks.metrics(12, 3.0, {"eval_val_center_top1_error": 0.5})
    sinks.metrics(16, 4.0, {"train_loss": 1.0})
    sinks.flush()
    sinks.close()
    assert "warning: " in (said := capsys.readouterr().out) and "without line 2 (" in said
    first, damaged, *rest = path.read_bytes().splitlines()
    assert (first, damaged) == (b'{"step": 4}', b'{"step": 8\xff}')
    assert [json.loads(line)["step"] for line in rest] == [12, 16]
    assert json.loads(rest[0])["eval_val_center_top1_error"] == 0.5
    assert [line["step"] for line in reading.read_metrics(tmp_path)] == [4, 12, 16]


@pytest.mark.full
@pytest.mark.fault("F50")
def test_sinks_that_fail_do_not_stop_a_run(starter, golden, golden_folder, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json.tmp").write_text("left by a killed start")
    (folder / "tensorboard").symlink_to("/dev/full")
    (folder / "log.txt").symlink_to("/dev/full")
    shutil.copy(golden_folder / "config.json", folder)
    assert starter.run(folder).code == 0
    assert differences(golden, snapshot(folder)) == []


@pytest.mark.fault("F12")
def test_a_checkpoint_of_the_first_schema_is_read_to_the_bit():
    """Kept in the repository: what later versions must still read."""
    folder = Path(__file__).parent / "schema1"
    step, meta = checkpoints.latest(folder)
    assert (step, meta["schema"]) == (6, 1)
    tree = {
        path: np.asarray(leaf)
        for path, leaf in files.flatten(checkpoints.read_state(folder, step)).items()
    }
    sums = dict(line.split() for line in (folder / "sums.txt").read_text().splitlines())
    assert {path: hashlib.sha256(leaf.tobytes()).hexdigest() for path, leaf in tree.items()} == sums
