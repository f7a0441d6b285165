"""Loading a config file and setting keys of it from the command line."""

import functools
import re
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from alexnet_jax.config import building, checks, find, no_effect, overrides
from alexnet_jax.errors import ConfigError, one_line
from alexnet_jax.specs import DataSpec

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def load(argument: str, arguments: list[str]) -> "ConfigDict":
    """Execute a config, `paper`, `FILE.py` or `FILE.py:VARIANT`, and set the keys given as `--config.key=value`.

    Every key of specs.py can be set, whether the file lists it or not. Keys that are neither in the file nor set are
    not added, so that the digest of a config stays the same when a key is introduced.

    Raises:
        ConfigError: Lists all faults on one line, among them keys that were set but have no effect in this config.
    """
    name, *variant = argument.split(":", 1)
    return _set(_ConfigFile(name).config(*variant), arguments)


def load_chosen(
    argument: str,
    arguments: list[str],
    count_images: Callable[[DataSpec], int | None],
    begun: str | None = None,
) -> tuple["ConfigDict", str]:
    """Load a config as `load` does, with the variant that its file chooses by the number of training images.

    A file that chooses has a function `choose(images)`, which returns a variant and the reason in one line; `images` is
    None if they cannot be counted. Nothing is chosen for any other file, if `argument` has a variant, and for a run
    that was begun, which keeps its net so that a change of its images is reported as such.

    Args:
        arguments: As in `load`.
        count_images: Returns the number of training images, or None if they cannot be counted.
        begun: The name of the config of the run, if it was begun.

    Returns:
        The config, and the reason for its variant, which is empty if nothing is chosen.

    Raises:
        ConfigError: As `load`.
    """
    name, *variant = argument.split(":", 1)
    file = _ConfigFile(name)
    config = file.config(*variant)
    if variant or file.choose is None:
        return _set(config, arguments), ""
    family, *variant = (begun or "").split(":", 1)
    if family == str(config.get("name")).partition(":")[0]:
        return _set(file.config(*variant) if variant else config, arguments), ""
    changed = _set(config, [one for one in arguments if "config.data." in one.split("=", 1)[0]])
    data = building.parse(changed, needs_images=False).data
    chosen, reason = file.choose(count_images(data))
    return _set(file.config(chosen), arguments), reason


def _set(config: "ConfigDict", arguments: list[str]) -> "ConfigDict":
    """Set the keys given as `--config.key=value` in `config`, and return it. Raises ConfigError."""
    given: dict[str, list[str]] = {}
    for one in arguments:
        key = re.sub(r"^--(no)?config\.", "", one.split("=", 1)[0])
        given.setdefault(key, []).append(one)
    set_faults = {key: overrides.set_value(config, key, texts) for key, texts in given.items()}
    faults = [fault for fault in set_faults.values() if fault]
    spec, found = building.build(config)
    if spec and not found:
        faults += no_effect.faults(spec, [key for key, fault in set_faults.items() if not fault])
        faults += checks.adam_faults(spec)
    if faults:
        try:
            building.parse(config)
        except ConfigError as error:
            faults.append(str(error))
        raise ConfigError("; ".join(faults))
    return config


class _ConfigFile:
    """A config file, which is executed once. Raises ConfigError if there is no such Python file."""

    def __init__(self, name: str) -> None:
        self._name, self._path = name, find.config_file(name)
        if self._path.suffix != ".py":
            raise ConfigError(f"{self._path} is not a Python file; see the folder configs/")

    @functools.cached_property
    def _module(self) -> ModuleType:
        return find.execute(self._path)

    @property
    def choose(self) -> Callable[[int | None], tuple[str, str]] | None:
        """The function of the file that chooses a variant, if it has one."""
        return getattr(self._module, "choose", None)

    def config(self, *variant: str) -> "ConfigDict":
        """Return what `get_config` of the file returns for a variant, or without one. Raises ConfigError."""
        from ml_collections import ConfigDict

        path = self._path
        try:
            get_config = getattr(self._module, "get_config", None)
            config = get_config(*variant) if callable(get_config) else None
        except (Exception, SystemExit) as error:  # code can fail in any way
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == str(path.absolute())]
            place = f", line {lines[-1]}" if lines else ""
            argument, message = ":".join((self._name, *variant)), one_line(error) or "no message"
            raise ConfigError(f"{argument}{place}: {type(error).__name__}: {message}") from None
        if not isinstance(config, ConfigDict):
            returned = f", not {type(config).__name__}" if callable(get_config) else ""
            raise ConfigError(
                f"{path} must define get_config(), which returns a ConfigDict{returned}"
            )
        return config.lock()
