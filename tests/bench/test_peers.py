"""Programs in alternation, with trivial workers: order, ratios and table."""

import json
import os
import subprocess
import sys
from importlib import util

import pytest

from alexnet_jax.config import find
from alexnet_jax.errors import AlexNetError, ConfigError
from bench import alternate, hardware, peers

WORKER = """
import json, sys, time
name = sys.argv[1]
print("{}", flush=True)
sys.stdin.readline()
if name == "slow": time.sleep(60)
if name == "broken": sys.exit("some lines\\nno memory | at all")
print(json.dumps({"version": "v", "first_loss": 1.0}), flush=True)
for line in sys.stdin:
    with open(sys.argv[2], "a") as file: file.write(name + ("!" if line == "tune\\n" else "") + "\\n")
    if line == "tune\\n":
        print("{}", flush=True)
        continue
    if name == "breaks": raise ValueError("no")
    print(json.dumps({"seconds": int(line) / 4, "peak_bytes": 10**9}), flush=True)
"""


@pytest.fixture
def turns(monkeypatch, tmp_path):
    """The file that lists measurements in order; workers are replaced by trivial ones."""
    path = tmp_path / "turns"

    def start(program, device, errors):
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", WORKER, program.label, str(path)]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors)

    monkeypatch.setattr(alternate, "_start", start)
    monkeypatch.setattr(hardware, "device", lambda: "cpu")
    return path


def programs(names):
    return {name: alternate.Program(name, "", [], {}) for name in names}


def report(**seconds):
    base = next(iter(seconds.values()))
    programs = {
        name: {
            "label": name, "version": "jax 0", "seconds": values, "peak_bytes": 2.5e9,
            "ratios": [theirs / mine for theirs, mine in zip(values, base, strict=True)],
        }
        for name, values in seconds.items()
    }  # fmt: skip
    facts = {"machine": "a processor", "cores": 2, "memory_bytes": 24 * 10**9, "steps": 3}
    return facts, {"batch": 32, "programs": programs}


def test_the_table_gives_the_median_of_the_ratios_of_each_round():
    # A slow second round must not count: medians 1.0 and 2.0, but ratios 2, 1.5 and 3.
    lines = alternate.table(*report(ours=[1.0, 2.0, 1.0], peer=[2.0, 3.0, 3.0])).splitlines()
    ours, peer = lines[-2], lines[-1]
    assert "| 1.000 | 1.000 to 2.000 | 32.0 |  | 2.5 |" in ours
    assert "| 3.000 | 2.000 to 3.000 | 10.7 | 2.00 | 2.5 |" in peer


def test_without_torch_the_bench_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="PyTorch is not installed") as caught:
        peers.main([])
    assert caught.value.exit_code == 2 and "\n" not in caught.value.line()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rounds", "0"],
        ["--threads", "100000"],
        ["--batch", "8", "0"],
        ["--peers", "x"],
        ["--config", "cifar10:resized"],
    ],
)
def test_wrong_arguments_are_refused(arguments, monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: "installed")
    with pytest.raises(ConfigError):
        peers.main(arguments)


def test_a_worker_that_ends_early_is_an_error_and_not_a_wait(turns):
    with pytest.raises(AlexNetError, match="broken ended with code 1: no memory / at all"):
        alternate.compare(programs(["a", "broken"]), rounds=1, steps=1)


def test_three_at_a_time_take_turns_in_changing_order(turns):
    found = alternate.compare(programs("abcd"), rounds=2, steps=2)
    assert turns.read_text().split() == [*"abc", *"bca", *"ad", *"da"]
    assert list(found) == [*"abcd"]
    assert found["a"]["seconds"] == [0.5] * 4 and found["d"]["seconds"] == [0.5] * 2
    assert found["d"]["ratios"] == [1.0, 1.0] and found["d"]["peak_bytes"] == 10**9


def test_on_a_gpu_each_tunes_alone_before_the_first_round(turns):
    found = alternate.compare(programs("abcd"), 2, 2, device="cuda", beside=12)
    assert turns.read_text().split() == ["a!", "b!", "c!", "d!", *"abcd", *"bcda"]
    assert found["d"]["ratios"] == [1.0, 1.0]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_fails_is_reported_and_the_others_go_on(turns, device, capfd):
    names = ["a", "broken", "breaks", "d"]
    found = alternate.compare(programs(names), 2, 2, device=device, keep_going=True)
    assert list(found) == names
    assert found["broken"]["failed"] == "broken ended with code 1: no memory / at all"
    assert found["breaks"]["failed"] == "breaks ended with code 1: ValueError: no"
    assert found["d"]["ratios"] == [1.0, 1.0]
    assert "some lines" in capfd.readouterr().err


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_not_ready_in_its_share_is_left_out(turns, device):
    found = alternate.compare(programs(["a", "slow"]), 3, 2, device=device, seconds=3)
    assert found["slow"] == {"label": "slow", "failed": "not reached in 2 s"}
    assert found["a"]["seconds"] == [0.5] * 3


