"""Which Pythons .ci/run runs the tests on. `make` and the interpreters are stand-ins."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "run"
TOOLS = ("bash", "env", "dirname", "id", "grep")


def executable(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def run(tmp_path):
    """Run a copy of the script and return the lines it prints; with only TOOLS and stand-ins, it installs nothing."""
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    executable(tmp_path / "bin" / "make", 'echo "make $*${GPU_DRY:+ at toy size}"')
    (tmp_path / ".ci").mkdir()
    shutil.copy(SCRIPT, tmp_path / ".ci" / "run")

    def run(venv: str) -> list[str]:
        executable(tmp_path / ".venv" / "bin" / "python", f"echo Python {venv}")
        environment = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path / "home")}
        said = subprocess.run(
            [tmp_path / ".ci" / "run"], env=environment, capture_output=True, text=True, check=True
        )
        return said.stdout.replace(f"{tmp_path}{os.sep}", "").splitlines()

    return run


def test_both_pythons_run_the_tests_each_in_its_own_environment(run, tmp_path):
    executable(tmp_path / "bin" / "python3.11", "exit 0")
    executable(tmp_path / "bin" / "python3.12", "exit 0")
    assert run("3.11.9") == [
        "make PYTHON=bin/python3.11 lint test",
        "make gpu at toy size",
        "make VENV=.venv-3.12 PYTHON=bin/python3.12 test",
    ]


@pytest.mark.parametrize("root", ["home/.pyenv", "elsewhere"])
def test_a_shim_that_does_not_work_gives_way_to_the_python_of_pyenv(run, tmp_path, root):
    if root == "elsewhere":
        executable(tmp_path / "bin" / "pyenv", f"echo {tmp_path / root}")
    executable(tmp_path / "bin" / "python3.12", "exit 127")
    executable(tmp_path / root / "versions" / "3.12.1" / "bin" / "python3.12", "exit 0")
    assert run("3.11.9") == [
        "make lint test",
        "make gpu at toy size",
        f"make VENV=.venv-3.12 PYTHON={root}/versions/3.12.1/bin/python3.12 test",
    ]


def test_without_python_3_12_it_says_so(run):
    first, _, said = run("3.11.9")
    assert first == "make lint test" and said.startswith("No Python 3.12")


def test_python_3_12_runs_the_tests_once_where_it_is_the_only_one(run, tmp_path):
    executable(tmp_path / "bin" / "python3.12", "exit 0")
    assert run("3.12.1") == ["make lint test", "make gpu at toy size"]


def test_failing_tests_fail_the_script(run, tmp_path):
    executable(tmp_path / "bin" / "make", "exit 2")
    with pytest.raises(subprocess.CalledProcessError):
        run("3.11.9")
