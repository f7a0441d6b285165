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
def test_xla_knows_every_option_and_takes_its_value(platform, deterministic):
    """Names and values are checked on any platform: a CPU takes those of GPUs, and does nothing about them."""
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


def compiled(tmp_path: Path, script: str) -> dict[str, str]:
    """What the jit `program` of `script` was compiled with, in a process with a compilation cache."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_dump_to={tmp_path / 'dump'}",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
    }
    lines = [
        "import jax, numpy",
        "from alexnet_jax.kernels import compiler",
        "def program(x): return x @ x.T + 1",
        script,
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, env=environment, check=True)
    (path,) = (tmp_path / "dump").glob("*.jit_program.debug_options")
    return dict(re.findall(r"^(\w+): (.*)$", path.read_text(), re.MULTILINE))


def test_a_deterministic_program_shares_no_timed_algorithms(tmp_path):
    options = compiled(
        tmp_path,
        "options = compiler.options('gpu', deterministic=True)\n"
        "jax.jit(program, compiler_options=options)(numpy.ones((2, 3), numpy.float32))",
    )
    assert options["xla_gpu_exclude_nondeterministic_ops"] == "true"
    assert options["xla_gpu_enable_triton_gemm"] == "false"
    assert "xla_gpu_per_fusion_autotune_cache_dir" not in options


def test_jax_lets_programs_share_timed_algorithms_otherwise(tmp_path):
    options = compiled(tmp_path, "jax.jit(program)(numpy.ones((2, 3), numpy.float32))")
    assert str(tmp_path / "cache") in options["xla_gpu_per_fusion_autotune_cache_dir"]
    assert "xla_gpu_exclude_nondeterministic_ops" not in options


def test_a_deterministic_process_compiles_every_program_so(tmp_path):
    options = compiled(
        tmp_path,
        "compiler.make_deterministic()\njax.jit(program)(numpy.ones((2, 3), numpy.float32))",
    )
    assert options["xla_gpu_exclude_nondeterministic_ops"] == "true"
    assert options["xla_gpu_enable_triton_gemm"] == "false"
    assert "xla_gpu_per_fusion_autotune_cache_dir" not in options
