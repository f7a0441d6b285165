"""Loading a config file and setting keys of it from the command line."""

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
    _, config = _execute(argument)
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


def choose_variant(
    argument: str,
    arguments: list[str],
    count_images: Callable[[DataSpec], int | None],
    begun: str | None = None,
) -> tuple[str, str]:
    """Return `argument` with the variant that its file chooses by the number of training images, and the reason.

    A file that chooses has a function `choose(images)`, which returns a variant and the reason in one line; `images` is
    None if they cannot be counted. The reason is empty if nothing is chosen: for any other file, if `argument` has a
    variant, and for a run that was begun, which keeps its net so that a change of its images is reported as such.

    Args:
        arguments: As in `load`.
        count_images: Returns the number of training images, or None if they cannot be counted.
        begun: The name of the config of the run, if it was begun.

    Raises:
        ConfigError: As `load`.
    """
    if ":" in argument:
        return argument, ""
    module, config = _execute(argument)
    choose: Callable[[int | None], tuple[str, str]] | None = getattr(module, "choose", None)
    if choose is None:
        return argument, ""
    family, colon, variant = (begun or "").partition(":")
    if family == str(config.get("name")).partition(":")[0]:
        return argument + colon + variant, ""
    changed = load(argument, [one for one in arguments if "config.data." in one.split("=", 1)[0]])
    data = building.parse(changed, needs_images=False).data
    variant, reason = choose(count_images(data))
    return f"{argument}:{variant}", reason


def _execute(argument: str) -> tuple[ModuleType, "ConfigDict"]:
    """Execute a config file; return the module and what its `get_config` returns. Raises ConfigError."""
    from ml_collections import ConfigDict

    name, *variant = argument.split(":", 1)
    path = find.config_file(name)
    if path.suffix != ".py":
        raise ConfigError(f"{path} is not a Python file; see the folder configs/")
    try:
        module = find.execute(path)
        get_config = getattr(module, "get_config", None)
        config = get_config(*variant) if callable(get_config) else None
    except (Exception, SystemExit) as error:  # code can fail in any way
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path.absolute())]
        place = f", line {lines[-1]}" if lines else ""
        message = one_line(error) or "no message"
        raise ConfigError(f"{argument}{place}: {type(error).__name__}: {message}") from None
    if not isinstance(config, ConfigDict):
        returned = f", not {type(config).__name__}" if callable(get_config) else ""
        raise ConfigError(f"{path} must define get_config(), which returns a ConfigDict{returned}")
    return module, config.lock()
