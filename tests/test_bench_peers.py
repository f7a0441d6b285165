"""Programs that take turns, without running the big network; and their order, ratios and table."""

import json
import subprocess
import sys
from importlib import util

import pytest

from alexnet_jax.errors import AlexNetError, ConfigError
from bench import alternate, peers

WORKER = """
import json, sys
name = sys.argv[1]
print(json.dumps({"version": "v", "first_loss": 1.0}), flush=True)
for line in sys.stdin:
    with open(sys.argv[2], "a") as file: file.write(name + "\\n")
    print(json.dumps({"seconds": int(line) / 4, "peak_bytes": 10**9}), flush=True)
"""


@pytest.fixture
def turns(monkeypatch, tmp_path):
    """The file that lists who measured, in order; workers are replaced by ones that do nothing."""
    path = tmp_path / "turns"

    def start(program):
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", WORKER, program.label, str(path)]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    monkeypatch.setattr(alternate, "_start", start)
    return path


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
    [["--rounds", "0"], ["--threads", "100000"], ["--batch", "8", "0"], ["--peers", "x"]],
)
def test_wrong_arguments_are_refused(arguments, monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: "installed")
    with pytest.raises(ConfigError):
        peers.main(arguments)


def test_a_worker_that_ends_early_is_an_error_and_not_a_wait():
    worker = subprocess.Popen(
        [sys.executable, "-c", "raise SystemExit(3)"], stdout=subprocess.PIPE, text=True
    )
    with worker, pytest.raises(AlexNetError, match="ours ended with code 3"):
        alternate._answer(alternate.Program("ours", "", [], {}), worker)


def test_three_at_a_time_take_turns_in_changing_order(turns):
    programs = {name: alternate.Program(name, "", [], {}) for name in "abcd"}
    found = alternate.compare(programs, rounds=2, steps=2)
    assert turns.read_text().split() == [*"abc", *"bca", *"ad", *"da"]
    assert found["a"]["seconds"] == [0.5] * 4 and found["d"]["seconds"] == [0.5] * 2
    assert found["d"]["ratios"] == [1.0, 1.0] and found["d"]["peak_bytes"] == 10**9


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
    monkeypatch.setattr(subprocess, "Popen", lambda command, **given: given["env"])
    environment: dict = alternate._start(alternate.Program("p", "m", [], {}, kept))  # pyright: ignore
    assert environment.get("MALLOC_ARENA_MAX") == seen
