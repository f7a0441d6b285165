"""Print the complete configuration of a run, or list the packaged configurations.

alexnet config --config paper [--config.train.epochs=10 ...] [--json]

alexnet config --list

Prints each key and its value in the syntax of `--config.KEY=VALUE`, defaults included. --json prints the content of
config.json in a run folder: only the keys set in the config file or on the command line.
"""

from typing import TYPE_CHECKING, Any

from alexnet_jax import cli, config, files
from alexnet_jax.config import find
from alexnet_jax.errors import ConfigError

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def main(arguments: list[str]) -> None:
    """Run `alexnet config`."""
    parser = cli.parser(__doc__ or "")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--config", metavar="NAME|FILE[:VARIANT]", help="a packaged config or your own file"
    )
    which.add_argument("--list", action="store_true", help="list the packaged configs")
    parser.add_argument("--json", action="store_true", help="print canonical JSON")
    options, rest = parser.parse_known_args(arguments)
    overrides = cli.config_overrides(rest)
    if options.list:
        if overrides or options.json:
            raise ConfigError(
                f"{(overrides or ['--json'])[0]} works with --config, not with --list"
            )
        print("\n".join(cli.table([(name, find.summary(name)) for name in find.names()])))
        return
    loaded, reason = config.load_chosen(options.config, overrides, lambda data: None)
    config.parse(loaded, needs_images=False)
    if options.json:
        print(config.to_json(loaded))
        return
    print(f"# {reason}\n\n{_text(loaded)}" if reason else _text(loaded))


def _text(loaded: "ConfigDict") -> str:
    """Format the config as `key = value` lines, with a heading for each section."""
    tree = config.completed(config.plain(loaded))
    sections = {key: value for key, value in tree.items() if isinstance(value, dict)}
    top = [f"{key} = {_format(value)}" for key, value in tree.items() if key not in sections]
    blocks = [top]
    for name, section in sections.items():
        flat = files.flatten(section, ".", keep_empty=True)
        names = sorted(flat, key=lambda key: key.split("."))
        blocks.append([f"# {name}", *(f"{name}.{key} = {_format(flat[key])}" for key in names)])
    return "\n\n".join("\n".join(lines) for lines in blocks)


def _format(value: Any) -> str:
    """Format a value as in an override: strings without quotes, lists as tuples."""
    return value if isinstance(value, str) else repr(_tuples(value))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
