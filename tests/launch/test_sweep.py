"""The launcher without starting runs: which runs there are, their states, and which would be started."""

import json
import shlex
import subprocess
import sys

import pytest

from alexnet_jax.errors import ConfigError
from launch import local, member, runs, slurm, sweep

DIGITS = ["--scale", "digits", "--out"]


def one(out, member="base", seed=0, **overrides) -> runs.Run:
    return runs.run(member, "configs/scales.py:digits", overrides, seed, out)


ALIVE = {"host": "here", "heartbeat": "2012-09-30T12:00:00Z"}


def record(run: runs.Run, *ends: tuple[int | None, int]) -> None:
    """Write the files of starts that ended with (exit code, saved step); code None: the launcher was killed."""
    run.folder.mkdir(parents=True, exist_ok=True)
    starts = [
        {"time": "t"} | ({"code": code, "saved_step": step} if code is not None else {})
        for code, step in ends
    ]
    runs.write_record(run, starts=starts)
    status = {"state": "failed", "code": ends[-1][0], "saved_step": ends[-1][1]} | ALIVE
    (run.folder / "status.json").write_text(json.dumps(status))


def finish(run: runs.Run) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    status = {"state": "finished", "code": 0, "saved_step": 9} | ALIVE
    (run.folder / "status.json").write_text(json.dumps(status))
    (run.folder / "results.json").write_text("{}")


def test_it_prints_a_command_for_each_run_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "a b"
    assert (
        sweep.main(
            [
                "towers",
                "--scale",
                "cifar10",
                "--out",
                str(out),
                "--data",
                "images",
                "--seeds",
                "2",
                "--only",
                "base",
                "one_tower",
            ]
        )
        == 0
    )
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["launch/train.sh"] * 4
    assert [line[2] for line in lines] == ["configs/scales.py:cifar10"] * 2 + [
        "configs/ablations.py:one_tower,cifar10"
    ] * 2
    assert len({line[4] for line in lines}) == 4 and lines[0][4].startswith(f"{out}/")
    assert lines[1][5:] == [f"--config.data.path={runs.ROOT / 'images'}", "--config.seed=1"]
    assert not out.exists()


def test_a_run_is_known_by_what_moves_its_numbers(tmp_path):
    base = one(tmp_path)
    somewhere, elsewhere = (
        runs.run("base", "configs/scales.py:cifar10", {"data.path": path}, 0, tmp_path)
        for path in ("/somewhere", "/elsewhere")
    )
    assert somewhere.identity == elsewhere.identity
    harmless = {"data.threads": 9, "train.log_every": 3, "name": "x"}
    for key, value in harmless.items():
        assert one(tmp_path, "other", **{key: value}).identity == base.identity, key
    for key, value in {"train.max_steps": 3, "train.epochs": 1.0, "model.lrn": False}.items():
        assert one(tmp_path, **{key: value}).identity != base.identity, key
    assert one(tmp_path, seed=1).identity != base.identity
    assert one(tmp_path, **{"no.such": 1}).identity != one(tmp_path, **{"no.such": 2}).identity


@pytest.mark.fault("F46")
@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ([(75, 20)], ("stopped", 75, 20)),
        ([(8, 20)], ("stopped", 8, 20)),
        ([(137, 0)], ("stopped", 137, 0)),
        ([(139, 4)], ("stopped", 139, 4)),
        ([(None, 4)], ("stopped", 137, 4)),
        ([(4, 0)], ("failed", 4, 0)),
        ([(2, 0)], ("failed", 2, 0)),
        ([(7, 0)], ("failed", 7, 0)),
        ([(130, 5)], ("failed", 130, 5)),
        ([(137, 6)] * 3, ("stopped", 137, 6)),
        ([(137, 6)] * 4, ("failed", 137, 6)),
        ([(137, 6)] * 4 + [(137, 12)], ("stopped", 137, 12)),
    ],
)
def test_states_come_from_the_disk_and_retries_end(tmp_path, ends, state):
    run = one(tmp_path)
    assert runs.state(run).name == "waiting"
    record(run, *ends)
    assert runs.state(run) == state


def test_only_what_is_missing_or_stopped_is_run_again(tmp_path):
    every = [one(tmp_path, seed=seed) for seed in range(5)]
    finish(every[0])
    record(every[1], (4, 0))
    record(every[2], (75, 3))
    record(every[3], (None, 3))
    assert sweep.to_run(every, retry_failed=False) == every[2:]
    assert sweep.to_run(every, retry_failed=True) == every[1:]
    with runs.locked(every[4]) as mine:  # another launcher has it
        assert mine and runs.state(every[4]).name == "running"
        assert sweep.to_run([*every, every[2]], retry_failed=False) == every[2:4]
    assert runs.state(every[4]).name == "waiting"


def test_a_damaged_record_is_named(tmp_path):
    run = one(tmp_path)
    record(run, (75, 1))
    run.record.write_text("{")
    with pytest.raises(Exception, match=run.record.name):
        runs.state(run)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["pooling", "--scale", "digits", "--out", "o", "--only", "bse"],
            "non_overlapping_pooling",
        ),
        (
            ["pooling", "--scale", "digits", "--out", "o", "--seeds", "0"],
            "--seeds must be at least 1",
        ),
        (["pooling", "--scale", "cifar10", "--out", "o", "--local"], "--data PATH is missing"),
        (["pooling", *DIGITS, "o", "--data", "d", "--local"], "--data has no effect"),
        (["figure1", "--scale", "imagenet", "--out", "o"], "CIFAR-10"),
        (["pooling", "--scale", "digits", "--out", "o", "--local", "--slurm"], "not allowed with"),
        (["nonsense", "--scale", "digits", "--out", "o"], "ladder"),
    ],
)
def test_mistakes_are_said_in_one_line(arguments, words):
    with pytest.raises(ConfigError, match=words):
        sweep.main(arguments)


