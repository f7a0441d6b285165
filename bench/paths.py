"""Where the benchmarks and launch/ lie, in a checkout and in an installed package."""

import importlib
from pathlib import Path
from types import ModuleType

#: The folder that has bench/, launch/ and configs/.
ROOT = Path(__file__).resolve().parents[1]
#: The folder from which this package can be imported under its name.
IMPORT_ROOT = Path(__file__).resolve().parents[__name__.count(".")]
#: "" in a checkout, "alexnet_jax." in an installed package.
PREFIX = (__package__ or "").removesuffix("bench")


def launch(module: str) -> ModuleType:
    """Import a module of launch/."""
    return importlib.import_module(f"{PREFIX}launch.{module}")
