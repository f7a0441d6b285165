"""Options of XLA, for one jit or for a whole process, by platform."""

import os

import jax

# For GPUs. XLA accepts only "True" and "False", and no unknown names.
_DETERMINISTIC = {
    # No atomic additions: the gradient of the loss by the logits is a scatter, which is sorted first. Only the
    # deterministic algorithms of cuDNN, and no autotuning: each convolution and product takes the first of its
    # algorithms that compiles, which is the same at each start. (xla_gpu_deterministic_ops makes the same program.
    # xla_gpu_autotune_level=0 would leave the choice for convolutions to cuDNN at run time.)
    "xla_gpu_exclude_nondeterministic_ops": "True",
    # Matrix products by cuBLAS. In jax 0.11 the option above removes Triton's algorithms, and a product that was
    # fused for Triton and does not fit cuBLAS would have no algorithm left.
    "xla_gpu_enable_triton_gemm": "False",
    # With a compilation cache, JAX shares autotuning results between programs in a folder beside it. They take
    # precedence over the options above.
    "xla_gpu_per_fusion_autotune_cache_dir": "",
}


def options(platform: str | None = None, *, deterministic: bool = False) -> dict[str, str]:
    """The options for `jax.jit(..., compiler_options=...)`.

    Args:
        platform: As JAX names it; None: the default one.
        deterministic: On a GPU, use only kernels that give the same bits each time, chosen by rule and not by timing.
            CPUs always do. See `make_deterministic` for the other programs of the process.
    """
    platform = platform or jax.default_backend()
    if platform in ("gpu", "cuda", "rocm"):
        return dict(_DETERMINISTIC) if deterministic else {}
    if platform != "cpu":
        return {}
    return {
        # XLA:CPU gives float32 convolutions to YNNPACK by default. Against XLA's own (Eigen) code that is
        # 0.9 to 1.2 times the time forward, and 2 to 7 times for the gradients of the kernels.
        # The whole step is 1.72 times slower with it. Matrix products stay with YNNPACK: the input gradient of
        # fc6 takes 43 ms, with Eigen 179.
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
        # This pass would remove the barriers of kernels/forms.py before fusion.
        "xla_disable_hlo_passes": "cse_barrier_expander",
    }


def make_deterministic() -> None:
    """Compile all programs of this process with `options(deterministic=True)`; call it before the first one.

    The options of a jit apply to that jit alone, but XLA keeps autotuning results in memory by operation, whatever the
    options: a convolution that an earlier program also has would get the algorithm that was timed there, in a first
    start and not in a resumed one. Initial weights, too, come from a program of their own.
    """
    flags = [f"--{name}={value.lower()}" for name, value in _DETERMINISTIC.items() if value]
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def quick(platform: str | None = None) -> dict[str, str]:
    """Options for a program that runs once, on `platform` (None: the default one), which compile faster.

    Initial weights of the paper's net compile in 2 s of a core instead of 7, to the same bits.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    return {"xla_backend_optimization_level": "1"}
