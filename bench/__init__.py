"""Benchmarks, each a command: `alexnet bench NAME`, or `python -m bench.NAME` in a checkout.

A wheel has this package as alexnet_jax.bench, so its modules import one another by relative imports.
"""
