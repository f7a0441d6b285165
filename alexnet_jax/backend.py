"""What depends on the backend, in one place: compiler options, and what keeps XLA:CPU from overdoing it.

Measured on two cores of an AMD EPYC (AVX2), batch 32, float32, jax 0.10.2. `python -m bench.step`
measures the whole step with each choice undone; docs/results/2026-11-22-speed.md has what it said.
"""

import jax
from jax import lax


def compiler_options(backend: str | None = None) -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=...)` on `backend` (None: the default one)."""
    if (backend or jax.default_backend()) != "cpu":
        return {}
    return {
        # XLA:CPU gives float32 convolutions to YNNPACK by default. Against XLA's own (Eigen) code that is
        # 0.9 to 1.2 times the time forward, and 2 to 7 times for the gradients of the kernels.
        # The whole step is 1.72 times slower with it. YNNPACK keeps the matrix products: the input gradient of
        # fc6 takes 43 ms, with Eigen 179.
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
        # This pass would remove `materialized` before fusion.
        "xla_disable_hlo_passes": "cse_barrier_expander",
    }


def quick_compilation(backend: str | None = None) -> dict[str, str]:
    """Options for what runs once, and so is not worth much compiling, on `backend` (None: the default one).

    Initial weights of the paper's net are compiled in 2 s of a core instead of 7, and are the same bits.
    """
    if (backend or jax.default_backend()) != "cpu":
        return {}
    return {"xla_backend_optimization_level": "1"}


def materialized(x):
    """`x`, on CPU written to memory once, as its gradient is; elsewhere left to the compiler.

    XLA:CPU copies cheap-looking producers into each of their consumers: it computed the pool of conv1
    four times, twice of them in a transposed order that misses the caches, and summed bias gradients
    over a recomputed normalization. The whole step is 1.10 times slower without this.
    """
    return lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x
