"""Negative controls: where a resumed run loses a part of its state, the comparison of runs must say so."""

import shutil

import numpy as np
import pytest

from alexnet_jax.training import checkpoint
from tests.reliability.compare import differences, snapshot

# What is lost -> a name under which the comparison must find it.
CONTROLS = {
    "lose_data_position": "18/batch_hash",
    "lose_random_streams": "18/params/conv1/kernel",
    "lose_momentum": "18/params/conv1/kernel",
    "lose_best_metric": "18/schedule/best",
}
KEEP_ALL = "--config.train.keep_every=6"


@pytest.fixture(scope="module")
def with_all_checkpoints(starter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls") / "run"
    assert starter.run(folder, KEEP_ALL).code == 0
    return snapshot(folder)


@pytest.fixture(scope="module")
def killed(starter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "run"
    assert starter.run(folder, KEEP_ALL, fault="train.step:15:kill").code == -9
    return folder


@pytest.mark.fault("F1")
def test_without_sabotage_the_runs_are_equal(starter, with_all_checkpoints, killed, tmp_path):
    shutil.copytree(killed, tmp_path / "run")
    assert starter.run(tmp_path / "run", KEEP_ALL).code == 0
    assert differences(with_all_checkpoints, snapshot(tmp_path / "run")) == []


@pytest.mark.parametrize(
    "sabotage",
    [
        pytest.param(n, marks=pytest.mark.full) if n == "lose_random_streams" else n
        for n in CONTROLS
    ],
)
@pytest.mark.fault("F1")
def test_what_a_resumed_run_loses_is_found(
    starter, with_all_checkpoints, killed, tmp_path, sabotage, figures
):
    shutil.copytree(killed, tmp_path / "run")
    assert starter.run(tmp_path / "run", KEEP_ALL, sabotage=sabotage).code == 0
    found = differences(with_all_checkpoints, snapshot(tmp_path / "run"))
    assert CONTROLS[sabotage] in found
    figures["negative controls caught"] += 1


def flip_a_bit_of_an_array(folder, step: int) -> None:
    """Somewhere in the files of orbax where it is read back as another number, without an error."""
    good = arrays(folder, step)
    largest = max((folder / str(step) / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = largest.read_bytes()
    for place in range(len(content) // 2, len(content), 97):
        largest.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            if arrays(folder, step) != good:
                return
        except ValueError:
            continue  # this one was noticed
    pytest.fail("orbax noticed every change")


def arrays(folder, step: int) -> dict[str, bytes]:
    found = checkpoint._leaves(checkpoint._read(folder, step))
    return {path: np.asarray(leaf).tobytes() for path, leaf in found}


@pytest.mark.fault("F7")
def test_without_the_commit_check_damage_is_found_in_the_result(
    starter, with_all_checkpoints, killed, tmp_path, figures
):
    shutil.copytree(killed, tmp_path / "run")
    flip_a_bit_of_an_array(tmp_path / "run" / "checkpoints", 12)
    shutil.copytree(tmp_path / "run", tmp_path / "checked")
    blind = starter.run(tmp_path / "run", KEEP_ALL, sabotage="lose_commit_check")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    if blind.code != 4:  # the bit may have made a number so large that the run diverged
        found = differences(with_all_checkpoints, snapshot(tmp_path / "run"))
        assert [name for name in found if name.startswith("48/")]
    assert starter.run(tmp_path / "checked", KEEP_ALL).code == 0
    assert differences(with_all_checkpoints, snapshot(tmp_path / "checked")) == []
    figures["negative controls caught"] += 1
