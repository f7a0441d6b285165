"""Nested dicts and their flat form, with keys such as "params/conv1/kernel"."""

from collections.abc import Mapping
from typing import Any


def flatten(
    tree: Mapping[str, Any], separator: str = "/", *, keep_empty: bool = False
) -> dict[str, Any]:
    """Map the joined keys of each leaf, which is whatever is no dict, to the leaf.

    Args:
        keep_empty: whether an empty dict counts as a leaf; otherwise it leaves no key.
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
    """Invert `flatten`. Raises ValueError where one key is both a leaf and a prefix of another."""
    tree: dict[str, Any] = {}
    for key, leaf in flat.items():
        *above, last = key.split(separator)
        node = tree
        for part in above:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ValueError(f"{key} lies below a leaf")
        if last in node:
            raise ValueError(f"{key} is a leaf and has others below it")
        node[last] = leaf
    return tree
