"""The canonical form of a config, by which run folders and sweeps identify it."""

import hashlib
import json
from typing import Any


def to_json(config: Any) -> str:
    """Canonical JSON of a ConfigDict or of nested dicts: sorted keys, tuples as lists."""
    return json.dumps(plain(config), sort_keys=True, indent=2)


def digest(config: Any) -> str:
    """SHA-256 of the canonical JSON, without white space, in hexadecimal."""
    compact = json.dumps(plain(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(compact.encode()).hexdigest()


def plain(value: Any) -> Any:
    """Convert a ConfigDict, and what it holds, to dicts, lists and scalars."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value
