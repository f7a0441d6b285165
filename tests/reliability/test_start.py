"""Who may use a run folder, what of a config may change, and on which machine a run goes on."""

import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import config
from alexnet_jax.errors import ConfigError, WorkdirError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.inference import checkpoints
from alexnet_jax.run import ownership, reading, resume, schemas, workdir
from tests.reliability.compare import differences, snapshot


def stamp(seconds_ago: float) -> str:
    return time.strftime(schemas.TIME, time.gmtime(time.time() - seconds_ago))


@pytest.fixture
def run(killed, tmp_path):
    return shutil.copytree(killed, tmp_path / "run")


@pytest.mark.fault("F16")
def test_the_second_of_two_starts_is_refused_and_the_first_not_disturbed(
    starter, golden, run, status
):
    first = starter.start(run, fault="train.step:3:sleep=3")
    first.wait_for("continuing from step 12")
    second = starter.run(run)
    assert second.code == 6
    assert f"in use by process {status(run)['pid']} on {socket.gethostname()}" in second.err
    assert first.wait().code == 0
    assert differences(golden, snapshot(run)) == []


@pytest.mark.full
@pytest.mark.fault("F16")
def test_the_folder_of_a_killed_owner_is_taken_over(starter, run):
    first = starter.start(run, fault="train.step:3:sleep=30")
    first.wait_for("continuing from step 12")
    first.signal(signal.SIGKILL)
    first.wait()
    assert starter.run(run).code == 0


@pytest.mark.full
@pytest.mark.fault("F16")
def test_another_host_decides_by_its_heartbeat(starter, run, status):
    said = status(run) | {"host": "elsewhere", "pid": 7, "state": "running"}
    for age, arguments, code, words in (
        (100, [], 6, "in use by process 7 on elsewhere, alive"),
        (100, ["--steal"], 6, "in use by process 7 on elsewhere, alive"),
        (1000, [], 6, "--steal takes it over"),
        (1000, ["--steal"], 0, ""),
    ):
        (run / "status.json").write_text(json.dumps(said | {"heartbeat": stamp(age)}))
        outcome = starter.run(run, *arguments)
        assert outcome.code == code, outcome.err
        assert words in outcome.err


@pytest.mark.fault("F16", "F48")
def test_a_job_of_slurm_takes_over_from_its_own_start_on_another_host(tmp_path, monkeypatch):
    said = {"state": "running", "host": "elsewhere", "pid": 7}
    slept: list[float] = []

    def write(before: list[int] | None, age: float) -> None:
        there = said | {"heartbeat": stamp(age), "slurm": before}
        (tmp_path / "status.json").write_text(json.dumps(there))

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr(ownership.time, "sleep", slept.append)
    for age, waits in ((200, 0), (40, 60)):
        write([7, 0], age)
        with workdir.Workdir(tmp_path):
            assert abs(slept.pop() - waits) < 5
    for other in ([7, 1], [8, 0], None):
        write(other, 200)
        with pytest.raises(WorkdirError, match="in use by process 7 on elsewhere, alive"):
            workdir.Workdir(tmp_path).__enter__()
    assert not slept
    # Its node was merely cut off: it lives.
    monkeypatch.setattr(ownership.time, "sleep", lambda _: write([7, 0], 0))
    write([7, 0], 40)
    with pytest.raises(WorkdirError, match="alive"):
        workdir.Workdir(tmp_path).__enter__()


@pytest.mark.fault("F16", "F19")
def test_a_heartbeat_still_to_come_holds_a_folder_until_it_is_taken_over(tmp_path):
    said = {"state": "running", "host": "elsewhere", "pid": 7, "heartbeat": "9999-01-01T00:00:00Z"}
    (tmp_path / "status.json").write_text(json.dumps(said))
    with pytest.raises(WorkdirError, match="is in the future; set the clocks right, or --steal"):
        workdir.Workdir(tmp_path).__enter__()
    with workdir.Workdir(tmp_path, steal=True):
        pass


@pytest.mark.fault("F16")
@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"state": "running"}',
        '{"state": "running", "host": "x", "heartbeat": "never"}',
        "[" * 9000,
    ],
)
def test_a_status_that_is_damaged_is_none(tmp_path, content):
    (tmp_path / "status.json").write_text(content)
    with workdir.Workdir(tmp_path):
        assert reading.read_status(tmp_path) is None


