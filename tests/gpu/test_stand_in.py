"""The tests for GPUs where there is none: some of them with the CPU in its place, and all of them skipped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import presence

ROOT = Path(__file__).resolve().parents[2]
#: Without the runs, and of each kind of test some that are compiled fast.
SOME = "(dense and highest) or (lrn_power and float32) or (tiny and highest) or tied or dropout or crops or batches"

pytestmark = pytest.mark.skipif(presence.is_here(), reason="nothing stands in for the GPU here")


def run(*arguments: str, **environment: str) -> str:
    """What pytest says of tests that do not fail."""
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith("ALEXNET_TEST")
    }
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *arguments]
    ended = subprocess.run(
        command, cwd=ROOT, env=ours | environment, capture_output=True, text=True
    )
    assert ended.returncode in (0, 5), ended.stdout  # 5: all were skipped
    return ended.stdout


@pytest.mark.full
def test_some_of_them_on_the_cpu():
    said = run("tests/gpu", f"-k=not stand_in and ({SOME})", ALEXNET_TEST_DEVICE="cpu")
    assert " passed" in said and " skipped" not in said


def test_without_a_gpu_they_are_skipped_before_jax_is_imported(tmp_path):
    (tmp_path / "jax.py").write_text("raise SystemExit('JAX was imported')")
    files = [
        str(path) for path in (ROOT / "tests/gpu").glob("test_*.py") if "stand" not in path.name
    ]
    said = run(*files, PYTHONPATH=str(tmp_path), JAX_PLATFORMS="", CUDA_VISIBLE_DEVICES="")
    assert said.count("no GPU: ") and f"{len(files)} skipped" in said


def test_beside_other_tests_they_are_skipped():
    said = run(
        "tests/gpu/test_step.py",
        "tests/test_ci.py::test_failing_tests_fail_the_script",
        JAX_PLATFORMS="",
    )
    assert "no GPU: JAX has the CPU alone in this run" in said and "1 passed, 1 skipped" in said
