"""Convert nested dicts to flat ones with keys such as "params/conv1/kernel", and back."""

from collections.abc import Mapping
from typing import Any


def flatten(
    tree: Mapping[str, Any], separator: str = "/", *, keep_empty: bool = False
) -> dict[str, Any]:
    """Return a flat dict from the joined keys of each leaf to the leaf. Any value but a mapping is a leaf.

    Args:
        keep_empty: Whether an empty dict is a leaf; otherwise it is dropped.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(value, Mapping) or (keep_empty and not value):
            flat[key] = value
        else:
            below = flatten(value, separator, keep_empty=keep_empty)
            flat |= {f"{key}{separator}{rest}": leaf for rest, leaf in below.items()}
    return flat


def unflatten(flat: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """Invert `flatten`. Raises ValueError if a key is both a leaf and a prefix of another key."""
    tree: dict[str, Any] = {}
    for key, leaf in flat.items():
        *parents, last = key.split(separator)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"a prefix of the key {key} is a leaf")
        if last in node:
            raise ValueError(f"{key} is both a leaf and a prefix of another key")
        node[last] = leaf
    return tree
