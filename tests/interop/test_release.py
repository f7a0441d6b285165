import json
import logging
import shutil

import numpy as np
import pytest

import alexnet_jax
from alexnet_jax import main
from alexnet_jax.errors import CheckpointError, ConfigError, StorageError
from alexnet_jax.inference import network, trained
from alexnet_jax.interop import release, verify

pytestmark = pytest.mark.usefixtures("bare_runs")
RUN = (
    "--config", "tests/tiny.py", "--config.train.max_steps=5", "--config.evaluation.final_views=('center',)",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that kept its steps 0, 1, 2, 4 and, as the last, 5."""
    folder = tmp_path_factory.mktemp("series") / "run"
    assert not main.main([*RUN, "--workdir", str(folder), "--config.train.keep_powers_of_two=True"])
    return folder


@pytest.fixture(scope="module")
def released(run):
    release.main(["--workdir", str(run), "--out", str(run / "release"), "--steps", "all"])
    return run / "release"


@pytest.fixture
def copy(released, tmp_path):
    """Weights of step 5 and their card, to be damaged."""
    for suffix in ("safetensors", "json"):
        shutil.copy(released / f"tiny-seed0-step5.{suffix}", tmp_path)
    return tmp_path / "tiny-seed0-step5.safetensors"


@pytest.mark.full
def test_a_series_is_kept_and_moves_no_parameter(run, tmp_path):
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"0", "1", "2", "4", "5"}
    assert not main.main([*RUN, "--workdir", str(tmp_path / "plain")])
    series, plain = (trained.load(folder).params for folder in (run, tmp_path / "plain"))
    assert all(np.array_equal(series[a][b], plain[a][b]) for a in plain for b in plain[a])
    first = trained.load(run, 0)
    assert first.step == 0 and not np.array_equal(
        first.params["fc6"]["kernel"], series["fc6"]["kernel"]
    )


def test_a_release_is_the_checkpoint_with_a_card_that_is_true(run, released):
    assert len(list(released.glob("*.safetensors"))) == 5
    card = json.loads((released / "tiny-seed0-step5.json").read_text())
    results = json.loads((run / "results.json").read_text())
    for split in ("val", "test"):
        found, said = card["splits"][split]["center"], results["splits"][split]["center"]
        assert found["count"] == said["count"] and found["top1_error"] == said["top1_error"]
    assert card["step"] == 5 and card["data"]["images"]["test"] == said["count"]
    loaded, kept = trained.load_file(released / card["file"]), trained.load(run)
    assert np.array_equal(loaded.params["fc7"]["kernel"], kept.params["fc7"]["kernel"])
    assert card["commit"] == json.loads((run / "run.json").read_text())["commit"]


def test_verify_accepts_a_release_and_measures_it_again(released, capsys):
    verify.main([str(released / "tiny-seed0-step5.safetensors"), "--evaluate"])
    assert "matches its card; measured again" in capsys.readouterr().out


def test_verify_refuses_other_weights_and_false_cards(released, copy):
    card = json.loads(copy.with_suffix(".json").read_text())

    def refused(match, **changes):
        copy.with_suffix(".json").write_text(json.dumps(card | changes))
        with pytest.raises(CheckpointError, match=match):
            verify.verify(copy, evaluate="splits" in changes)

    refused("SHA-256 differs", sha256="0" * 64)
    refused("has step 5, but its card says 4", step=4)
    better = json.loads(json.dumps(card["splits"]))
    better["test"]["center"]["top1_error"] -= 0.1
    refused("but its card says", splits=better)
    better["test"]["center"]["count"] += 1
    refused("its card is for 129 images of test, but the data has 128", splits=better)
    shutil.copy(released / "tiny-seed0-step4.safetensors", copy)
    refused("SHA-256 differs")
    copy.with_suffix(".json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"it has no config, seed, .* should be the card of the weights"
    ):
        verify.verify(copy)
    copy.with_suffix(".json").unlink()
    with pytest.raises(
        CheckpointError, match=r"cannot read .*json: there is no such file; it should be the card"
    ):
        verify.verify(copy)


def test_random_kernels_look_untrained_and_smooth_ones_do_not(copy, caplog):
    random = np.random.default_rng(0).normal(size=(11, 11, 3, 96))
    assert network.looks_untrained(random)
    assert not network.looks_untrained(random + np.roll(random, 1, axis=0))
    assert not network.looks_untrained(np.ones((1, 1, 3, 8)))
    with caplog.at_level(logging.WARNING):
        alexnet_jax.load(copy)
    assert "the kernels of conv1 look random, as before training" in caplog.text


def test_what_cannot_be_released_says_why(run, copy, tmp_path):
    with pytest.raises(ConfigError, match="must be a run folder"):
        release.main(["--workdir", str(copy), "--out", str(tmp_path)])
    with pytest.raises(ConfigError, match="--steps must be numbers or all"):
        release.main(["--workdir", str(run), "--out", str(tmp_path), "--steps", "last"])
    with pytest.raises(StorageError, match="3"):
        release.main(["--workdir", str(run), "--out", str(tmp_path), "--steps", "3"])
    with pytest.raises(StorageError, match="has no checkpoint"):
        release.main(["--workdir", str(tmp_path), "--out", str(tmp_path), "--steps", "all"])
