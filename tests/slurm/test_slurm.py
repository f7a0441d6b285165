"""Sweeps on a real SLURM with one node on this host."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_jax.config import find
from launch import runs
from tests.launch.test_local import folder, without_config
from tests.reliability.compare import differences, snapshot
from tests.slurm.cluster import Cluster, missing

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=f"SLURM is not installed: no {missing()}"),
]
SECONDS = 240


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


def submit(cluster: Cluster, out: Path, *arguments: str, **further: str) -> str:
    """Run `launch.sweep --slurm` and return its output; `further` are environment variables of the jobs."""
    command = [sys.executable, "-m", "tests.launch.driver", "faulty", "--scale", "digits", "--out", str(out),
               "--slurm", *arguments]  # fmt: skip
    environment = os.environ | cluster.environment | {
        "JAX_NUM_CPU_DEVICES": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    } | further  # fmt: skip
    done = subprocess.run(
        command, cwd=find.ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait(ready, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.1)


def record(out: Path, member: str) -> dict:
    return json.loads((out / "members" / f"{folder(out, member).name}.json").read_text())


def codes(out: Path, member: str) -> list[int | None]:
    return [start.get("code") for start in record(out, member)["starts"]]


@pytest.mark.fault("F48")
@pytest.mark.usefixtures("without_xla_flags")
def test_what_cannot_be_mended_ends_with_its_code_and_is_not_put_back(cluster, tmp_path):
    said = submit(cluster, tmp_path, "--only", "wrong")
    assert re.search(r"submitted 1 runs as job \d+", said)
    wait(lambda: not cluster.ask("squeue", "-h"))
    assert codes(tmp_path, "wrong") == [2]
    job = record(tmp_path, "wrong")["slurm"]
    assert re.search(
        r"Restarts=0 .*ExitCode=2:0", cluster.ask("scontrol", "show", "job", job), re.DOTALL
    )
    assert "submitted" not in submit(cluster, tmp_path, "--only", "wrong")


@pytest.mark.full
@pytest.mark.fault("F46", "F48")
def test_killed_and_preempted_members_go_on_by_themselves_to_the_same_bits(
    cluster, tmp_path, figures
):
    submit(
        cluster, tmp_path, "--only", "good", "killed", "preempted", "--cpus", "1", "--time", "10"
    )
    again = submit(cluster, tmp_path, "--only", "good", "killed", "preempted")
    assert "submitted" not in again  # they are in the queue
    wait(lambda: not cluster.ask("squeue", "-h"))
    assert codes(tmp_path, "good") == [0]
    assert codes(tmp_path, "killed") == [137, 0]
    assert codes(tmp_path, "preempted") == [75, 0]
    good = without_config(snapshot(folder(tmp_path, "good")))
    for member in ("killed", "preempted"):
        end = without_config(snapshot(folder(tmp_path, member)))
        assert [
            n for n in differences(good, end) if n.startswith(("48/", "metrics", "results"))
        ] == []
        figures["SLURM: put back into the queue, then the same bits"] += 1


@pytest.mark.full
@pytest.mark.fault("F48")
def test_slurm_preempts_signals_and_cancels(cluster, tmp_path):
    long = ("--only", "good", "--config.train.epochs=2000.0")
    submit(cluster, tmp_path, *long)
    out = folder(tmp_path, "good")
    log = out / "log.txt"
    wait(lambda: log.exists() and "step 60/" in log.read_text())
    job = record(tmp_path, "good")["slurm"]

    # As --signal does before the time limit.
    cluster.ask("scancel", "--signal=TERM", "--batch", job)
    wait(lambda: "continuing from step" in log.read_text())
    assert codes(tmp_path, "good")[0] == 75

    # A job that needs the whole node, with a higher priority.
    high = cluster.ask("sbatch", "--parsable", "--partition=high", "--cpus-per-task=4", "--output=/dev/null",
                       "--wrap=sleep 1")  # fmt: skip
    wait(lambda: high not in cluster.ask("squeue", "-h", "-o", "%i"))
    wait(lambda: log.read_text().count("continuing from step") == 2)
    assert codes(tmp_path, "good")[:2] == [75, 75]

    # A person who cancels does not find it in the queue again.
    cluster.ask("scancel", job)
    wait(lambda: not cluster.ask("squeue", "-h"))
    assert codes(tmp_path, "good") == [75, 75, 75]
    assert "CANCELLED" in cluster.ask("scontrol", "show", "job", job)


@pytest.mark.full
@pytest.mark.fault("F48")
def test_srun_starts_processes_that_find_each_other(cluster, tmp_path):
    every = [runs.run("good", "tests/launch/faulty.py:good", {}, 0, tmp_path)]
    runs.write_record(every[0])
    command = [sys.executable, "-m", "launch.member", str(tmp_path), every[0].identity, "--srun"]
    cluster.ask("sbatch", f"--chdir={find.ROOT}", "--output=/dev/null", "--ntasks=2",
                "--export=ALL,JAX_NUM_CPU_DEVICES=1", f"--wrap={' '.join(command)}")  # fmt: skip
    wait(lambda: not cluster.ask("squeue", "-h"))
    assert runs.state(every[0]).name == "finished"
    environment = json.loads((folder(tmp_path, "good") / "run.json").read_text())
    assert environment["processes"] == len(environment["devices"]) == 2
