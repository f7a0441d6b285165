"""Compare the configs of two starts of a run: some keys may change, others may not."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_jax import config as configs
from alexnet_jax import files
from alexnet_jax.errors import ConfigError, listed

if TYPE_CHECKING:
    from ml_collections import ConfigDict

#: Keys that may change between two starts of a run: the trained parameters do not depend on them.
HARMLESS = (
    "name", "data.path", "data.threads", "data.workers", "data.prefetch", "data.placement", "train.max_steps",
    "train.log_every", "train.checkpoint_every", "train.keep_every", "train.stall_seconds", "train.split_towers",
    "train.split_dense", "train.keep_powers_of_two", "train.checkpoint_minutes", "train.steps_per_dispatch",
    "train.writers",
)  # fmt: skip


def identity(config: "ConfigDict") -> str:
    """Return the SHA-256 of all keys on which the results of a run depend, including its length."""
    tree = configs.plain(config)
    for key in set(HARMLESS) - {"train.max_steps"}:
        section, _, name = key.rpartition(".")
        (tree[section] if section else tree).pop(name, None)
    return configs.digest(tree)


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, list[Any]]:
    """Map each key that differs between two configs to [old, new]; a missing key has its default."""
    a, b = (flat(configs.completed(tree)) for tree in (old, new))
    return {k: [a.get(k), b.get(k)] for k in sorted({*a, *b}) if a.get(k) != b.get(k)}


def check_same(
    old: dict[str, Any], new: dict[str, Any], folder: str | Path, allowed: Iterable[str] = ()
) -> dict[str, list[Any]]:
    """Return the `differences` between the config of the run in `folder` and a new one.

    Raises:
        ConfigError: A key changed that is neither in HARMLESS nor in `allowed`.
    """
    changes, allowed = differences(old, new), set(allowed)
    refused = [k for k in changes if k not in HARMLESS and k not in allowed]
    if refused:
        shown = listed(("{}: {!r} -> {!r}".format(k, *changes[k]) for k in refused), 6)
        fits_command_line = all(
            isinstance(changes[k][0], bool | int | float | str) for k in refused[:6]
        )
        old_values = " ".join(shlex.quote(f"--config.{k}={changes[k][0]}") for k in refused[:6])
        keep = f"keep the run's values with {old_values}, " if fits_command_line else ""
        raise ConfigError(
            f"{folder} has a run with another config ({shown}); choose another --workdir, {keep}or "
            f"allow it with {' '.join('--override-resume=' + k for k in refused[:6])}"
        )
    return changes


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Flatten a config to keys such as "train.epochs"; an empty section counts as a value."""
    return files.flatten(tree, ".", keep_empty=True)
