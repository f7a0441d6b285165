"""Options of XLA for one jit, by platform."""

import jax


def options(platform: str | None = None, *, deterministic: bool = False) -> dict[str, str]:
    """For `jax.jit(..., compiler_options=...)` on `platform` (None: the default one).

    deterministic: on a GPU, leave out kernels whose sums depend on the order in which threads come; algorithms of
    convolutions are then taken by rule and not by timing, so that each start takes the same. CPUs need nothing.
    """
    platform = platform or jax.default_backend()
    if platform in ("gpu", "cuda"):
        return {"xla_gpu_exclude_nondeterministic_ops": "true"} if deterministic else {}
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


def quick(platform: str | None = None) -> dict[str, str]:
    """Options for what runs once, and so is not worth much compiling, on `platform` (None: the default one).

    Initial weights of the paper's net are compiled in 2 s of a core instead of 7, and are the same bits.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    return {"xla_backend_optimization_level": "1"}
