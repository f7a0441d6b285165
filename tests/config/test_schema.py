"""A run folder and a weights file of an earlier version (tests/config/schema) are read, resumed and exported.

A new key of the specs needs a default under which older configs mean what they did, and no default may change.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from alexnet_jax import config, files, main, specs
from alexnet_jax.analysis import describe, report
from alexnet_jax.config import canonical, keys
from alexnet_jax.errors import ConfigError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.inference import checkpoints, trained
from alexnet_jax.interop import export_weights

KEPT = Path(__file__).parent / "schema"
TREE = json.loads((KEPT / "run/config.json").read_text())


@pytest.fixture
def run(tmp_path) -> Path:
    return Path(shutil.copytree(KEPT / "run", tmp_path / "run"))


def test_it_is_small():
    sizes = [path.stat().st_size for path in KEPT.rglob("*") if path.is_file()]
    assert sum(sizes) < 100_000


def test_the_config_of_then_is_one_of_today():
    """A key without a default, or one that has gone, would be named here."""
    spec = config.parse(TREE)
    assert spec.name == "kept"
    without_default = {k: v for k, v in TREE["model"].items() if k != "towers"}
    with pytest.raises(ConfigError, match=r"missing key config.model.towers"):
        config.parse(TREE | {"model": without_default})


def test_defaults_mean_what_they_did():
    """completed.json has all values of the run, listed or not, as of the version that made it."""
    then = json.loads((KEPT / "completed.json").read_text())
    today = config.completed(TREE)

    def compare(then: dict, today: dict, path: str) -> None:
        for key, value in then.items():
            assert key in today, f"{path}.{key} has gone"
            if isinstance(value, dict):
                compare(value, today[key], f"{path}.{key}")
            else:
                assert today[key] == value, f"{path}.{key} had another default"

    compare(then, json.loads(json.dumps(today)), "config")


def test_the_run_folder_and_the_weights_file_hold_the_same_net(run):
    ours, file = trained.load(run), trained.load(KEPT / "net.safetensors")
    assert ours.config == file.config and ours.step == file.step == 6
    assert ours.config.model.num_classes == len(ours.class_names) == 10  # counted
    for name, array in files.flatten(ours.params).items():
        np.testing.assert_array_equal(array, files.flatten(file.params)[name])


def test_it_is_evaluated_exported_and_described_with_its_counted_classes(run, capsys, tmp_path):
    evaluate.main(["--workdir", str(run), "--split", "test", "--json"])
    found = json.loads(capsys.readouterr().out)["splits"]["test"]["center"]
    then = json.loads((run / "results.json").read_text())["splits"]["test"]["center"]
    assert found["count"] == then["count"]
    assert found["top1_error"] == pytest.approx(then["top1_error"], abs=0.01)
    assert found["nll"] == pytest.approx(then["nll"], rel=1e-3)
    for format, suffix in export_weights.SUFFIXES.items():
        out = tmp_path / f"{format}{suffix}"
        export_weights.main(["--workdir", str(run), "--format", format, "--out", str(out)])
        assert out.stat().st_size > 5000
    kept = (KEPT / "net.safetensors").read_bytes()
    assert (tmp_path / "safetensors.safetensors").read_bytes() == kept
    capsys.readouterr()
    parameters = sum(array.size for array in files.flatten(trained.load(run).params).values())
    describe.main(["--workdir", str(run)])
    said = capsys.readouterr().out
    assert f"{parameters:,}" in said and "10 classes" in said
    describe.main(["--workdir", str(KEPT / "net.safetensors"), "--json"])
    assert json.loads(capsys.readouterr().out)["parameters"] == parameters
    with pytest.raises(ConfigError, match="belongs to --config"):
        describe.main(["--workdir", str(run), "--config.seed=1"])
    assert trained.load_config(run).model.num_classes == 10
    page = report.write(run).read_text()
    assert f"{parameters:,}" in page and "are assumed" not in page
    shutil.rmtree(run / "checkpoints")
    assert "1,000 are assumed" in report.write(run).read_text()


def test_it_is_resumed(run, tmp_path):
    """By a config file that says what its config.json does, whatever tests/tiny.py has become."""
    file = tmp_path / "kept.py"
    text = f"import json\nfrom ml_collections import ConfigDict\nTREE = {json.dumps(TREE)!r}\n"
    file.write_text(f"{text}def get_config():\n    return ConfigDict(json.loads(TREE))\n")
    assert (
        main.main(["--config", str(file), "--workdir", str(run), "--config.train.max_steps=8"]) == 0
    )
    assert checkpoints.committed_steps(run / "checkpoints")[-1] == 8
    lines = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == sorted(set(lines)) and lines[-1] == 8


def test_every_key_that_a_default_stands_for_may_be_missing():
    """The config with only the keys that have no default means the same as with all of them."""

    def required(tree, kind):
        fields = {keys.key_of(field): field for field in dataclasses.fields(kind)} if kind else {}
        kept = {}
        for key, value in tree.items():
            below = keys.section_type(kind, key) if kind else None
            if key in fields and value == canonical.plain(fields[key].default):
                continue
            kept[key] = required(value, below) if below and isinstance(value, dict) else value
        return kept

    completed = config.completed(TREE)
    shortened = required(completed, specs.Config)
    assert len(json.dumps(shortened)) < len(json.dumps(completed))
    assert config.parse(shortened) == config.parse(TREE)
