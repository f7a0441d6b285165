"""Memory settings by machine: one malloc arena on CPUs, the default with a GPU."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GPU = "GPU 0: NVIDIA H100 (UUID: GPU-0000)"
FAILED = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver"


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path):
    """f((output of nvidia-smi, its exit code), variables) -> the environment of such a machine."""
    script(tmp_path / "python", 'env\necho "arguments: $@"')

    def environment(said: tuple[str, int] | None, **variables: str) -> dict[str, str]:
        text, code = said or ("", 127)  # as where there is none
        script(tmp_path / "nvidia-smi", f'[ "$*" = -L ] || exit 9\necho "{text}"; exit {code}')
        path = f"{tmp_path}:{os.environ['PATH']}"
        return {"PATH": path, "PYTHON": str(tmp_path / "python"), **variables}

    return environment


@pytest.mark.parametrize(
    ("said", "variables", "one_arena"),
    [
        (None, {}, True),
        (("No devices were found", 0), {}, True),
        ((FAILED, 9), {}, True),
        ((GPU, 0), {}, False),
        ((GPU, 0), {"JAX_PLATFORMS": "cpu"}, True),
        (None, {"JAX_PLATFORMS": "cuda"}, False),
        (None, {"JAX_PLATFORMS": "cuda,cpu"}, False),
        (None, {"JAX_PLATFORMS": "gpu"}, False),
        ((GPU, 0), {"MALLOC_ARENA_MAX": "4"}, False),
    ],
)
def test_one_arena_is_for_cpus(machine, said, variables, one_arena):
    environment = machine(said, **variables)
    command = [ROOT / "launch" / "train.sh", "--workdir", "a b"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert "arguments: -P -m alexnet_jax.main --workdir a b" in lines
    assert "MALLOC_MMAP_MAX_=0" in lines and "MALLOC_TOP_PAD_=268435456" in lines
    found = [line for line in lines if line.startswith("MALLOC_ARENA_MAX=")]
    before = [f"{name}={value}" for name, value in variables.items() if name.startswith("MALLOC")]
    assert found == (["MALLOC_ARENA_MAX=1"] if one_arena else before)


@pytest.mark.parametrize("goal", ["quickstart", "bench", "reliability"])
def test_make_has_the_same_rule(machine, goal):
    def variables(said) -> str:
        command = ["make", "-n", "-p", goal]
        done = subprocess.run(command, env=machine(said), cwd=ROOT, capture_output=True, text=True)
        return done.stdout

    on_cpu, on_gpu = variables(None), variables((GPU, 0))
    for found in (on_cpu, on_gpu):
        assert "MALLOC_TRIM_THRESHOLD_ = 17179869184" in found
    assert "MALLOC_ARENA_MAX = 1" in on_cpu and "MALLOC_ARENA_MAX" not in on_gpu
