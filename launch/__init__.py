"""Start runs: sweeps on this machine or on SLURM. Nothing here imports JAX.

A wheel has this package as alexnet_jax.launch, so its modules import one another by relative imports.
"""
