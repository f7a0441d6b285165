"""The seconds of a start are those at which the log reaches each stage; the program is a trivial one."""

import json
import stat
import sys

import pytest

from alexnet_jax.errors import AlexNetError
from bench import startup

PROGRAM = """#!{python}
import os, sys, time
with open({calls!r}, "a") as file:
    print(os.environ["JAX_COMPILATION_CACHE_DIR"], *sys.argv[1:], file=file)
for line in {lines!r}:
    print(line, flush=True)
if "step 1/5" in {lines!r}:
    time.sleep(60)
print("no images", file=sys.stderr)
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """f(lines) makes a program that prints `lines` stand for Python; the file lists its calls."""
    path, calls = tmp_path / "program", tmp_path / "calls"

    def make(*lines):
        path.write_text(PROGRAM.format(python=sys.executable, calls=str(calls), lines=lines))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(path))
        return calls

    return make


LINES = (
    "tiny: 5 parameters",
    "1,000 steps of 64 = 2.0 epochs, on 1 cpu device(s)",
    "signal in each layer",
    "step 1/5",
)


def test_each_round_starts_cold_and_warm_and_ends_after_the_first_step(program, tmp_path, capsys):
    calls, path = program(*LINES), tmp_path / "startup.json"
    assert startup.main(["--config", "tests/tiny.py", "--rounds", "2", "--json", str(path)]) == 0
    caches = [line.split()[0] for line in calls.read_text().splitlines()]
    assert len(caches) == 4 and caches[0] == caches[1] != caches[2] == caches[3]
    starts = json.loads(path.read_text())["starts"]
    assert [start["cache"] for start in starts] == ["cold", "warm"]
    for start in starts:
        for data, signal, step in zip(*start["seconds"].values(), strict=True):
            assert 0 < data <= signal <= step < 60
    assert "| tests/tiny.py | cold |" in capsys.readouterr().out


def test_configs_that_read_files_get_random_images(program):
    calls = program(*LINES)
    startup.measure("cifar10:80sec", [], 1)
    assert "--config.data.source=synthetic" in calls.read_text()
    calls.unlink()
    startup.measure("quickstart", [], 1)
    assert "synthetic" not in calls.read_text()


def test_a_start_that_ends_early_says_why(program, tmp_path):
    program(*LINES[:2])
    with pytest.raises(AlexNetError, match=r"ended before its first step.*no images"):
        startup.start("tests/tiny.py", [], tmp_path, "run")
