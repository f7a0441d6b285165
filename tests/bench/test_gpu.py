"""Stages and their limits, with trivial commands; the list of stages; the page of a record."""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexnet_jax.errors import ConfigError
from bench import alternate, gpu, hardware, kernels, layers, ours, stages, step, transfer
from bench.stages import Stage

ROOT = Path(__file__).resolve().parents[2]


def stage(name: str, script: str, limit=20.0, folder: Path | None = None, **others) -> Stage:
    """A stage that runs `script` in a shell; with `folder` its result is folder/NAME.json."""
    result = (lambda: gpu._json(folder / f"{name}.json")) if folder else lambda: None
    return Stage(name, name.title(), ["bash", "-c", script], 1.0, limit, result, **others)


def carry_out(some, folder, limit=math.inf):
    """Returns (exit code, record, all saved records)."""
    record, saved = {}, []
    code = stages.execute(
        some, record, folder, limit, dict(os.environ), lambda: saved.append(json.dumps(record))
    )
    return code, record, [json.loads(text) for text in saved]


def test_each_result_is_saved_before_the_next_stage_begins(tmp_path):
    one = stage("one", f"echo 1 >{tmp_path}/one.json", folder=tmp_path)
    two = stage("two", "true", skip="it is not there")
    three = stage("three", f"grep -q 1 {tmp_path}/one.json")
    code, record, saved = carry_out([one, two, three], tmp_path)
    assert code == 0
    states = {name: row["state"] for name, row in record.items()}
    assert states == {"one": "done", "two": "skipped", "three": "done"}
    assert record["one"]["result"] == 1 and "said" not in record["one"]
    assert record["two"]["reason"] == "it is not there" and "seconds" not in record["two"]
    while_three_ran = next(each for each in saved if each["three"]["state"] == "running")
    assert while_three_ran["one"]["result"] == 1


def test_a_stage_that_crashes_is_noted_and_the_next_goes_on(tmp_path):
    broken = stage("broken", "echo some words; exit 3", folder=tmp_path)
    killed = stage("killed", "kill -SEGV $$")
    code, record, _ = carry_out([broken, killed, stage("good", "true")], tmp_path)
    assert code == 1 and record["good"]["state"] == "done"
    assert record["broken"]["state"] == "failed" and record["broken"]["said"] == ["some words"]
    assert record["broken"]["reason"] == "ended with code 3"
    assert record["killed"]["reason"] == "ended with code -11"


def test_half_a_result_is_none(tmp_path):
    half = stage("half", f"echo '{{' >{tmp_path}/half.json", folder=tmp_path)
    _, record, _ = carry_out([half], tmp_path)
    assert record["half"]["result"] is None and "JSONDecodeError" in record["half"]["reason"]


def is_alive(process: int) -> bool:
    """Wait a moment, as the kernel may need one."""
    for _ in range(100):
        try:
            if Path(f"/proc/{process}/stat").read_text().split(") ")[-1][0] == "Z":
                return False
        except (FileNotFoundError, ProcessLookupError):
            return False
        time.sleep(0.05)
    return True


def test_a_stage_that_hangs_is_killed_with_all_that_it_started(tmp_path):
    script = f"echo 2 >{tmp_path}/hangs.json; trap '' TERM; sleep 7000 & echo $! >{tmp_path}/pid; sleep 7000"
    hangs = stage("hangs", script, limit=0.5, folder=tmp_path, grace=0.2)
    code, record, _ = carry_out([hangs, stage("good", "true")], tmp_path)
    assert code == 0
    assert record["hangs"]["state"] == "cut" and record["hangs"]["reason"] == "not done in 0 s"
    assert record["hangs"]["result"] == 2  # left before it hung
    assert record["good"]["state"] == "done"
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_what_a_stage_leaves_running_is_killed(tmp_path):
    leaves = stage("leaves", f"sleep 50 & echo $! >{tmp_path}/pid")
    carry_out([leaves], tmp_path)
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_without_time_the_rest_is_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "MIN_SECONDS", 0.5)
    some = [stage("long", "sleep 30"), stage("never", "true")]
    code, record, _ = carry_out(some, tmp_path, limit=1.0)
    assert code == 0 and [row["state"] for row in record.values()] == ["cut", "cut"]
    assert record["never"]["reason"] == "no time was left"