@pytest.mark.full
@pytest.mark.fault("F17")
def test_a_folder_with_something_else_is_refused_or_renamed(starter, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    outcome = starter.run(folder)
    assert outcome.code == 6 and "--overwrite" in outcome.err
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]
    assert starter.run(folder, "--overwrite", "--config.train.max_steps=2").code == 0
    (old,) = tmp_path.glob("thesis.old-*")
    assert (old / "thesis.tex").read_text() == "precious"
    assert (folder / "results.json").exists()


@pytest.mark.full
@pytest.mark.fault("F17")
def test_overwrite_keeps_the_old_run(starter, run, tmp_path):
    before = snapshot(run)
    assert (
        starter.run(run, "--overwrite", "--config.seed=5", "--config.train.max_steps=2").code == 0
    )
    (old,) = tmp_path.glob("run.old-*")
    assert differences(before, snapshot(old)) == []


def leaf_keys(tree: dict, prefix: str = "") -> list[str]:
    return sorted(prefix + key for key in resume.flat(tree))


@pytest.mark.fault("F14")
def test_every_key_of_a_config_is_harmless_or_refused():
    for name in ("configs/paper.py", "configs/krizhevsky2012.py", "tests/tiny.py"):
        tree = json.loads(config.to_json(config.load(name, [])))
        keys = [*leaf_keys(config.completed(tree)), "data.workers"]  # which has no value by default
        assert len(keys) > 80
        assert set(resume.HARMLESS) <= set(keys)
        for key in keys:
            changed = json.loads(json.dumps(tree))
            node = changed
            *sections, last = key.split(".")
            for section in sections:
                node = node[section]
            node[last] = "changed"
            if key in resume.HARMLESS:
                assert list(resume.check_same(tree, changed, "W")) == [key]
            else:
                with pytest.raises(ConfigError, match=rf"{key}: .* -> 'changed'"):
                    resume.check_same(tree, changed, "W")
                assert list(resume.check_same(tree, changed, "W", [key])) == [key]


@pytest.mark.fault("F14")
def test_a_run_of_before_a_key_goes_on_with_its_default_alone():
    new = json.loads(config.to_json(config.load("configs/krizhevsky2012.py", [])))
    for section, key, default in (
        (("optimizer",), "bias_weight_decay", 0.0),
        (("model", "lrn_constants"), "within_towers", True),
    ):
        for value, same in ((default, True), (1.0 - default, False)):
            told = json.loads(json.dumps(new))
            node = told
            for name in section:
                node = node[name]
            assert key not in node
            node[key] = value
            if same:
                assert resume.check_same(new, told, "W") == {}
                assert config.parse(fitted(new)) == config.parse(fitted(told))
            else:
                with pytest.raises(ConfigError, match=rf"{key}: {default} -> {value}") as refused:
                    resume.check_same(new, told, "W")
                kept = ".".join((*section, key))
                assert f"keep the run's values with --config.{kept}={default}" in str(refused.value)


def fitted(tree: dict) -> dict:
    """With images, which a config needs."""
    return tree | {"data": tree["data"] | {"path": "images"}}


@pytest.mark.fault("F14")
def test_a_changed_key_is_refused_allowed_and_remembered(starter, run):
    refused = starter.run(run, "--config.train.epochs=5.0")
    assert refused.code == 2
    assert (
        "train.epochs: 4.0 -> 5.0" in refused.err
        and "--override-resume=train.epochs" in refused.err
    )
    before = (run / "config.json").read_bytes()
    other = ("--config.model.fcs.fc6.features=8", "--override-resume=model.fcs.fc6.features")
    unfit = starter.run(run, *other)
    assert unfit.code == 5 and "does not fit the model" in unfit.err
    assert (run / "config.json").read_bytes() == before
    typo = starter.run(run, "--config.train.epochs=5.0", "--override-resume=train.epoch")
    assert typo.code == 2 and "no such key" in typo.err
    allowed = starter.run(
        run,
        "--config.train.epochs=5.0",
        "--override-resume=train.epochs",
        "--config.train.log_every=10",
    )
    assert allowed.code == 0
    assert "continuing from step 12" in allowed.out
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    assert last["changes"] == {"train.epochs": [4.0, 5.0], "train.log_every": [4, 10]}
    assert checkpoints.committed_steps(run / "checkpoints")[-1] == 60


