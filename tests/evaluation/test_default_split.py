"""Where there is no test, every command takes val, and where there is no val either, train, which it says."""

import importlib
import json
import logging
import re
import shutil

import numpy as np
import pytest

import alexnet_jax
from alexnet_jax import config
from alexnet_jax.analysis import serve
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import splits
from alexnet_jax.errors import DataError
from alexnet_jax.evaluation.target import EvalTarget
from alexnet_jax.inference import predictions, trained

# Command -> its arguments, where FILE is a net and OUT a folder.
COMMANDS = {
    "analysis.activations": "--workdir FILE --out OUT",
    "analysis.atlas": "--workdir FILE --out OUT --layers fc7 --maps 2 --steps 2",
    "analysis.deconvnet": "--workdir FILE --out OUT --map 0",
    "analysis.features": "--workdir FILE --layer fc6 --out OUT/fc6.npz",
    "analysis.lesion": "--workdir FILE --layer conv2 --tower 1 --draws 1 --out OUT",
    "analysis.mistakes": "--workdir FILE --out OUT",
    "analysis.neighbors": "--workdir FILE --out OUT --count 2",
    "analysis.patching": "--workdir FILE --layer fc6 --out OUT",
    "analysis.predictions": "--workdir FILE --out OUT --count 2",
    "analysis.saliency": "--workdir FILE --out OUT --count 2",
    "evaluation.compare": "FILE FILE",
    "evaluation.ensemble": "--workdir FILE FILE",
    "evaluation.tables": "--workdir FILE --views center",
}


@pytest.fixture(scope="module")
def files(two_nets, tmp_path_factory):
    """Weights files by the splits of their images: {"val": train and val, "train": train alone}."""
    folder, made = tmp_path_factory.mktemp("nets"), {}
    run = trained.load(two_nets[0])
    found = sources.open_dataset(run.config.data, 0)
    for name in ("val", "train"):
        arrays = {"class_names": np.array(run.class_names)}
        for split in {"train", name}:
            images, labels, _ = found.splits[split]
            arrays |= {f"{split}_images": images[np.arange(16)], f"{split}_labels": labels[:16]}
        np.savez(folder / f"{name}.npz", **arrays)
        given = ["data.source=arrays", f"data.path={folder / f'{name}.npz'}", "data.validation=0"]
        tree = config.load("tests/tiny.py", [f"--config.{one}" for one in given])
        spec = config.with_classes(config.parse(tree), 10)
        other = run._replace(config=spec, config_tree=json.loads(config.to_json(tree)))
        made[name] = trained.save(folder / f"{name}.safetensors", other)
    return made


@pytest.fixture(autouse=True)
def _where_the_images_are(files, monkeypatch):
    monkeypatch.chdir(files["val"].parent)  # a weights file keeps the name alone


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_split_takes_val_where_there_is_no_test(command, files, tmp_path, capsys):
    given = COMMANDS[command].replace("FILE", str(files["val"])).replace("OUT", str(tmp_path))
    importlib.import_module(f"alexnet_jax.{command}").main(given.split())
    said = capsys.readouterr().out
    written = [*tmp_path.glob("*.json"), *tmp_path.glob("index.html")]
    text = said + "".join(path.read_text() for path in written)
    if command == "analysis.features":
        text = str(np.load(tmp_path / "fc6.npz")["request"])
    assert re.search(r'"val[ "]|val of|^val, |images of val[,.]', text), text


def test_train_is_the_last_choice_and_it_is_said(files, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert EvalTarget(files["train"]).split_name(None, "center") == "train"
    assert "no test or val split" in caplog.text
    assert splits.default(("train", "val", "test")) == "test"
    assert EvalTarget(files["train"]).split_name("val", "center") == "val"


def test_saved_predictions_are_enough_where_the_images_are_gone(files, tmp_path):
    """Of a run folder, as `compare` reads it on another machine."""
    target = EvalTarget(files["val"])
    target.path = tmp_path  # as if it were the folder of the run
    labels = np.zeros(3, np.int32)
    kept = predictions.Predictions(np.full((3, 10), 0.1, np.float32), labels)
    shutil.copy(files["val"], tmp_path)
    target._data_spec = target._data_spec.__class__(
        **{**vars(target._data_spec), "path": "/nowhere.npz"}
    )
    with pytest.raises(DataError, match="nowhere"):
        target.split_name(None, "center")
    predictions.save(tmp_path, "val", "center", target.trained.step, kept)
    assert target.split_name(None, "center") == "val"
    predictions.save(tmp_path, "test", "center", target.trained.step, kept)
    assert target.split_name(None, "center") == "test"


def test_the_served_page_has_examples_of_val(files):
    with serve.Server(alexnet_jax.load(files["val"]), "a net") as server:
        server.find_examples()
        assert server.examples
