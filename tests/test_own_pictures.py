"""A run on a folder of a few images: the net that is chosen, what it begins from, when it ends, what it warns of."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import config, main
from alexnet_jax.errors import ConfigError, StorageError
from alexnet_jax.inference import trained
from alexnet_jax.run import reading
from alexnet_jax.train.checkpointer import Checkpointer

pytestmark = pytest.mark.usefixtures("bare_runs")

CONFIG = """
from tests import tiny

def get_config(arg="large"):
    config = tiny.get_config()
    config.name = "mine" if arg == "large" else f"mine:{arg}"
    config.model.num_classes = 10 if arg == "large" else 3
    config.data.update(source="folder", path="", validation=0.0)
    config.schedule.weights = dict(kind="cosine", learning_rate=0.002)
    config.train.update(batch_size=8, epochs=1.0, min_steps=4, init_from="start")
    config.evaluation.update(every_epochs=1 / 3, final_views=("center",))
    return config

def choose(images):
    return ("small" if images and images < 50 else "large"), f"{images} training images"
"""


@pytest.fixture
def mine(tmp_path, monkeypatch, two_nets):
    """Called with arguments, trains by CONFIG on class folders in `data`, from the first of `two_nets`."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("ant", "bee", "cat"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / f"data/{split}/{name}/{i}.png")
    (tmp_path / "mine.py").write_text(CONFIG)
    (tmp_path / "shipped").mkdir()
    shutil.copy(two_nets[0], tmp_path / "shipped" / "start-seed0-step7.safetensors")
    monkeypatch.setattr(trained, "SHIPPED", tmp_path / "shipped")

    def train(*arguments: str, config: str = "mine.py") -> str:
        """Return the log."""
        command = ["--config", str(tmp_path / config), "--workdir", str(tmp_path / "run")]
        data = f"--config.data.path={tmp_path / 'data'}"
        assert main.main([*command, data, *arguments]) == 0
        return (tmp_path / "run" / "log.txt").read_text()

    return train


def test_the_variant_follows_the_images_and_is_said_with_the_weights_and_the_other_ways(
    mine, tmp_path
):
    said = mine()
    assert (
        "12 training images; begun from the weights start (--init-from none: random ones)" in said
    )
    assert "initialized from tiny, step 7: 7 of 8 arrays" in said or "not loaded" in said
    assert reading.config_name(tmp_path / "run") == "mine:small"
    assert reading.begun_from(tmp_path / "run") == "start"


def test_the_weights_of_the_config_can_be_named(mine, tmp_path):
    """Although their last layer has other classes."""
    assert "initialized from tiny, step 7" in mine("--init-from", "start")
    assert reading.begun_from(tmp_path / "run") == "start"


def test_from_random_weights(mine, tmp_path):
    assert "initialized from" not in mine("--init-from", "none")
    assert reading.begun_from(tmp_path / "run") is None


def test_a_dry_run_says_what_is_chosen(mine, tmp_path, capsys):
    with pytest.raises(FileNotFoundError):  # it writes no log
        mine("--dry-run")
    assert "12 training images; begun from" in capsys.readouterr().out


def test_a_run_that_was_begun_keeps_its_net(mine, tmp_path):
    mine("--config.train.max_steps=2")
    for name in ("ant", "bee", "cat"):
        for i in range(4, 20):
            shutil.copy(
                tmp_path / f"data/train/{name}/0.png", tmp_path / f"data/train/{name}/{i}.png"
            )
    with pytest.raises(ConfigError, match="images") as caught:
        mine()
    assert "num_classes" not in str(caught.value)
    with pytest.raises(ConfigError, match="num_classes"):
        mine("--overwrite")


def test_weights_that_do_not_come_with_the_package_are_refused(mine):
    with pytest.raises(StorageError, match="strat"):
        mine("--init-from", "strat")


def test_a_run_ends_early_and_is_then_finished(mine, tmp_path, capsys):
    constant = "--config.schedule.weights.learning_rate=0"
    evaluations = "--config.evaluation.every_epochs=0.025"  # after each of the 40 steps
    rest = ("--config.train.min_steps=40", "--config.train.patience=0.1", constant, evaluations)
    said = mine(*rest)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["planned_step"] == 40 and results["step"] == results["last_step"] == 5
    assert "ends at step 5: the validation error has not fallen for 4 evaluations" in said
    assert (reading.read_status(tmp_path / "run") or {})["state"] == "finished"
    capsys.readouterr()
    mine(*rest)
    assert "already finished" in capsys.readouterr().out
    # As if it had been killed between the last checkpoint and the report.
    (tmp_path / "run" / "results.json").unlink()
    mine(*rest)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["last_step"] == 5


def test_the_best_checkpoint_is_reported_and_loaded(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpointer, "better_than", lambda run, step: 2)
    mine("--config.train.patience=1.0", "--config.train.checkpoint_every=2",
         "--config.train.keep_every=2")  # fmt: skip
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["step"], results["last_step"]) == (2, 4)
    assert trained.load(tmp_path / "run").step == 2
    assert trained.load(tmp_path / "run", 4).step == 4


def test_images_that_are_too_few_are_warned_of(mine, tmp_path):
    assert "are held out" not in mine("--config.train.max_steps=1")
    shutil.rmtree(tmp_path / "data" / "val")
    shutil.rmtree(tmp_path / "data" / "train" / "cat")
    shutil.rmtree(tmp_path / "run")
    said = mine(
        "--config.train.max_steps=1", "--config.model.num_classes=2", "--config.train.batch_size=16"
    )
    assert "warning: no images are held out" in said and "--config.data.validation=0.2" in said
    assert "warning: 8 training images are fewer than a batch of 16" in said


def test_the_weights_that_a_packaged_config_begins_from_come_with_the_package():
    spec = config.parse(config.load("folder:small", ["--config.data.path=images"]))
    assert spec.train.init_from is not None
    begun = trained.load(spec.train.init_from)
    theirs, ours = dict(begun.config.model.layers), dict(spec.model.layers)
    assert theirs == ours and begun.config.augment.mean == spec.augment.mean
    assert begun.step > 0
