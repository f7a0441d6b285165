"""Negative controls: where a resumed run loses a part of its state, the comparison of runs must say so."""

import shutil

import pytest

from tests.reliability.compare import differences, snapshot
from tests.reliability.starter import killed_once_saved

# What is lost -> a name under which the comparison must find it.
CONTROLS = {
    "lose_data_position": "18/batch_hash",
    "lose_random_streams": "18/params/conv1/kernel",
    "lose_momentum": "18/params/conv1/kernel",
    "lose_best_metric": "18/schedule/best",
}
KEEP_ALL = "--config.train.keep_every=6"

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def with_all_checkpoints(starter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls") / "run"
    assert starter.run(folder, KEEP_ALL).code == 0
    return snapshot(folder)


@pytest.fixture(scope="module")
def killed(starter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "run"
    fault = killed_once_saved("train.step:15")
    assert starter.run(folder, KEEP_ALL, fault=fault).code == -9
    return folder


@pytest.mark.fault("F1")
def test_without_sabotage_the_runs_are_equal(starter, with_all_checkpoints, killed, tmp_path):
    shutil.copytree(killed, tmp_path / "run")
    assert starter.run(tmp_path / "run", KEEP_ALL).code == 0
    assert differences(with_all_checkpoints, snapshot(tmp_path / "run")) == []


@pytest.mark.parametrize("sabotage", CONTROLS)
@pytest.mark.fault("F1")
def test_what_a_resumed_run_loses_is_found(
    starter, with_all_checkpoints, killed, tmp_path, sabotage, figures
):
    shutil.copytree(killed, tmp_path / "run")
    assert starter.run(tmp_path / "run", KEEP_ALL, sabotage=sabotage).code == 0
    found = differences(with_all_checkpoints, snapshot(tmp_path / "run"))
    assert CONTROLS[sabotage] in found
    figures["negative controls caught"] += 1


@pytest.mark.fault("F7")
def test_without_the_commit_check_damage_is_found_in_the_result(
    starter, with_all_checkpoints, killed, tmp_path, figures
):
    shutil.copytree(killed, tmp_path / "run")
    # Arrays that orbax reads without a complaint, but of another step.
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12" / "state")
    shutil.copytree(
        tmp_path / "run" / "checkpoints" / "6" / "state",
        tmp_path / "run" / "checkpoints" / "12" / "state",
    )
    shutil.copytree(tmp_path / "run", tmp_path / "checked")
    blind = starter.run(tmp_path / "run", KEEP_ALL, sabotage="lose_commit_check")
    assert blind.code == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    found = differences(with_all_checkpoints, snapshot(tmp_path / "run"))
    assert "48/batch_hash" in found
    assert starter.run(tmp_path / "checked", KEEP_ALL).code == 0
    assert differences(with_all_checkpoints, snapshot(tmp_path / "checked")) == []
    figures["negative controls caught"] += 1
