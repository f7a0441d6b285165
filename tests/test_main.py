"""The command that trains: what it writes, how it goes on, and what it says when something is wrong."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax import cli, config, files, main
from alexnet_jax.errors import (
    ConfigError,
    DataError,
    DivergedError,
    StorageError,
    WorkdirError,
)
from alexnet_jax.evaluation import evaluate
from alexnet_jax.inference import checkpoints, trained
from alexnet_jax.run import reading, workdir
from alexnet_jax.train import prepare
from alexnet_jax.train.log import Log

TINY = ["--config", "tests/tiny.py"]
pytestmark = pytest.mark.usefixtures("bare_runs")
UNTIMED = ("time", "images_per_second", "data_wait_fraction")


def train(folder: Path, *more: str) -> int:
    return main.main([*TINY, "--workdir", str(folder), *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run that nothing disturbed, with its figures."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    assert train(folder) == 0
    return folder


def leaves(folder: Path, step: int) -> dict[str, bytes]:
    tree = checkpoints.read_state(folder / "checkpoints", step)
    return {name: np.asarray(leaf).tobytes() for name, leaf in files.flatten(tree).items()}


def metrics(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in UNTIMED} for line in lines]


def test_run_folder_holds_what_is_promised(finished):
    names = {p.name for p in finished.iterdir()}
    assert names >= {
        "config.json", "run.json", "status.json", "metrics.jsonl", "results.json", "history.jsonl",
        "tensorboard", "checkpoints", "figures", "log.txt",
    }  # fmt: skip
    assert {p.name for p in (finished / "figures").iterdir()} >= {"curves.png", "filters.png"}
    assert checkpoints.committed_steps(finished / "checkpoints")[-1] == 48
    status = json.loads((finished / "status.json").read_text())
    assert (status["state"], status["step"], status["code"]) == ("finished", 48, 0)


def test_results_follow_the_schema_and_it_learned(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["schema"] == 1
    assert results["step"] == 48
    for split, count in (("val", 130), ("test", 128)):
        for view in ("center", "ten"):
            errors = results["splits"][split][view]
            assert set(errors) == {"count", "top1_error", "top5_error", "nll"}
            assert errors["count"] == count
            assert errors["top1_error"] < 0.7  # chance: 0.9


@pytest.mark.full
def test_a_profile_is_a_trace_of_a_few_steps_and_changes_nothing(finished, tmp_path):
    """Of a start with fewer steps than it waits for, and of one that goes on; the numbers stay the same bits."""
    folder = tmp_path / "run"
    assert train(folder, "--profile", "--config.train.max_steps=3") == 0
    assert train(folder, "--profile", "--override-resume=train.max_steps") == 0
    said = (folder / "log.txt").read_text()
    assert "profile of steps 3 to 3 in" in said and "profile of steps 8 to 13 in" in said
    traces = [
        gzip.decompress(path.read_bytes())
        for path in folder.glob("profile/plugins/profile/*/perfetto_trace.json.gz")
    ]
    assert len(traces) == 2 and all(b"fusion" in trace for trace in traces)
    assert leaves(folder, 48) == leaves(finished, 48)


def test_metrics_steps_strictly_increase(finished):
    steps = [line["step"] for line in metrics(finished)]
    assert steps == sorted(set(steps))
    assert {"train_loss", "train_top1_error", "learning_rate", "grad_norm"} <= set(
        metrics(finished)[0]
    )


def check_goes_on_to_the_same_bits(folder, finished, stops) -> None:
    for stop in stops:
        assert train(folder, f"--config.train.max_steps={stop}") == 0
    assert train(folder) == 0
    assert leaves(folder, 48) == leaves(finished, 48)
    # The last step of each start is evaluated, as a run that ends there needs it; all other rows are the same.
    rows, ends = metrics(folder), [stop for stop in stops if stop != 36]
    assert [row for row in rows if row["step"] not in ends] == metrics(finished)
    last = [row for row in rows if row["step"] in ends]
    assert len(last) == len(ends)
    assert all("eval_val_center_top1_error" in row and "train_loss" not in row for row in last)


@pytest.mark.full
def test_stopped_run_goes_on_to_the_same_bits(finished, tmp_path):
    check_goes_on_to_the_same_bits(tmp_path / "b", finished, (5, 13, 36, 41))


@pytest.mark.fault("D2")
def test_images_on_the_devices_give_the_same_bits(finished, tmp_path):
    assert train(tmp_path / "b", "--config.data.placement=device") == 0
    assert leaves(tmp_path / "b", 48) == leaves(finished, 48)
    assert metrics(tmp_path / "b") == metrics(finished)


def test_what_a_run_was_begun_with_is_needed_for_its_first_start_alone(finished, tmp_path):
    source = shutil.copytree(finished, tmp_path / "source")
    begin = ["--init-from", str(source), "--config.evaluation.final_views=('center',)"]
    assert train(tmp_path / "b", *begin, "--config.train.max_steps=2") == 0
    shutil.rmtree(source)
    assert train(tmp_path / "b", *begin, "--config.train.max_steps=3") == 0
    assert reading.begun_from(tmp_path / "b") == str(source)
    with pytest.raises(StorageError, match="not a run folder"):  # a new run
        train(tmp_path / "b", *begin, "--config.train.max_steps=3", "--overwrite")


def test_same_command_after_the_end_changes_nothing(finished, capsys):
    before = {
        p: p.stat().st_mtime_ns for p in finished.rglob("*.json*") if p.name != "history.jsonl"
    }
    assert train(finished) == 0
    assert "already finished" in capsys.readouterr().out
    after = {p: p.stat().st_mtime_ns for p in before}
    assert {p.name for p in before if before[p] != after[p]} <= {"config.json"}


def mtimes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_dry_run_prints_what_would_be_trained_and_writes_nothing(tmp_path, capsys):
    assert train(tmp_path / "new", "--dry-run") == 0
    said = capsys.readouterr().out
    for row in (
        "config      tiny",
        "images      382 train, 128 test, 130 val; 10 classes",
        "48 of 32 images",
    ):
        assert row in said
    assert re.search(r"^parameters  \d,\d{3}$", said, re.MULTILINE), said
    assert re.search(r"^state       \d+,\d{3} bytes$", said, re.MULTILINE), said
    assert re.search(r"^checkpoints [\d,]+ bytes, of [\d,]+ free$", said, re.MULTILINE), said
    assert not list(tmp_path.iterdir())


def test_a_dry_run_refuses_what_a_start_would_refuse(finished, tmp_path, capsys, monkeypatch):
    before = mtimes(finished)
    assert train(finished, "--dry-run") == 0
    assert "from step 48" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="seed: 0 -> 1"):
        train(finished, "--dry-run", "--config.seed=1")
    assert mtimes(finished) == before
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"1,048,576 are free"):
        train(tmp_path / "new", "--dry-run")


def test_another_config_is_refused_with_the_difference(finished):
    with pytest.raises(ConfigError, match=r"seed: 0 -> 1"):
        train(finished, "--config.seed=1")


def test_evaluation_from_the_folder_repeats_the_results(finished, capsys):
    evaluate.main(["--workdir", str(finished), "--json"])
    report = json.loads(capsys.readouterr().out)
    for name, views in json.loads((finished / "results.json").read_text())["splits"].items():
        for view, expected in views.items():
            found = report["splits"][name][view]
            assert {key: found[key] for key in expected} == expected
            assert found["crops"] == {"center": 1, "ten": 10}[view]
            assert 0 <= found["calibration_error"] <= 1
    saved = np.load(finished / "predictions" / "test_ten_48.npz")
    assert saved["probabilities"].shape == (128, 10)
    assert np.allclose(saved["probabilities"].sum(axis=1), 1, atol=1e-5)


def test_evaluation_of_an_earlier_step(finished, capsys):
    step = checkpoints.committed_steps(finished / "checkpoints")[0]
    evaluate.main(
        ["--workdir", str(finished), "--step", str(step), "--split", "val", "--views", "center"]
    )
    said = capsys.readouterr().out
    assert f"step {step} of tiny, on synthetic" in said
    rows = [line.split()[:5] for line in said.splitlines() if line.startswith(("val", "test"))]
    count = json.loads((finished / "results.json").read_text())["splits"]["val"]["center"]["count"]
    assert rows == [["val", "center,", "1", "crop", str(count)]]
    assert "Published errors" not in said, "it has ten classes"


def test_predictions_of_other_images_do_not_replace_those_of_the_run(finished, tmp_path):
    images = np.zeros((20, 16, 16, 3), np.uint8)
    meta = checkpoints.latest(finished / "checkpoints")
    assert meta is not None
    names, labels = np.array(meta[1]["class_names"]), np.arange(20) % 10
    np.savez(tmp_path / "other.npz", train_images=images, train_labels=labels, class_names=names)
    other = [
        "--workdir",
        str(finished),
        "--source",
        "arrays",
        "--split",
        "train",
        "--views",
        "center",
    ]
    with pytest.raises(ConfigError, match="needs --data-path"):
        evaluate.main(other)
    other += ["--data-path", str(tmp_path / "other.npz")]
    with pytest.raises(ConfigError, match="--out DIR"):
        evaluate.main(other)
    evaluate.main([*other, "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "predictions" / "train_center_48.npz").exists()
    assert not (finished / "predictions" / "train_center_48.npz").exists()


def test_parameters_load_from_a_run_folder(finished):
    params = trained.load(finished).params
    assert params["conv1"]["kernel"].shape == (5, 5, 3, 8)


def test_sigterm_saves_and_the_run_goes_on_to_the_same_bits(finished, tmp_path, monkeypatch):
    """After the signal it stops at a step that is neither logged, nor evaluated, nor due for a checkpoint, and at 36,
    which is all of it."""
    folder, log_training = tmp_path / "b", Log.train

    def log_and_signal(log, step, *values):
        log_training(log, step, *values)
        if step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "train", log_and_signal)
        assert train(folder) == 75
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["saved"], status["code"]) == ("interrupted", True, 75)
    assert checkpoints.committed_steps(folder / "checkpoints")[-1] == status["step"] < 13
    check_goes_on_to_the_same_bits(folder, finished, (13, 36))


def test_workdir_in_use_is_refused(finished):
    with workdir.Workdir(finished), pytest.raises(WorkdirError, match="is in use by process"):
        train(finished)


def test_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(WorkdirError, match="choose another"):
        train(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.fault("F32")
def test_batch_that_does_not_divide_over_devices_is_refused_before_writing(tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size=30 .* 4 devices; use 28 or 32"):
        train(tmp_path / "new", "--config.train.batch_size=30")
    assert not (tmp_path / "new").exists()


@pytest.mark.fault("F32")
@pytest.mark.parametrize(
    ("devices", "batch_size", "use"), [(1, 31, None), (2, 31, "30 or 32"), (4, 30, "28 or 32")]
)
def test_the_next_batch_that_divides_is_named(monkeypatch, devices, batch_size, use):
    import jax

    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices()[:devices])
    overrides = [f"--config.train.batch_size={batch_size}"]
    spec = config.parse(config.load("tests/tiny.py", overrides))
    if use is None:
        assert prepare.prepare(spec)[0].train.batch_size == batch_size
        return
    with pytest.raises(ConfigError, match=rf"{batch_size} .* {devices} devices; use {use}$"):
        prepare.prepare(spec)


def test_plateau_schedule_without_validation_images_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--config.data.validation=0.1"):
        train(tmp_path / "new", "--config.data.validation=0")


@pytest.mark.fault("F21")
def test_missing_images_are_refused_before_writing(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        train(
            tmp_path / "new",
            "--config.data.source=folder",
            f"--config.data.path={tmp_path / 'nowhere'}",
        )
    assert not (tmp_path / "new").exists()


@pytest.mark.fault("F22")
def test_unreadable_image_is_named_before_writing(tmp_path):
    from PIL import Image

    for split in ("train", "val"):
        for kind in ("cat", "dog"):
            folder = tmp_path / "mine" / split / kind
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (20 + i, 18), (60 * i, 0, 0)).save(folder / f"{i}.png")
    (tmp_path / "mine/val/dog/bad.jpg").write_text("no image")
    (tmp_path / "mine/train/cat/notes.txt").write_text("no image")
    arguments = ["--config.data.source=folder", f"--config.data.path={tmp_path / 'mine'}", "--config.data.validation=0",
                 "--config.model.num_classes=2", "--config.train.max_steps=1",
                 "--config.evaluation.final_views=('center',)"]  # fmt: skip
    with pytest.raises(DataError, match=r"1 of 17 images .*val/dog/bad.jpg .*skip_unreadable=True"):
        train(tmp_path / "new", *arguments)
    assert not (tmp_path / "new").exists()
    train(tmp_path / "new", *arguments, "--config.data.skip_unreadable=True")
    recorded = json.loads((tmp_path / "new" / "run.json").read_text())["data"]
    assert recorded["images"] == {split: {"cat": 4, "dog": 4} for split in ("train", "val")}
    assert (
        len(recorded["skipped"]) == 1
        and "val/dog/bad.jpg is not an image" in recorded["skipped"][0]
    )
    said = (tmp_path / "new" / "log.txt").read_text()
    kinds = (
        "not images: 1 .txt",
        "8 files are in two splits",
        "under two classes",
        "skipped: 1 of 17",
    )
    assert all(kind in "".join(recorded["left_out"]) for kind in kinds)
    assert all(f"warning: {one}" in said for one in recorded["left_out"])


def test_divergence_ends_with_code_4_and_a_finite_checkpoint(tmp_path):
    with pytest.raises(DivergedError, match="not finite") as caught:
        train(tmp_path / "d", "--config.schedule.weights.learning_rate=1e30")
    assert caught.value.exit_code == 4
    assert json.loads((tmp_path / "d" / "status.json").read_text())["state"] == "diverged"
    dump = json.loads((tmp_path / "d" / "diverged.json").read_text())
    assert len(dump["indices"]) == 32
    for step in checkpoints.committed_steps(tmp_path / "d" / "checkpoints"):
        tree = checkpoints.read_state(tmp_path / "d" / "checkpoints", step)
        assert all(
            np.isfinite(leaf).all()
            for name, leaf in files.flatten(tree).items()
            if "params" in name
        )


def test_help_answers_with_code_0_and_without_jax():
    command = [sys.executable, "-X", "importtime", "-m", "alexnet_jax.main", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "exit codes" in done.stdout
    assert "--config.model.lrn=False" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "alexnet_jax.config" in imported
    assert not imported & {"jax", "flax", "optax", "orbax", "PIL", "matplotlib"}


@pytest.mark.fault("F44")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config", "configs/paper.py"], 2, "--workdir"),
        (["--config", "configs/nope.py", "--workdir", "w"], 2, "configs/nope.py"),
        ([*TINY, "--workdir", "w", "--config.model.lnr=False"], 2, 'did you mean "lrn"'),
        ([*TINY, "--workdir", "w", "--wordkir=3"], 2, "--wordkir=3"),
    ],
)
def test_usage_error_is_one_line_and_its_code(arguments, code, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["alexnet_jax.main", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.run(main.main)
    said = capsys.readouterr()
    assert end.value.code == code and not said.out
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert not Path("w").exists()
