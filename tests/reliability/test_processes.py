"""Several processes as one run: they compute what one does, agree on when to stop, and none outlives the others."""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from alexnet_jax.errors import ConfigError
from alexnet_jax.inference import checkpoints
from alexnet_jax.run import processes
from alexnet_jax.train import checkpoint
from tests.reliability.compare import differences, snapshot
from tests.reliability.starter import ROOT


def start(starter, folder, *arguments, count=2, devices=2, other=(), sabotage="", **options):
    """`count` processes with `devices` each; the last has the arguments `other` and the `sabotage`."""
    address = free_address()
    return [
        starter.start(
            folder, *arguments, *(other if index == count - 1 else ()),
            sabotage=sabotage if index == count - 1 else "",
            devices=devices, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES=str(count),
            JAX_PROCESS_ID=str(index), **options,
        )
        for index in range(count)
    ]  # fmt: skip


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def ends(starts, timeout=120):
    return [one.wait(timeout) for one in starts]


@pytest.fixture(scope="module")
def pair(starter, tmp_path_factory):
    """A run of two processes with two devices each that nothing disturbed."""
    folder = tmp_path_factory.mktemp("pair") / "run"
    outcomes = ends(start(starter, folder))
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert "step" in outcomes[0].out and "step" not in outcomes[1].out, "one speaks for all"
    return folder


def parameters(folder):
    return checkpoints.load_variables(folder / "checkpoints", 48)["params"]


def assert_close(one, other):
    for row in one:
        for name in one[row]:
            np.testing.assert_allclose(
                one[row][name], other[row][name], rtol=1e-5, atol=1e-5, err_msg=f"{row}/{name}"
            )


@pytest.mark.full
@pytest.mark.fault("D2")
def test_two_processes_with_two_devices_compute_what_one_with_four_does(starter, pair, tmp_path):
    assert starter.run(tmp_path / "run", devices=4).code == 0
    assert_close(parameters(pair), parameters(tmp_path / "run"))
    last = [checkpoints.verify(f / "checkpoints", 48) for f in (pair, tmp_path / "run")]
    assert last[0]["batch_hash"] == last[1]["batch_hash"]


@pytest.mark.full
def test_images_on_the_devices_of_two_processes_make_the_same_batches(starter, pair, tmp_path):
    apart = start(starter, tmp_path / "run", "--config.data.placement=device")
    assert [outcome.code for outcome in ends(apart)] == [0, 0]
    assert differences(snapshot(tmp_path / "run"), snapshot(pair)) == ["42/config", "48/config"]


@pytest.mark.full
@pytest.mark.fault("F43")
def test_a_signal_to_one_process_stops_all_at_one_step_and_costs_nothing(starter, pair, tmp_path):
    folder = tmp_path / "run"
    both = start(starter, folder, fault="train.step:*:sleep=0.05")
    both[0].wait_for("step 16/48")
    both[1].signal(signal.SIGTERM)
    outcomes = ends(both)
    assert [outcome.code for outcome in outcomes] == [75, 75], outcomes
    assert 16 <= checkpoints.committed_steps(folder / "checkpoints")[-1] < 48
    assert [outcome.code for outcome in ends(start(starter, folder))] == [0, 0]
    assert differences(snapshot(folder), snapshot(pair)) == []


@pytest.mark.full
@pytest.mark.fault("F41")
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_nobody_waits_for_a_process_that_died_or_hangs(starter, pair, tmp_path, rank, number):
    folder = tmp_path / "run"
    both = start(starter, folder, fault="train.step:*:sleep=0.2")
    both[0].wait_for("step 16/")
    both[rank].signal(number)
    outcome = both[1 - rank].wait(120)
    assert outcome.code == 8
    assert "lost another process" in outcome.err.splitlines()[-1]
    both[rank].signal(signal.SIGKILL)
    both[rank].wait()
    assert checkpoint.recover(folder / "checkpoints", print) is not None


@pytest.mark.full
@pytest.mark.fault("F1")
def test_a_pair_of_which_one_was_killed_goes_on_to_the_same_bits(starter, pair, tmp_path):
    folder = tmp_path / "run"
    outcomes = ends(start(starter, folder, fault="train.step:15:kill"))
    assert {outcome.code for outcome in outcomes} <= {-9, 8}
    assert [outcome.code for outcome in ends(start(starter, folder))] == [0, 0]
    assert differences(snapshot(folder), snapshot(pair)) == []


@pytest.mark.full
@pytest.mark.fault("F42")
@pytest.mark.parametrize("what", ["config", "images"])
def test_processes_that_disagree_do_not_begin(starter, tmp_path, what):
    different = {"config": {"other": ["--config.seed=5"]}, "images": {"sabotage": "other_images"}}
    outcomes = ends(start(starter, tmp_path / "run", **different[what]))
    assert [outcome.code for outcome in outcomes] == [2, 2], outcomes
    for outcome in outcomes:
        assert f"process 1 has another {what}" in outcome.err.splitlines()[-1]
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.full
@pytest.mark.fault("F41")
@pytest.mark.parametrize(
    ("faults", "codes"),
    [(("", "data.open:1:raise=EIO"), [8, 5]), (("save.folder:*:raise=EACCES", ""), [5, 8])],
)
def test_nobody_waits_for_a_process_that_fails_alone(tmp_path, faults, codes):
    """By the command itself: the starter leaves out what JAX does at an exit."""
    address = free_address()
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.faults", "--config", "tests/tiny.py",
             "--workdir", str(tmp_path / "run")],
            cwd=ROOT, env=os.environ | {
                "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index),
                "JAX_NUM_CPU_DEVICES": "1", "ALEXNET_FAULT": fault,
            },
        )
        for index, fault in enumerate(faults)
    ]  # fmt: skip
    try:
        assert [process.wait(120) for process in both] == codes
    finally:
        for process in both:
            process.kill()


@pytest.mark.full
@pytest.mark.parametrize("split", ["split_towers", "split_dense"])
def test_a_net_split_over_two_processes_goes_on_from_one_and_back(
    starter, golden_folder, tmp_path, split
):
    folder = tmp_path / "run"
    more = ("--override-resume=train.epochs", "--config.train.epochs=2.0")
    assert starter.run(folder, "--config.train.epochs=1.0").code == 0
    apart = start(starter, folder, *more, f"--config.train.{split}=True", devices=1)
    assert [outcome.code for outcome in ends(apart)] == [0, 0]
    assert starter.run(folder, "--override-resume=train.epochs").code == 0
    assert_close(parameters(folder), parameters(golden_folder))


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, (0, 1)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, (0, 1)),  # a batch script without srun
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, (2, 4)),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, (1, 2)),
    ],
)  # fmt: skip
def test_who_it_is_among_the_processes(monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = processes.process.__wrapped__()
    assert (found.index, found.count) == expected


@pytest.mark.parametrize(("nodes", "tasks", "devices"), [("2", "2", []), ("2", "4", None)])
def test_a_process_alone_on_its_node_has_all_its_devices(monkeypatch, nodes, tasks, devices):
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", nodes)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", tasks)
    assert processes._local_device_ids() == devices


@pytest.mark.parametrize(
    "environment, said",
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES is set, but not JAX_COORDINATOR_ADDRESS"),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID=2 must be below JAX_NUM_PROCESSES=2",
        ),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(monkeypatch, environment, said):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=said):
        processes.process.__wrapped__()