SCRIPT = """
import json, os, sys
from pathlib import Path
from bench import stages
folder, record = Path(sys.argv[1]), {}
def save(): (folder / "record.json").write_text(json.dumps(record))
def stage(name, script, result=None): return stages.Stage(name, name, ["bash", "-c", script], 1, 60, lambda: result)
some = [stage("done", "true", 7), stage("cut", f"echo $$ >{folder}/pid; sleep 60"), stage("not", "true")]
sys.exit(stages.execute(some, record, folder, 60, dict(os.environ), save))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGKILL, -9)]
)
def test_a_signal_loses_only_what_was_running(number, code, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT)
    pid = tmp_path / "pid"
    while not (pid.exists() and pid.read_text()):
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(30) == code
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["done"]["state"] == "done" and record["done"]["result"] == 7
    assert record["cut"]["state"] == ("running" if number == signal.SIGKILL else "cut")
    assert record["not"]["state"] == "cut"
    assert not is_alive(int(pid.read_text()))


class ReachedError(Exception):
    """A command accepted its arguments, and would begin to measure."""


@pytest.mark.parametrize("dry", [False, True])
def test_the_stages_are_commands_that_understand_their_arguments(dry, tmp_path, monkeypatch):
    def measure(*arguments, **others):
        raise ReachedError

    measuring = (
        (alternate, "report"),
        (kernels, "measure"),
        (layers, "measure"),
        (transfer, "measure"),
    )
    for module, name in (*measuring, (ours, "program")):
        monkeypatch.setattr(module, name, measure)
    monkeypatch.setattr(step, "platform", lambda: "gpu", raising=False)
    found = gpu.stages(dry, tmp_path)
    names = [each.name for each in found]
    assert names[:3] == ["tests", "peers-512", "kernels-512"] and len(set(names)) == len(names)
    for each in found[1:]:
        python, dash, module, *arguments = each.command
        assert (python, dash) == (sys.executable, "-m")
        with pytest.raises(ReachedError):
            importlib.import_module(module).main(arguments)
        assert dry or each.expected <= each.limit


def test_eight_minutes_hold_what_is_worth_most(tmp_path):
    ends, end = {}, 0.0
    for each in gpu.stages(False, tmp_path):
        end += each.expected
        ends[each.name] = end
    assert gpu.LIMIT < 8 * 60 and ends["layers-512"] <= gpu.LIMIT
    assert "cut, if the others" in gpu.plan(gpu.stages(False, tmp_path), gpu.LIMIT)


def options(**changed):
    given = dict(dry=True, only=None, data=None, limit=60.0, data_limit=60.0, out=None, resume=None)
    return gpu.argparse.Namespace(**(given | {"runs": Path("/runs")} | changed))


def test_with_data_there_are_runs_that_go_on(tmp_path):
    found = {each.name: each for each in gpu.data_stages(options(data=tmp_path / "data"))}
    assert [*found] == [*(f"cifar10-{net}" for net in gpu.NETS), "sweep", "sweep-tables"]
    assert "--workdir=/runs/cifar10-80sec" in found["cifar10-80sec"].command
    assert f"--config.data.path={tmp_path}/data" in found["cifar10-11pct"].command
    assert "--seeds=10" in found["sweep"].command and "--local" in found["sweep"].command
    assert min(found[name].grace for name in ("cifar10-80sec", "sweep")) >= 60  # to save
    assert gpu.data_stages(options()) == []


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Three trivial stages; the second fails while there is a file 'fail'."""
    made = [
        stage("tests", "true"),
        stage("nets", f"if [ -e {tmp_path}/fail ]; then exit 1; fi"),
        stage("transfer", "true"),
    ]
    monkeypatch.setattr(gpu, "stages", lambda dry, folder: made)
    monkeypatch.setattr(gpu.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    return tmp_path


def test_a_dry_run_writes_record_and_page_into_a_folder(fake, capsys):
    out = fake / "out"
    assert gpu.measure(options(out=out)) == 0
    (path,) = out.glob("gpu-*.json")
    record = json.loads(path.read_text())
    assert record["schema"] == 1 and record["dry"] and record["versions"]["jax"]
    assert [row["state"] for row in record["stages"].values()] == ["done"] * 3
    text = path.with_suffix(".md").read_text()
    assert "At toy size on a CPU" in text and "| transfer | done | 0 |  |" in text
    assert text in capsys.readouterr().out


def test_what_is_not_done_is_done_when_resumed(fake):
    (fake / "fail").touch()
    assert gpu.measure(options(out=fake / "out")) == 1
    (path,) = (fake / "out").glob("gpu-*.json")
    before = json.loads(path.read_text())
    assert before["stages"]["nets"]["state"] == "failed"
    (fake / "fail").unlink()
    assert gpu.measure(options(resume=path)) == 0
    after = json.loads(path.read_text())
    assert [row["state"] for row in after["stages"].values()] == ["done"] * 3
    assert after["stages"]["transfer"] == before["stages"]["transfer"]
    assert len(list((fake / "out").glob("*.json"))) == 1


def test_results_of_a_day_do_not_replace_one_another(fake):
    for _ in range(2):
        gpu.measure(options(out=fake / "out", only=["transfer"]))
    paths = sorted(path.name for path in (fake / "out").glob("*.json"))
    assert len(paths) == 2 and paths[0].endswith("-2.json")
    with pytest.raises(ConfigError, match="the stages are tests, nets, transfer"):
        gpu.measure(options(only=["x"]))


@pytest.mark.parametrize(("gpus", "who"), [([], "nvidia-smi lists"), ([{}], "JAX finds")])
def test_without_a_gpu_there_is_one_line(gpus, who, monkeypatch):
    monkeypatch.setattr(hardware, "gpus", lambda: gpus)
    monkeypatch.setattr(hardware, "device", lambda: "cpu")
    monkeypatch.delenv("GPU_DRY", raising=False)
    with pytest.raises(ConfigError, match=f"{who} no GPU; GPU_DRY=1 make gpu"):
        gpu.main([])


@pytest.mark.full
def test_the_whole_at_toy_size(tmp_path):
    """The stages of `GPU_DRY=1 make gpu`: two to four minutes on two cores."""
    command = [sys.executable, "-m", "bench.gpu", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"GPU_DRY": "1"}, check=True, timeout=900)
    (path,) = tmp_path.glob("*.json")
    rows = json.loads(path.read_text())["stages"]
    assert {row["state"] for row in rows.values()} <= {"done", "skipped"}
    assert all(row["result"] for row in rows.values() if row["state"] == "done")


