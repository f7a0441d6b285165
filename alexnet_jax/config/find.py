"""Find packaged config files, the caller's own, and the packages that lie beside `alexnet_jax` in a checkout.

`configs`, `launch` and `bench` are top-level folders of the repository. A wheel holds them inside the package, as
`alexnet_jax.configs` and so on, so that installing it adds one name to `site-packages`.
"""

import ast
import difflib
import importlib
import importlib.util
import os
import re
import sys
import zlib
from pathlib import Path
from types import ModuleType

from alexnet_jax import files
from alexnet_jax.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]
#: The folder from which `alexnet_jax` is imported; in a checkout also `launch` and `bench`.
IMPORT_ROOT = _PACKAGE.parent

#: Modules of `configs` that define no configuration.
_NOT_CONFIGS = ("__init__", "sweeps")


def python_path() -> str:
    """Return PYTHONPATH with IMPORT_ROOT before it, for processes that import the package."""
    return os.pathsep.join(filter(None, (str(IMPORT_ROOT), os.environ.get("PYTHONPATH"))))


def folder(name: str = "configs") -> Path:
    """Return the folder of `configs`, `launch` or `bench`: inside the package, or beside it in a checkout."""
    inside = _PACKAGE / name
    return inside if (inside / "__init__.py").is_file() else IMPORT_ROOT / name


#: The folder that has `configs`, `launch` and `bench`: that of the repository, or of the installed package.
ROOT = folder().parent


def names() -> list[str]:
    """Return the names of the packaged configs, as `--config` accepts them."""
    return sorted(p.stem for p in folder().glob("*.py") if p.stem not in _NOT_CONFIGS)


def summary(name: str) -> str:
    """Return the first line of the docstring of a packaged config, without executing it."""
    tree = ast.parse((folder() / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def config_file(argument: str) -> Path:
    """Return the file that `--config` names, without its variant: the caller's own, or else a packaged one.

    A bare name such as `paper` is a packaged config. `configs/paper.py` is the caller's file where there is
    one, and the packaged config otherwise.

    Raises:
        ConfigError: There is no such file; the nearest names are listed.
    """
    if re.fullmatch(r"\w+", argument) and not os.path.isfile(argument):
        if argument in names():
            return folder() / f"{argument}.py"
        raise ConfigError(
            f"no config {argument}{_nearest(argument)}; "
            "alexnet config --list prints all names, and a file of yours is given by its path"
        )
    path, packaged = Path(argument), folder() / argument.removeprefix("configs/")
    if argument.startswith("configs/") and not os.path.exists(path) and os.path.isfile(packaged):
        return packaged
    if other := files.not_regular(path):
        raise ConfigError(f"--config {path}: {other}; see the folder configs/")
    if not os.path.isfile(path):
        raise ConfigError(f"no config file {path}{_nearest(path.stem)}; see the folder configs/")
    return path


def _nearest(name: str) -> str:
    guesses = difflib.get_close_matches(name, names(), 3)
    return f"; did you mean {' or '.join(guesses)}?" if guesses else ""


def config_module(name: str) -> ModuleType:
    """Import a module of `configs`, such as `sweeps`, under the name `alexnet_jax.configs.NAME`.

    In a checkout this name is an alias of the folder `configs` of the repository, whatever folder of the same name
    is on `sys.path`.
    """
    package = _import_package(folder().resolve())
    return importlib.import_module(f"{package}.{name}")


def execute(path: Path) -> ModuleType:
    """Execute a config file and return the module.

    Relative imports refer to the folder of the file if it has an `__init__.py`, and to the packaged configs otherwise,
    so that a copy of a packaged config works anywhere.
    """
    inside = (path.resolve().parent / "__init__.py").is_file()
    package = _import_package(path.resolve().parent if inside else folder().resolve())
    found = importlib.util.spec_from_file_location(f"{package}.{path.stem}", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _import_package(path: Path) -> str:
    """Import a folder as a package and return its name, `alexnet_jax.configs` for the packaged configs."""
    packaged = path == folder().resolve()
    name = "alexnet_jax.configs" if packaged else f"config_folder_{zlib.crc32(bytes(path)):08x}"
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(name, path / "__init__.py")
        assert found is not None and found.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    return name


def module_name(name: str) -> str:
    """Return the name under which `launch.sweep` or `bench.step` can be imported and run with `python -m`."""
    if folder(name.partition(".")[0]).parent == _PACKAGE:
        return f"alexnet_jax.{name}"
    root = str(IMPORT_ROOT)
    if root not in sys.path:
        sys.path.insert(0, root)
    return name
