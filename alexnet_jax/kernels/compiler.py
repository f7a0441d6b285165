"""XLA compiler options for one jitted function or for the whole process, by platform."""

import os

import jax

#: Options for GPUs. XLA accepts only "True" and "False", and rejects unknown names.
_DETERMINISTIC = {
    # No atomic additions: a scatter, such as the gradient of the loss with respect to the logits, is sorted first. Only
    # deterministic algorithms of cuDNN, and no autotuning: each convolution and matrix product uses the first algorithm
    # that compiles, which is the same at each start. (xla_gpu_deterministic_ops gives the same program.
    # xla_gpu_autotune_level=0 would leave the choice for convolutions to cuDNN at run time.)
    "xla_gpu_exclude_nondeterministic_ops": "True",
    # Use cuBLAS for matrix products. In jax 0.11 the option above removes Triton's algorithms, so a product that was
    # fused for Triton and does not fit cuBLAS would have no algorithm left.
    "xla_gpu_enable_triton_gemm": "False",
    # If a compilation cache is set, JAX shares autotuning results between programs in a folder next to it, and these
    # take precedence over the options above.
    "xla_gpu_per_fusion_autotune_cache_dir": "",
}


def options(platform: str | None = None, *, deterministic: bool = False) -> dict[str, str]:
    """Return the options for `jax.jit(..., compiler_options=...)`.

    Args:
        platform: JAX's name of the platform; by default, that of the default backend.
        deterministic: On a GPU, use only bitwise reproducible kernels, and select them without timing. On CPUs this is
            always so. See `make_deterministic` for the other programs of the process.
    """
    platform = platform or jax.default_backend()
    if platform in ("gpu", "cuda", "rocm"):
        return dict(_DETERMINISTIC) if deterministic else {}
    if platform != "cpu":
        return {}
    return {
        # By default, XLA:CPU runs float32 convolutions on YNNPACK. Compared with XLA's Eigen code, that takes 0.9 to
        # 1.2 times as long forward, 2 to 7 times for kernel gradients, and 1.72 times for the whole step.
        # Matrix products stay on YNNPACK: the input gradient of fc6 takes 43 ms, and 179 ms with Eigen.
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
        # This pass removes optimization barriers (kernels/forms.py) before fusion.
        "xla_disable_hlo_passes": "cse_barrier_expander",
    }


def make_deterministic() -> None:
    """Apply `options(deterministic=True)` to all programs of this process; call it before the first one compiles.

    Options of a jitted function are not enough, because XLA keeps autotuning results in memory by operation: a
    convolution that also occurs in an earlier program would get the algorithm that was fastest there, in a first start
    but not in a resumed one. The initial weights are also computed by a separate program.
    """
    flags = [f"--{name}={value.lower()}" for name, value in _DETERMINISTIC.items() if value]
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags]).strip()
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def quick(platform: str | None = None) -> dict[str, str]:
    """Return options that compile faster, for a program that runs only once.

    The program for the initial weights of the paper's network compiles in 2 s instead of 7 s on one core, and gives the
    same bits. A level that XLA_FLAGS names is left as it is.
    """
    level = "xla_backend_optimization_level"
    if (platform or jax.default_backend()) != "cpu" or level in os.environ.get("XLA_FLAGS", ""):
        return {}
    return {level: "1"}