PROGRAMS = {
    "ours": {"label": "alexnet_jax", "version": "jax 0.11.2", "seconds": [0.0112, 0.0113], "ratios": [1.0, 1.0],
             "peak_bytes": 5e9},
    "graph": {"label": "torch.compile, CUDA graph", "version": "torch 2.11", "seconds": [0.0224, 0.0226],
              "ratios": [2.0, 2.0], "peak_bytes": 6e9},
    "max": {"label": "torch.compile, max-autotune", "failed": "not reached in 78 s"},
}  # fmt: skip
CARD = {"name": "NVIDIA H200", "driver": "580.159.04", "memory_bytes": 150 << 30}
PLACE = {"machine": "a processor", "cores": 16, "memory_bytes": 128 << 30, "gpus": [CARD]}
KERNEL = {"operation": "cudnn-conv.1", "kernel": "sm90_conv", "layer": "conv1", "direction": "forward",
          "microseconds": 335.0, "count": 1.0, "op_name": "jit(_step)/jvp(AlexNet)/conv1/conv"}  # fmt: skip
RESULTS = {
    "tests": {"tests": 9, "failures": 1, "errors": 0, "skipped": 2},
    "peers-512": PLACE | {"device": "cuda", "dtype": "bfloat16", "steps": 30,
                          "measurements": [{"batch": 512, "programs": PROGRAMS}]},
    "kernels-512": PLACE | {
        "config": "paper", "batch": 512, "dtype": "bfloat16", "version": "jax 0.11.2", "device": "NVIDIA H200",
        "graphs": "off", "peak_flop": 790e12, "bandwidth": 4.3e12, "step_seconds": 0.0113, "known_share": 0.99,
        "layers": [{"layer": "conv1", "direction": "forward", "microseconds": 335.0, "kernels": 1.0, "bound": 223.0}],
        "kernels": [KERNEL],
    },
    "layers-512": PLACE | {
        "config": "paper", "batch": 512, "dtype": "bfloat16", "version": "jax 0.11.2", "device": "NVIDIA H200",
        "peak_flop": 790e12, "bandwidth": 4.3e12, "empty_seconds": 4e-6, "step_seconds": 0.0113,
        "layers": [
            {"layer": "conv1", "operation": "linear", "way": "forward", "flop": 1e9, "bytes": 1e6, "bound": 2e-4,
             "limit": "FLOP", "seconds": 4e-4},
            {"layer": "conv1", "operation": "lrn", "way": "backward", "flop": 0, "bytes": 1e6, "bound": 2e-4,
             "limit": "bytes", "error": "RESOURCE_EXHAUSTED"},
        ],
    },
    "nets": PLACE | {"device": "NVIDIA H200", "nets": [
        {"config": "quickstart", "batch": 128, "dtype": "float32", "steps_per_dispatch": 8, "alone": 1e-3,
         "in_a_row": 5e-4, "issued": 4e-4, "kernels": 2e-4}]},
    "transfer": PLACE | {"device": "NVIDIA H200", "batch": 512, "ways": [
        {"name": "to the device", "bytes_per_second": 1e10}, {"name": "pinned", "error": "ValueError: none"}]},
    "cifar10-80sec": {"epoch": 10.0, "seconds": 20.0, "images_per_second": 50000.0,
                      "splits": {"test": {"center": {"count": 10000, "top1_error": 0.262}}}},
    "sweep-tables": "# Ablations\n\n![figure](a.png)\n\n| member | error |\n|---|--:|\n| base | 39.6 % |\n",
}  # fmt: skip


