"""Print a configuration as a run would have it, or list the packaged ones.

alexnet config --config paper [--config.train.epochs=10 ...] [--json]

alexnet config --list

Each line is a key and its value as `--config.KEY=VALUE` takes them, defaults included. --json prints what a run
folder keeps as config.json: the keys that the config file lists and those set on the command line.
"""

import json

from ml_collections import ConfigDict

from alexnet_jax import cli, config
from alexnet_jax.config import find
from alexnet_jax.errors import ConfigError


def main(arguments: list[str]) -> None:
    parser = cli.parser(__doc__ or "")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--config", metavar="NAME|FILE[:VARIANT]", help="a packaged config or a file of yours"
    )
    which.add_argument("--list", action="store_true", help="list the packaged configs")
    parser.add_argument("--json", action="store_true", help="print canonical JSON")
    options, rest = parser.parse_known_args(arguments)
    overrides = cli.config_overrides(rest)
    if options.list:
        if overrides or options.json:
            raise ConfigError(f"{(overrides or ['--json'])[0]} belongs to --config, not to --list")
        print("\n".join(cli.table([(name, find.summary(name)) for name in find.names()])))
        return
    loaded = config.load(options.config, overrides)
    config.parse(loaded, needs_images=False)
    print(config.to_json(loaded) if options.json else _text(loaded))


def _text(loaded: ConfigDict) -> str:
    """The config as lines `key = value` under a heading for each section."""
    tree = config.completed(json.loads(config.to_json(loaded)))
    sections = {key: value for key, value in tree.items() if isinstance(value, dict)}
    top = [f"{key} = {_written(value)}" for key, value in tree.items() if key not in sections]
    blocks = [top]
    for name, section in sections.items():
        blocks.append([f"# {name}", *_lines(section, name)])
    return "\n\n".join("\n".join(lines) for lines in blocks)


def _lines(tree: dict, path: str) -> list[str]:
    lines = []
    for key, value in sorted(tree.items()):
        if isinstance(value, dict) and value:
            lines += _lines(value, f"{path}.{key}")
        else:
            lines.append(f"{path}.{key} = {_written(value)}")
    return lines


def _written(value) -> str:
    """The value as an override takes it: strings without quotes, lists as tuples."""
    return value if isinstance(value, str) else repr(_tuples(value))


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
