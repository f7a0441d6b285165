"""Options of XLA, for one jit or for a whole process, by platform."""

import os

import jax

_DETERMINISTIC = {
    # No atomic additions: the gradient of the loss by the logits is a scatter, which is sorted first. Of cuDNN's
    # algorithms those alone that promise the same bits; and nothing is timed: each convolution and product takes the
    # first of its algorithms that compiles, which is the same at each start. (xla_gpu_deterministic_ops makes the
    # same program. xla_gpu_autotune_level=0 would leave convolutions to what cuDNN chooses when they run.)
    "xla_gpu_exclude_nondeterministic_ops": "True",
    # Matrix products by cuBLAS. In jax 0.11 the option above takes Triton's algorithms off the list, and a product
    # that was fused for Triton and that cuBLAS cannot take as it is would be left with none.
    "xla_gpu_enable_triton_gemm": "False",
    # Where there is a compilation cache, JAX lets programs share algorithms that were timed in a folder beside it.
    # What is found there comes before the options above.
    "xla_gpu_per_fusion_autotune_cache_dir": "",
}
"""Of GPUs. XLA takes "True" and "False" only, and refuses to compile with any other spelling or an unknown name."""


def options(platform: str | None = None, *, deterministic: bool = False) -> dict[str, str]:
    """For `jax.jit(..., compiler_options=...)` on `platform` (None: the default one).

    deterministic: on a GPU, only kernels that give the same bits each time, chosen by rule and not by timing.
    CPUs need nothing for that. See `make_deterministic` for the programs around the one that is compiled.
    """
    platform = platform or jax.default_backend()
    if platform in ("gpu", "cuda", "rocm"):
        return dict(_DETERMINISTIC) if deterministic else {}
    if platform != "cpu":
        return {}
    return {
        # XLA:CPU gives float32 convolutions to YNNPACK by default. Against XLA's own (Eigen) code that is
        # 0.9 to 1.2 times the time forward, and 2 to 7 times for the gradients of the kernels.
        # The whole step is 1.72 times slower with it. YNNPACK keeps the matrix products: the input gradient of
        # fc6 takes 43 ms, with Eigen 179.
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
        # This pass would remove the barriers of kernels/forms.py before fusion.
        "xla_disable_hlo_passes": "cse_barrier_expander",
    }


def make_deterministic() -> None:
    """Compile all programs of this process as `options(deterministic=True)` says. Call it before the first one.

    Options of a jit reach that jit alone. XLA keeps what it has timed in memory, by operation and whatever the
    options: a convolution that an earlier program has as well would get the algorithm that was timed there, in a
    first start and not in a resumed one. And initial weights are made by a program of their own.
    """
    flags = [f"--{name}={value.lower()}" for name, value in _DETERMINISTIC.items() if value]
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def quick(platform: str | None = None) -> dict[str, str]:
    """Options for what runs once, and so is not worth much compiling, on `platform` (None: the default one).

    Initial weights of the paper's net are compiled in 2 s of a core instead of 7, and are the same bits.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    return {"xla_backend_optimization_level": "1"}