@pytest.fixture
def record():
    rows = {
        name: {"title": f"Of {name}", "command": ["/x/python", "-m", "bench.x", f"--json=/tmp/{name}.json"],
               "state": "done", "seconds": 12.3, "result": result}
        for name, result in RESULTS.items()
    }  # fmt: skip
    rows["forms-2048"] = {
        "title": "Forms",
        "command": ["python"],
        "state": "cut",
        "reason": "no time was left",
    }
    rows["forms-512"] = {"title": "Forms", "command": ["python"], "state": "failed", "seconds": 1.0,
                         "reason": "ended with code 1", "result": None, "said": ["first", "last words"]}  # fmt: skip
    return {
        "schema": 1, "time": "2026-11-27T10:00:00Z", "commit": "abc1234", "command": [], "dry": False, **PLACE,
        "versions": {"jax": "0.11.2", "torch": "2.11.0"}, "limit": 475.0, "seconds": 470.2, "stages": rows,
    }  # fmt: skip


def test_the_page_has_the_tables_of_all_stages(record):
    text = gpu.page(record)
    for line in (
        "# Measured on a GPU, 2026-11-27",
        "| forms-2048 | cut |  | no time was left |",
        "## Of peers-512",
        "`python -m bench.x`",
        "| torch.compile, CUDA graph | torch 2.11 | 22.50 | 22.40 to 22.60 | 22,755.6 | 2.00 | 6.0 |",
        "| torch.compile, max-autotune | not reached in 78 s |  |  |  |  |  |",
        "| conv1 | forward | 335 | 1 | 100.0% | 223 | 67% |",
        "| conv1 | linear | forward | 1.00 | 1.0 | 0.400 | 0.200 | FLOP | 50% | 3.5% |",
        "| quickstart | 128 | float32 | 8 | 1.000 | 0.500 | 0.400 | 0.200 | 256,000 |",
        "| to the device | 10.0 | 50,863 |",
        "| pinned | ValueError: none |  |",
        "6 passed, 1 failed, 2 skipped.",
        "| test | center | 10,000 | 26.20% |",
        "| base | 39.6 % |",
        "last words",
    ):
        assert line in text.splitlines(), line
    assert "abc1234; one NVIDIA H200, driver 580.159.04; 16 cores of a processor" in text
    assert "a.png" not in text and "toy size" not in text


def test_a_page_is_made_anew_without_measuring(record, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    path = tmp_path / "gpu-2026-11-27.json"
    path.write_text(json.dumps(record))
    assert gpu.main(["--page", str(path)]) == 0
    assert path.with_suffix(".md").read_text() == gpu.page(record)


def test_tests_are_counted_from_their_file(tmp_path):
    path = tmp_path / "tests.xml"
    assert gpu._counts(path) is None
    path.write_text(
        '<testsuites><testsuite name="pytest" errors="0" failures="1" skipped="2" tests="9"/></testsuites>'
    )
    assert gpu._counts(path) == RESULTS["tests"]


def test_the_compilation_cache_is_the_one_that_is_set(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/cache")
    assert gpu._environment(False, tmp_path)["JAX_COMPILATION_CACHE_DIR"] == "/cache"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    environment = gpu._environment(True, tmp_path)
    assert environment["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "cache")
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert alternate.STEPS["cuda"] == 30
