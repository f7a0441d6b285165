"""Options that XLA accepts, that reach the compiler, and that keep timed algorithms out of deterministic programs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from alexnet_jax.kernels import compiler

ROOT = Path(__file__).resolve().parents[2]
X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "cuda", "rocm", "tpu", None])
@pytest.mark.parametrize("deterministic", [False, True])
def test_xla_knows_every_option_and_takes_its_value(monkeypatch, platform, deterministic):
    """Names and values are checked on any platform: a CPU takes those of GPUs, and does nothing about them."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    for options in (
        compiler.options(platform, deterministic=deterministic),
        compiler.quick(platform),
    ):
        computed = jax.jit(lambda x: x @ x.T + 1, compiler_options=options)(X)
        np.testing.assert_array_equal(computed, X @ X.T + 1)


@pytest.mark.parametrize("options", [{"xla_gpu_no_such_option": "True"},
                                     {"xla_gpu_exclude_nondeterministic_ops": "true"}])  # fmt: skip
def test_xla_refuses_an_unknown_option_and_another_spelling(options):
    """Else the test above shows nothing."""
    with pytest.raises(Exception, match=r"No such compile option|not a valid bool"):
        jax.jit(lambda x: x + 1, compiler_options=options)(X)


def test_determinism_is_for_gpus_and_costs_others_nothing():
    assert compiler.options("gpu") == {}
    assert compiler.options("gpu", deterministic=True) == compiler.options(
        "cuda", deterministic=True
    )
    for platform in ("cpu", "tpu"):
        plain = compiler.options(platform)
        assert compiler.options(platform, deterministic=True) == plain


def test_quick_compilation_leaves_a_level_of_xla_flags_as_it_is(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_llvm_disable_expensive_passes=true")
    assert compiler.quick("cpu") == {"xla_backend_optimization_level": "1"}
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    assert compiler.quick("cpu") == {} == compiler.quick("gpu")


def compiled(tmp_path: Path, *arguments: str) -> dict[str, dict[str, str]]:
    """By file of each program that Python compiles with these arguments: the options that differ from the usual."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_backend_optimization_level=1 --xla_dump_to={tmp_path / 'dump'}",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
    }
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=True)
    return {
        path.name: dict(re.findall(r"^(\w+): (.*)$", path.read_text(), re.MULTILINE))
        for path in (tmp_path / "dump").glob("*.debug_options")
    }


TWO_PROGRAMS = """
import jax, numpy
from alexnet_jax.kernels import compiler
def deterministic(x): return x @ x.T + 1
def usual(x): return x @ x.T + 2
x = numpy.ones((2, 3), numpy.float32)
jax.jit(deterministic, compiler_options=compiler.options("gpu", deterministic=True))(x)
jax.jit(usual)(x)
"""


def is_deterministic(options: dict[str, str]) -> bool:
    return (
        options.get("xla_gpu_exclude_nondeterministic_ops") == "true"
        and options.get("xla_gpu_enable_triton_gemm") == "false"
        and "xla_gpu_per_fusion_autotune_cache_dir" not in options
    )


def test_a_deterministic_program_alone_shares_no_timed_algorithms(tmp_path):
    found = compiled(tmp_path, "-c", TWO_PROGRAMS)
    deterministic, usual = (
        next(options for name, options in found.items() if f"jit_{program}" in name)
        for program in ("deterministic", "usual")
    )
    assert is_deterministic(deterministic) and not is_deterministic(usual)
    assert str(tmp_path / "cache") in usual["xla_gpu_per_fusion_autotune_cache_dir"]


@pytest.mark.full
def test_a_deterministic_run_compiles_every_program_so(tmp_path):
    """Initial weights, the report before the first step and evaluation too."""
    settings = ["--config.train.deterministic=True", "--config.train.max_steps=1"]
    settings.append("--config.evaluation.final_views=('center',)")
    run = ["-m", "alexnet_jax.main", "--config=tests/tiny.py", f"--workdir={tmp_path / 'run'}"]
    found = compiled(tmp_path, *run, *settings)
    assert len(found) > 5
    assert [name for name, options in found.items() if not is_deterministic(options)] == []
