"""The bench of the training step, without running the big network."""

import json
import subprocess
import sys
from importlib import util

import pytest

from alexnet_jax.bench import step
from alexnet_jax.errors import AlexNetError, ConfigError


def report(**seconds):
    facts = {"version": "jax 0", "parameters": 1}
    return {
        "machine": "a processor",
        "threads": 2,
        "batch": 32,
        "steps": 3,
        "torch_lrn": "shipped",
        "programs": {name: facts | {"seconds": values} for name, values in seconds.items()},
    }


def test_the_table_gives_the_median_of_the_ratios_of_each_round():
    # A slow second round must not count: medians 1.0 and 2.0, but ratios 2, 1.5 and 3.
    lines = step.table(report(ours=[1.0, 2.0, 1.0], compile=[2.0, 3.0, 3.0])).splitlines()
    ours, peer = lines[-2], lines[-1]
    assert "| 1.000 | 1.000 to 2.000 | 32.0 |" in ours
    assert "torch.compile" in peer and "2.00x" in peer and "3.000 | 2.000 to 3.000" in peer


def test_without_torch_the_bench_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="PyTorch is not installed") as caught:
        step.main([])
    assert caught.value.exit_code == 2 and "\n" not in caught.value.line()


@pytest.mark.parametrize(
    "arguments", [["--rounds", "0"], ["--threads", "100000"], ["--peers", "x"]]
)
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ConfigError):
        step.main(arguments)


def test_a_worker_that_ends_early_is_an_error_and_not_a_wait():
    worker = subprocess.Popen(
        [sys.executable, "-c", "raise SystemExit(3)"], stdout=subprocess.PIPE, text=True
    )
    try:
        with pytest.raises(AlexNetError, match="ended with code 3"):
            step._answer("ours", worker)
    finally:
        worker.communicate()


def test_every_program_is_measured_once_a_round_and_the_json_holds_all(
    monkeypatch, tmp_path, capsys
):
    code = (
        'import sys; print(\'{"version": "v", "parameters": 1}\', flush=True)\n'
        "for line in sys.stdin: print(int(line) / 4, flush=True)"
    )

    def start(name, options):
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)

    closed = []
    kill = subprocess.Popen.kill
    monkeypatch.setattr(
        subprocess.Popen, "kill", lambda worker: (closed.append(worker), kill(worker))
    )
    monkeypatch.setattr(step, "_start", start)
    path = tmp_path / "step.json"
    assert (
        step.main(["--peers", "plain", "--rounds", "2", "--steps", "2", "--json", str(path)]) == 0
    )
    for worker in closed:
        worker.stdin.close()
        worker.stdout.close()
    programs = json.loads(path.read_text())["programs"]
    assert {name: program["seconds"] for name, program in programs.items()} == {
        "ours": [0.5, 0.5],
        "plain": [0.5, 0.5],
    }
    assert "1.00x" in capsys.readouterr().out