def test_the_launcher_does_not_import_jax(tmp_path):
    code = (
        "import sys; from launch import sweep, local, slurm, collect, member;"
        f"sweep.main(['init', '--scale', 'digits', '--out', {str(tmp_path)!r}]); print('jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=runs.ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_slots_share_the_cores(monkeypatch):
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5, 6, 7})
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert [slot.cores for slot in local.slots(4)] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert len(local.slots(None)) == 8
    assert [slot.cores for slot in local.slots(9)][-1] == (0,)
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in local.slots(None)] == ["2", "5"]
    assert [slot.cores for slot in local.slots(None)] == [(0, 1, 2, 3), (4, 5, 6, 7)]


def shares(jobs: int | None) -> list[tuple[str, str | None]]:
    """The GPU and memory fraction of each slot."""
    environments = [slot.environment for slot in local.slots(jobs)]
    return [(e["CUDA_VISIBLE_DEVICES"], e.get(local._FRACTION)) for e in environments]


def test_runs_that_share_a_gpu_divide_its_memory(monkeypatch):
    for name in ("JAX_PLATFORMS", local._FRACTION, "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert shares(1) == shares(None) == [("0", None)]
    assert shares(3) == [("0", "0.25")] * 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert shares(None) == [("2", None), ("5", None)]
    assert shares(3) == [("2", "0.375"), ("5", None), ("2", "0.375")]
    assert sum(float(share or 0.75) for gpu, share in shares(7) if gpu == "2") <= 0.75
    monkeypatch.setenv(local._FRACTION, "0.4")
    assert shares(4) == [("2", None), ("5", None)] * 2
    for given in ("0.6", "much"):
        monkeypatch.setenv(local._FRACTION, given)
        with pytest.raises(ConfigError, match=rf"{given} is too much for 2 runs .* fewer --jobs"):
            local.slots(4)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    assert shares(4) == [("2", None), ("5", None)] * 2


@pytest.mark.parametrize("hidden", ["", "-1", "-1,0", "NoDevFiles"])
def test_where_no_gpu_is_visible_none_is_used(monkeypatch, hidden):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert all(slot.environment == {} for slot in local.slots(2))


def test_what_is_collected_is_compared_with_the_base(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(sweep, "show", lambda options, every: shown.extend(every) or 0)
    asked = ["ablations", *DIGITS, str(tmp_path), "--only", "no_lrn", "tanh", "--seeds", "1"]
    sweep.main([*asked, "--collect"])
    assert [run.member for run in shown] == ["base", "no_lrn", "tanh"]


def test_without_the_base_no_difference_is_told(tmp_path, capsys):
    asked = ["ablations", *DIGITS, str(tmp_path), "--only", "no_lrn", "tanh", "--seeds", "1"]
    sweep.main(asked)
    assert len(capsys.readouterr().out.splitlines()) == 2  # runs: what was asked for alone


def test_paths_are_those_of_the_caller(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweep.main(["towers", *DIGITS, "o", "--only", "base", "--seeds", "1", "--config.data.path=d"])
    line = shlex.split(capsys.readouterr().out)
    assert line[4].startswith(f"{tmp_path}/o/") and f"--config.data.path={tmp_path}/d" in line


@pytest.mark.fault("F48")
def test_the_batch_script_asks_for_what_was_said(tmp_path):
    every = [one(tmp_path, seed=seed) for seed in range(3)]
    options = slurm.Options(
        "gpu", 8, 1, "32G", "04:00:00", nodes=2, processes=1, most=2, extra=("--account=me",)
    )
    text = slurm.script(every, options)
    for line in (
        "array=0-2%2", "signal=B:TERM@120", "requeue", "open-mode=append", "partition=gpu", "nodes=2",
        "ntasks-per-node=1", "cpus-per-task=8", "gpus-per-node=1", "mem=32G", "time=04:00:00", "account=me",
    ):  # fmt: skip
        assert f"#SBATCH --{line}\n" in text
    assert f"runs=({' '.join(run.identity for run in every)})" in text
    assert text.rstrip().endswith(
        f"-m launch.member {tmp_path} --srun ${{runs[$SLURM_ARRAY_TASK_ID]}}"
    )
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=20)
    plain = slurm.script(every, slurm.Options())
    assert "--srun" not in plain and "partition" not in plain


@pytest.mark.parametrize(
    ("ends", "code", "counts"),
    [
        ([(0, 75), (1, 75)], 75, 75),
        ([(0, 5), (1, 8)], 8, 5),  # the leader's disk is full
        ([(1, 3), (0, 8)], 8, 3),  # one node has no images
        ([(0, 8)], 137, 137),  # the other was killed
        ([("s 0-1", 2)], 2, 2),
    ],
)
def test_of_several_processes_the_code_counts_that_says_why(ends, code, counts):
    said = [f"srun: error: node{i}: task {i}: Exited with exit code {c}" for i, c in ends]
    said.insert(1, "srun: error: node2: task 1: Killed")
    assert member.exit_code(code, "\n".join(["step 4/48", *said, ""])) == counts


def test_without_slurm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="sbatch is not installed"):
        slurm.submit([one(tmp_path)], slurm.Options())
