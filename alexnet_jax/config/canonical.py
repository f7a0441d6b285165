"""The canonical JSON and digest of a config, which identify it, and the conversion of older configs to today's form."""

import hashlib
import json
from typing import Any

from alexnet_jax.config import keys
from alexnet_jax.specs import Config


def to_json(config: Any) -> str:
    """Format a ConfigDict or nested dicts as canonical JSON: sorted keys, tuples as lists."""
    return json.dumps(plain(config), sort_keys=True, indent=2)


def digest(config: Any) -> str:
    """Return the SHA-256 of the canonical JSON without white space, in hexadecimal."""
    compact = json.dumps(plain(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(compact.encode()).hexdigest()


def plain(value: Any) -> Any:
    """Convert a ConfigDict and everything in it to dicts, lists and scalars."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def completed(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a config as plain dicts, in today's form, with the default of every key that it does not list."""
    return _completed(upgraded(tree), Config)


def _completed(tree: dict[str, Any], section: Any) -> dict[str, Any]:
    full = {key: plain(value) for key, value in keys.defaults(section).items()} | tree
    for key, value in tree.items():
        below = keys.section_type(section, key)
        if below and isinstance(value, dict):
            full[key] = _completed(value, below)
    return full


def upgraded(tree: Any) -> Any:
    """Convert an older config, given as plain dicts, to today's form.

    Before adamw existed, adam with a weight decay meant adamw. Every key that was added later has a default that keeps
    the meaning of older configs (tests/config/schema).
    """
    optimizer = tree.get("optimizer") if isinstance(tree, dict) else None
    if isinstance(optimizer, dict) and optimizer.get("kind") == "adam" and weight_decays(optimizer):
        return tree | {"optimizer": optimizer | {"kind": "adamw"}}
    return tree


def weight_decays(optimizer: dict[str, Any]) -> list[str]:
    """List the weight decays of an optimizer section that are not 0, as "key=value"."""
    layers = optimizer.get("layer_weight_decay")
    found = {key: optimizer.get(key) for key in ("weight_decay", "bias_weight_decay")}
    if isinstance(layers, dict):
        found |= {f"layer_weight_decay.{layer}": decay for layer, decay in layers.items()}
    return [f"{key}={decay}" for key, decay in found.items() if decay]
