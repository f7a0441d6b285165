"""Members of a sweep that run on two nodes of a real SLURM: `launch.sweep --slurm --nodes 2`.

Both nodes are on this host, each with a name and an address of its own.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from alexnet_jax.config import find
from launch import environment, runs
from tests.launch.test_local import folder, processes_of
from tests.reliability.compare import differences, snapshot
from tests.reliability.test_processes import free_address
from tests.reliability.test_start import stamp
from tests.slurm.cluster import Cluster, missing
from tests.slurm.test_slurm import SECONDS, codes, record, submit, wait

FIRST, SECOND = NODES = ("127.0.0.1", "127.0.0.2")


def may_rename() -> bool:
    """Whether this process may set the host names of others."""
    unshare = shutil.which("unshare")
    test = [unshare or "", "--uts", "true"]
    return bool(unshare) and not subprocess.run(test, capture_output=True, timeout=20).returncode


pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=f"SLURM is not installed: no {missing()}"),
    pytest.mark.skipif(not may_rename(), reason="two nodes on one host need the right to unshare"),
    pytest.mark.full,
    pytest.mark.fault("F48"),
]
TWO = ("--only", "good", "--nodes", "2", "--cpus", "2", "--time", "10")
SLOWLY = {"ALEXNET_FAULT": "train.step:*:sleep=0.1"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("slurm"), NODES) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    """The results of two processes on this host without SLURM, one device each."""
    out = tmp_path_factory.mktemp("local")
    run = runs.run("good", "tests/launch/faulty.py:good", {}, 0, out)
    address = free_address()
    places = [
        {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index),
         "JAX_NUM_CPU_DEVICES": "1"}
        for index in range(2)
    ]  # fmt: skip
    pair = [
        subprocess.Popen(run.command, cwd=find.ROOT, env=environment.environment() | place, stdout=subprocess.DEVNULL)
        for place in places
    ]  # fmt: skip
    try:
        assert [process.wait(SECONDS) for process in pair] == [0, 0]
    finally:
        for process in pair:
            process.kill()
            process.wait(SECONDS)
    return snapshot(run.folder)


def the_same(undisturbed: dict, out: Path) -> bool:
    end = snapshot(folder(out, "good"))
    return not [
        n for n in differences(undisturbed, end) if n.startswith(("48/", "metrics", "results"))
    ]


def started(cluster: Cluster, out: Path, step: int) -> str:
    """Submit a slowed-down run on two nodes; returns its job after `step` steps."""
    submit(cluster, out, *TWO, **SLOWLY)
    log = folder(out, "good") / "log.txt"
    wait(lambda: log.exists() and f"step {step}/" in log.read_text())
    return record(out, "good")["slurm"]


def ended(cluster: Cluster) -> None:
    wait(lambda: not cluster.ask("squeue", "-h"))


def process_of(out: Path, rank: int) -> int:
    """The training process of a rank; srun, which has SLURM_PROCID too, is in no step."""
    for pid in processes_of(out):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if b"SLURM_STEP_ID=0" in variables and f"SLURM_PROCID={rank}".encode() in variables:
            return pid
    raise LookupError(f"no process {rank}")


def test_a_member_on_two_nodes_computes_what_two_local_processes_do(
    cluster, undisturbed, tmp_path, figures
):
    submit(cluster, tmp_path, *TWO)
    ended(cluster)
    assert codes(tmp_path, "good") == [0]
    said = cluster.ask("scontrol", "show", "job", record(tmp_path, "good")["slurm"])
    assert "NumNodes=2" in said and "NumTasks=2" in said and "CPUs/Task=2" in said
    found = json.loads((folder(tmp_path, "good") / "run.json").read_text())
    assert found["processes"] == len(found["devices"]) == 2
    assert json.loads((folder(tmp_path, "good") / "status.json").read_text())["host"] == FIRST
    assert the_same(undisturbed, tmp_path)
    figures["SLURM, two nodes: the same bits"] += 1


@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_process_is_killed_the_other_ends_and_both_go_on(
    cluster, undisturbed, tmp_path, figures, rank
):
    started(cluster, tmp_path, 16)
    os.kill(process_of(tmp_path, rank), signal.SIGKILL)
    wait(lambda: codes(tmp_path, "good")[0] is not None)
    assert not processes_of(tmp_path)
    ended(cluster)
    assert codes(tmp_path, "good") == [137, 0]
    assert the_same(undisturbed, tmp_path)
    figures["SLURM, two nodes: the same bits"] += 1


@pytest.mark.parametrize("how", ["signal", "preemption"])
def test_both_nodes_are_told_to_stop_save_once_and_go_on(
    cluster, undisturbed, tmp_path, figures, how
):
    job = started(cluster, tmp_path, 16)
    if how == "signal":  # as --signal does before the time limit
        cluster.ask("scancel", "--signal=TERM", "--batch", job)
    else:
        cluster.ask("sbatch", "--partition=high", "--nodes=2", "--cpus-per-task=4", "--output=/dev/null",
                    "--wrap=sleep 1")  # fmt: skip
    ended(cluster)
    assert codes(tmp_path, "good") == [75, 0]
    log = (folder(tmp_path, "good") / "log.txt").read_text()
    first = record(tmp_path, "good")["starts"][0]
    assert first["saved_step"] > 16 and f"continuing from step {first['saved_step']}\n" in log
    assert the_same(undisturbed, tmp_path)
    figures["SLURM, two nodes: the same bits"] += 1


@pytest.mark.parametrize(
    ("member", "fault", "code"),
    [("wrong", "", 2), ("good", "save.folder:*:raise=EACCES", 5), ("diverging", "", 4)],
)
def test_what_cannot_be_mended_ends_with_the_code_of_the_process_that_says_why(
    cluster, tmp_path, member, fault, code
):
    submit(
        cluster, tmp_path, "--only", member, *TWO[2:],
        ALEXNET_FAULT=fault,
    )  # fmt: skip
    ended(cluster)
    assert codes(tmp_path, member) == [code]


def test_a_run_that_was_killed_goes_on_on_another_node(cluster, tmp_path):
    submit(cluster, tmp_path, "--only", "good", **SLOWLY)
    out = folder(tmp_path, "good")
    wait(lambda: (out / "log.txt").exists() and "step 16/" in (out / "log.txt").read_text())
    cluster.ask("scontrol", "update", f"nodename={FIRST}", "state=drain", "reason=test")
    (pid,) = processes_of(tmp_path)
    os.kill(pid, signal.SIGKILL)
    wait(lambda: codes(tmp_path, "good")[0] == 137)
    said = json.loads((out / "status.json").read_text())
    assert (said["state"], said["host"]) == ("running", FIRST)
    # SLURM waits two minutes by default before it starts a job again, this one seconds.
    (out / "status.json").write_text(json.dumps(said | {"heartbeat": stamp(130)}))
    try:
        ended(cluster)
    finally:
        cluster.ask("scontrol", "update", f"nodename={FIRST}", "state=resume")
    assert codes(tmp_path, "good") == [137, 0]
    assert json.loads((out / "status.json").read_text())["host"] == SECOND
