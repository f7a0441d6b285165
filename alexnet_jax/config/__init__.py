"""From a config file to checked, frozen specs (alexnet_jax/specs.py).

A config file is executed (loading), changed by --config.key=value (overrides), and turned into specs (building), which
are checked (checks) and have the ablation switches applied (switches). Nothing here imports JAX or Flax, so that a
mistake is reported at once. No other module handles a ConfigDict, except to pass it on.
"""

from alexnet_jax.config.building import parse, with_classes
from alexnet_jax.config.canonical import completed, digest, plain, to_json
from alexnet_jax.config.loading import load, load_chosen

__all__ = [
    "completed", "digest", "load", "load_chosen", "parse", "plain", "to_json", "with_classes",
]  # fmt: skip