def test_without_the_first_there_are_no_ratios(turns):
    found = alternate.compare(programs(["broken", "b", "c"]), 2, 2, beside=1, keep_going=True)
    assert "failed" in found["broken"] and found["c"]["ratios"] == []
    facts, measured = report(ours=[1.0], peer=[2.0])
    measured["programs"] = found
    lines = alternate.table(facts, measured).splitlines()
    assert "| broken | broken ended with code 1: no memory / at all |  |  |  |  |  |" in lines


def test_no_more_rounds_begin_when_the_time_is_over(turns):
    found = alternate.compare(programs("ab"), 100_000, 2, seconds=2)
    assert 1 <= len(found["b"]["seconds"]) < 100_000


def test_a_gpu_is_named_and_its_times_are_milliseconds():
    facts, measured = report(ours=[0.0125, 0.0126, 0.0127], peer=[0.025, 0.0252, 0.0254])
    facts |= {"device": "cuda", "gpus": [{"name": "NVIDIA H200", "driver": "580.1"}]}
    text = alternate.table(facts | {"dtype": "bfloat16"}, measured)
    assert text.startswith("Batch 32, bfloat16; one NVIDIA H200, driver 580.1; a round is 3 steps")
    assert "| 12.60 | 12.50 to 12.70 | 2,539.7 |  | 2.5 |" in text
    assert "| 25.20 | 25.00 to 25.40 | 1,269.8 | 2.00 | 2.5 |" in text