@pytest.mark.full
@pytest.mark.fault("F13")
def test_a_run_begins_with_the_parameters_of_another(starter, golden_folder, tmp_path):
    begin = ["--init-from", str(golden_folder), "--config.train.max_steps=2"]
    assert starter.run(tmp_path / "a", *begin).code == 0
    log = (tmp_path / "a" / "log.txt").read_text()
    assert "initialized from tiny, step 48: 8 of 8 arrays" in log
    wider = [*begin, "--config.model.fcs.fc6.features=32"]
    refused = starter.run(tmp_path / "b", *wider)
    assert refused.code == 5 and "params/fc6/kernel is" in refused.err
    assert starter.run(tmp_path / "c", *wider, "--allow-partial").code == 0
    log = (tmp_path / "c" / "log.txt").read_text()
    assert "5 of 8 arrays; the others have random initial values" in log
    rows = [line.split()[1:] for line in log.splitlines() if "params/" in line]
    assert ["params/fc6/bias", "float32(16,)", "float32(32,)"] in rows and len(rows) == 3


@pytest.mark.full
@pytest.mark.fault("F15")
def test_a_run_goes_on_with_other_numbers_of_devices(starter, golden, tmp_path, figures):
    for devices, steps in ((1, 9), (2, 20), (4, 33), (1, 48)):
        arguments = [f"--config.train.max_steps={steps}"]
        outcome = starter.run(tmp_path / "run", *arguments, devices=devices)
        assert outcome.code == 0, outcome.err
        assert steps == 9 or "equal up to rounding: devices" in outcome.out
    end = snapshot(tmp_path / "run")
    assert end["48/batch_hash"] == golden["48/batch_hash"]
    # The last step of each start is evaluated, and has a line of its own where it is not logged.
    hashes, ended = (
        [v["batch_hash"] for n, v in one.items() if n.startswith("metrics") and "batch_hash" in v]
        for one in (golden, end)
    )
    assert hashes and hashes == ended


@pytest.mark.full
@pytest.mark.fault("F15")
def test_numbers_of_devices_differ_by_rounding_alone(starter, golden_folder, tmp_path, figures):
    one = checkpoints.load_variables(golden_folder / "checkpoints", 48)["params"]
    for devices in (2, 4):
        assert starter.run(tmp_path / str(devices), devices=devices).code == 0
        other = checkpoints.load_variables(tmp_path / str(devices) / "checkpoints", 48)["params"]
        difference = max(
            float(np.abs(one[name][kind] - other[name][kind]).max() / np.abs(one[name][kind]).max())
            for name in one
            for kind in one[name]
        )
        assert difference < 1e-4
        key = "devices 1, 2, 4: largest relative difference of parameters after 48 steps"
        figures[key] = max(figures[key], difference)


@pytest.mark.full
@pytest.mark.fault("F19")
@pytest.mark.parametrize(
    "environment",
    [
        {"TZ": "Pacific/Kiritimati", "LC_ALL": "C"},
        pytest.param({"LC_ALL": "de_DE.UTF-8"}, marks=pytest.mark.full),
    ],
)
def test_clocks_and_languages_change_nothing(starter, golden, tmp_path, environment):
    folder = tmp_path / "run"
    assert starter.run(folder, fault="train.step:15:kill", **environment).code == -9
    assert starter.run(folder, sabotage="clock_goes_back", **environment).code == 0
    assert differences(golden, snapshot(folder)) == []


