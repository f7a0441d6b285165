"""Compiler options that depend on the backend, in one place."""

import jax


def compiler_options(backend: str | None = None) -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=...)` on `backend` (None: the default one)."""
    if (backend or jax.default_backend()) != "cpu":
        return {}
    # XLA:CPU gives float32 convolutions to YNNPACK by default, which is slower than its own
    # (Eigen) code on every layer of AlexNet. YNNPACK keeps the matrix products, where it is faster.
    return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