def test_every_batch_is_measured_and_the_json_holds_all(turns, tmp_path, capsys):
    path = tmp_path / "peers.json"
    arguments = ["--peers", "plain", "--batch", "8", "16", "--rounds", "2", "--steps", "2"]
    assert peers.main([*arguments, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert [measured["batch"] for measured in report["measurements"]] == [8, 16]
    for measured in report["measurements"]:
        assert {name: p["seconds"] for name, p in measured["programs"].items()} == {
            "ours": [0.5, 0.5],
            "plain": [0.5, 0.5],
        }
    assert "| 32.0 | 1.00 |" in capsys.readouterr().out


@pytest.mark.parametrize(("kept", "seen"), [(True, "1"), (False, None)])
def test_memory_settings_are_given_or_taken_away(kept, seen, monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    environment = environment_of(alternate.Program("p", "m", [], {}, kept), "cpu", monkeypatch)
    assert environment.get("MALLOC_ARENA_MAX") == seen
    assert environment["JAX_PLATFORMS"] == "cpu"


def test_the_memory_settings_are_those_of_the_device():
    settings = (find.ROOT / "launch" / "malloc.env").read_text().splitlines()
    names = {line.partition("=")[0] for line in settings if not line.startswith("#")}
    assert set(alternate.memory_settings("cpu")) == names
    on_gpu = alternate.memory_settings("cuda,cpu")
    assert names - set(on_gpu) == {"MALLOC_ARENA_MAX"}


def environment_of(program, device, monkeypatch) -> dict:
    alternate.memory_settings("cpu" if device == "cpu" else "cuda,cpu")  # read before
    monkeypatch.setattr(subprocess, "Popen", lambda command, **given: given["env"])
    return alternate._start(program, device, None)  # pyright: ignore


def test_on_a_gpu_a_program_must_not_fall_back_to_the_cpu(monkeypatch):
    environment = environment_of(alternate.Program("p", "m", [], {}), "cuda", monkeypatch)
    assert environment["JAX_PLATFORMS"] == alternate.ON_GPU
    assert environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.undo()
    script = "import jax; from bench import alternate; alternate.serve(lambda: (float, {}))"
    said = subprocess.run(
        [sys.executable, "-c", script], input="begin\n", capture_output=True, text=True,
        env=os.environ | {"JAX_PLATFORMS": alternate.ON_GPU, "CUDA_VISIBLE_DEVICES": ""}, cwd=find.ROOT,
    )  # fmt: skip
    assert "JAX finds no GPU" in said.stderr and not said.stdout


def started(arguments, device, monkeypatch) -> tuple:
    """The options, programs at batch 8 and facts of a benchmark."""
    found = []
    monkeypatch.setattr(util, "find_spec", lambda name: "installed")
    monkeypatch.setattr(hardware, "device", lambda: device)
    monkeypatch.setattr(
        alternate, "report", lambda options, at, **facts: found.extend([options, at(8), facts])
    )
    assert peers.main(arguments) == 0
    return tuple(found)


def test_a_gpu_has_more_peers_and_computes_in_bfloat16(monkeypatch):
    options, programs, facts = started([], "cuda", monkeypatch)
    assert list(programs) == ["ours", *peers.ON_GPU] and set(peers.ON_GPU) == set(peers.PEERS)
    assert (options.batch, options.steps, options.beside) == ([128, 512], 30, 12)
    assert facts == {"dtype": "bfloat16", "config": "configs/paper.py"}
    for program in programs.values():
        assert program.arguments[-2:] == ["--device=cuda", "--dtype=bfloat16"]
    _, programs, facts = started(["--dtype", "float32"], "cuda", monkeypatch)
    assert programs["graph"].arguments[-1] == "--dtype=float32" and facts["dtype"] == "float32"


def test_a_cpu_has_the_peers_it_had(monkeypatch):
    options, programs, facts = started([], "cpu", monkeypatch)
    assert list(programs) == ["ours", *peers.ON_CPU] and facts["dtype"] == "float32"
    assert (options.batch, options.steps, options.beside) == ([32], 3, 2)
    assert started([], "cuda", monkeypatch)[0].device == "cuda"
    assert started(["--device", "cpu"], "cuda", monkeypatch)[0].device == "cpu"
    with pytest.raises(ConfigError, match="only on a GPU"):
        started(["--peers", "graph"], "cpu", monkeypatch)


@pytest.mark.parametrize("config", ["paper", "configs/paper.py"])
def test_plain_flax_has_the_network_of_the_paper_under_any_name(config, monkeypatch):
    _, programs, _ = started(["--config", config], "cpu", monkeypatch)
    assert list(programs) == ["ours", *peers.ON_CPU]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("cifar10:80sec", ["eager", "compile"]),
        ("quickstart", ["eager", "eager-written", "compile", "compile-written"]),
    ],
)
def test_another_config_has_the_peers_that_have_its_network(config, expected, monkeypatch):
    _, programs, facts = started(["--config", config], "cpu", monkeypatch)
    assert list(programs) == ["ours", *expected] and facts["config"] == config
    assert all(f"--config={config}" in program.arguments for program in programs.values())
    with pytest.raises(ConfigError, match="plain: only for --config"):
        started(["--config", config, "--peers", "plain"], "cpu", monkeypatch)


@pytest.mark.parametrize(
    ("said", "count"),
    [("NVIDIA H200, 580.159.04, 143771\n" * 2, 2), ("No devices were found\n", 0)],
)
def test_gpus_are_read_from_the_driver(said, count, monkeypatch):
    answer = subprocess.CompletedProcess([], 0, stdout=said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    found = hardware.gpus.__wrapped__()
    card = {"name": "NVIDIA H200", "driver": "580.159.04", "memory_bytes": 143771 << 20}
    assert found == [card] * count


def test_without_a_driver_the_device_is_the_cpu(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(hardware, "gpus", lambda: [])
    assert hardware.device.__wrapped__() == "cpu"


def test_the_versions_are_those_of_this_process():
    import jax

    assert hardware.versions()["jax"] == jax.__version__


def test_a_worker_serves_and_tunes_when_told():
    script = (
        "from bench import alternate; ran = []\n"
        "facts = {'version': 'v', 'tune': lambda: ran.append('tune')}\n"
        "alternate.serve(lambda: (lambda steps: ran.append(steps) or float(len(ran)), facts))"
    )
    command = [sys.executable, "-c", script]
    said = subprocess.run(
        command, input="begin\ntune\n7\n", capture_output=True, text=True, cwd=find.ROOT
    )
    built, facts, tuned, measured = map(json.loads, said.stdout.splitlines())
    assert (
        built == {}
        and facts["version"] == "v"
        and "tune" not in facts
        and facts["first_loss"] == 1.0
    )
    assert tuned == {} and set(measured) == {"seconds", "peak_bytes"}