@pytest.mark.full
@pytest.mark.fault("F30")
def test_changed_images_are_refused(starter, tmp_path):
    def images(seed: int) -> None:
        draw = np.random.default_rng(seed)
        arrays = dict(train_images=draw.integers(0, 255, (256, 16, 16), np.uint8),
                      train_labels=np.arange(256) % 10)  # fmt: skip
        np.savez(tmp_path / "data.npz", **arrays)

    data = ["--config.data.source=arrays", f"--config.data.path={tmp_path / 'data.npz'}"]
    images(0)
    assert starter.run(tmp_path / "run", *data, "--config.train.max_steps=7").code == 0
    images(1)
    names = ("config.json", "run.json", "history.jsonl", "dataset.npz", "metrics.jsonl")
    before = [(tmp_path / "run" / name).read_bytes() for name in names]
    changed = ("--config.data.exif=apply", "--override-resume=data.exif")
    outcome = starter.run(tmp_path / "run", *data, *changed)
    assert outcome.code == 2 and "the images changed" in outcome.err
    assert [(tmp_path / "run" / name).read_bytes() for name in names] == before
    outcome = starter.run(tmp_path / "run", *data)
    assert outcome.code == 2 and "the images changed" in outcome.err
    assert "training images (100 %) were replaced, 60 of 60 validation" in outcome.err
    (tmp_path / "run" / "dataset.npz").write_bytes(b"junk")
    outcome = starter.run(tmp_path / "run", *data)
    assert outcome.code == 2 and "was started; choose another --workdir" in outcome.err
    images(0)
    assert starter.run(tmp_path / "run", *data).code == 0
    # Begun by an earlier version, whose fingerprints were of names and sizes.
    old = tmp_path / "old"
    until = "--config.train.max_steps="
    assert starter.run(old, *data, until + "7", sabotage="old_fingerprint").code == 0
    (old / "dataset.npz").unlink()
    outcome = starter.run(old, *data, until + "8", sabotage="old_fingerprint")
    assert outcome.code == 0 and "started by an earlier version" in outcome.out
    images(1)
    outcome = starter.run(old, *data, until + "9")
    assert outcome.code == 2 and "training images (100 %) were replaced" in outcome.err
    images(0)
    outcome = starter.run(old, *data, until + "9")
    assert outcome.code == 0 and "earlier version" not in outcome.out


@pytest.mark.fault("F30")
def test_a_run_stops_where_images_were_replaced_and_says_how_many(starter, tmp_path):
    """By others of the same names, sizes and times; and goes on with those it was begun with, wherever they are."""

    def images(root: Path, replaced: int) -> list[str]:
        draw, number = np.random.default_rng(0), 0
        for split, count in (("train", 10), ("val", 2)):
            for kind in range(10):
                folder = root / split / f"c{kind}"
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(count):
                    pixels = draw.integers(0, 255, (16, 16, 3), np.uint8)
                    Image.fromarray(pixels ^ np.uint8(number < replaced)).save(folder / f"{i}.bmp")
                    os.utime(folder / f"{i}.bmp", (1e9, 1e9))
                    number += 1
        return ["--config.data.source=folder", f"--config.data.path={root}", "--config.data.validation=0",
                "--config.train.epochs=3", "--config.evaluation.final_views=('center',)"]  # fmt: skip

    run, cache = tmp_path / "run", {"ALEXNET_JAX_CACHE": str(tmp_path / "cache")}
    data = images(tmp_path / "data", 0)
    begun = starter.run(run, *data, "--config.train.max_steps=6", **cache)
    assert begun.code == 0, begun.err
    images(tmp_path / "data", 37)
    outcome = starter.run(run, *data, **cache)
    assert outcome.code == 2 and len(outcome.err.splitlines()) == 1
    assert (
        f"the images changed since {run} was started: 37 of 100 training images (37 %) were replaced; "
        "choose another --workdir" in outcome.err
    )
    outcome = starter.run(run, *images(tmp_path / "copy", 0), **cache)
    assert outcome.code == 0 and "continuing from step 6" in outcome.out, outcome.err
    # Errors of other images do not replace those of the run, wherever they lie.
    command = ["--workdir", str(run), "--split", "val", "--views", "center"]
    with pytest.raises(
        ConfigError, match=r"does not have the images that .* was trained with: --out"
    ):
        evaluate.main([*command, "--data-path", str(tmp_path / "data")])
    evaluate.main(command)
    images(tmp_path / "copy", 101)
    with pytest.raises(
        ConfigError, match=r"does not have the images that .* was trained with: --out"
    ):
        evaluate.main(command)
    images(tmp_path / "copy", 0)
    evaluate.main(command)
