"""Commands that start runs; none of them imports JAX."""
