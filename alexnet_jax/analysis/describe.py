"""Print the layers of a network with their sizes, parameters, multiply-adds and receptive fields.

alexnet describe --config configs/paper.py [--diff configs/krizhevsky2012.py]

alexnet describe --workdir runs/mine

--diff adds a table of the keys in which a second config differs, with the source of both values. --workdir describes
the network of a run folder or .safetensors file, with the number of classes counted from its data. Overrides
(--config.key=value) apply to the first config.
"""

import functools
import json
from typing import Any, NamedTuple

from alexnet_jax import cli, config, files
from alexnet_jax.config import find, provenance
from alexnet_jax.errors import ConfigError
from alexnet_jax.inference import trained
from alexnet_jax.model import geometry, operations
from alexnet_jax.specs import Config, ModelSpec

#: Outputs of the last layer if the config leaves the number of classes to the data.
ASSUMED_CLASSES = 1000


class Difference(NamedTuple):
    """A key in which two configs differ.

    Attributes:
      first: Value in the first config; None if it lacks the key.
      second: Value in the second config; None if it lacks the key.
      source: Where the values come from, such as a section of the paper.
    """

    key: str
    first: object
    second: object
    source: str


def main(arguments: list[str]) -> int:
    """Run `alexnet describe`."""
    parser = cli.parser(__doc__ or "")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", metavar="FILE[:VARIANT]", help="one of configs/")
    which.add_argument("--workdir", help="a run folder, or a .safetensors file")
    parser.add_argument("--diff", metavar="FILE[:VARIANT]", help="a second config, to compare with")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options, rest = parser.parse_known_args(arguments)
    overrides = cli.config_overrides(rest)
    if options.workdir:
        if overrides:
            raise ConfigError(f"{overrides[0]} belongs to --config, not to --workdir")
        run = trained.load(options.workdir)
        first, spec = run.config_tree, run.config
    else:
        first = _plain(options.config, overrides)
        spec = _spec(first)
    description = describe(spec)
    if options.diff:
        second = _plain(options.diff, [])
        _spec(second)
        description["differences"] = [d._asdict() for d in differences(first, second)]
        description["diff"] = second["name"]
    print(json.dumps(description, indent=2) if options.json else _text(description))
    return 0


def describe(spec: Config) -> dict[str, Any]:
    """Describe the layers and totals of a network; the output of --json."""
    classes = spec.model.num_classes or ASSUMED_CLASSES
    layers = geometry.layers(spec.model, spec.augment.crop_size, classes)
    texts = _operations(spec.model)
    crossings = geometry.crossings(spec.model, spec.augment.crop_size, classes)
    return {
        "name": spec.name,
        "input": spec.augment.crop_size,
        "num_classes": spec.model.num_classes,
        "layers": [layer._asdict() | {"then": texts[layer.name]} for layer in layers],
        "parameters": sum(layer.parameters for layer in layers),
        "multiply_adds": sum(layer.multiply_adds for layer in layers),
        "crossings": [crossing._asdict() for crossing in crossings]
        if spec.model.towers > 1
        else [],
    }


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[Difference]:
    """Return the differences of two configs, given as nested dicts, sorted by key.

    A key that only one of them sets has its default value in the other.
    """
    keys = files.flatten(first, ".").keys() | files.flatten(second, ".").keys()
    a, b = (files.flatten(config.completed(tree), ".") for tree in (first, second))
    result = []
    for key in sorted(keys):
        # Compare by value: config.parse treats 2 and 2.0 alike.
        if key != "name" and a.get(key) != b.get(key):
            sources = [
                source(first["name"], key, a.get(key)),
                source(second["name"], key, b.get(key)),
            ]
            text = "; ".join(dict.fromkeys(filter(None, sources)))
            result.append(Difference(key, a.get(key), b.get(key), text))
    return result


def source(name: str, key: str, value: object) -> str:
    """Return where the config `name` takes this value of `key` from, or "" if unknown.

    Args:
      value: None if the config lacks the key.
    """
    if not provenance.is_known(name) or not _values(name):
        return ""
    if _values(name).get(key) != value:
        return f"not as in configs/{provenance.argument(name)}"
    while (base := provenance.base(name)) and _values(base).get(key) == value:
        name = base
    return provenance.note(name, key)


@functools.cache
def _values(name: str) -> dict[str, object]:
    """Return the flat values of a packaged config, or {} if it has no such variant."""
    try:
        tree = _plain(str(find.folder() / provenance.argument(name)), [])
        return files.flatten(config.completed(tree), ".")
    except ConfigError:
        return {}


def _plain(argument: str, overrides: list[str]) -> dict[str, Any]:
    """Load a config as nested dicts."""
    return config.plain(config.load(argument, overrides))


def _spec(tree: dict[str, Any]) -> Config:
    """Build the specs of a config, without requiring data.path."""
    return config.parse(tree, needs_images=False)


def _operations(model: ModelSpec) -> dict[str, str]:
    """Describe the operations of each row of the table; those after a pool belong to the row of the pool."""
    texts: dict[str, list[str]] = {}
    for name, spec in model.layers:
        line = name
        for node in operations.nodes(name, spec):
            if node.operation.has_own_line:
                line = node.feature
            text = node.operation.describe(node, model)
            texts.setdefault(line, []).append(f"{text} before" if node.prefix else text)
    return {line: ", ".join(filter(None, parts)) for line, parts in texts.items()}


def _text(description: dict[str, Any]) -> str:
    classes = description["num_classes"]
    counted = f"classes counted from the data ({ASSUMED_CLASSES} here)"
    title = f"{description['name']}: {description['input']}x{description['input']} pixels, "
    title += f"{classes} classes" if classes else counted
    header = ("layer", "output", "parameters", "multiply-adds", "field", "stride", "operations")
    rows = [
        (
            layer["name"],
            f"{layer['height']}x{layer['height']}x{layer['channels']}",
            f"{layer['parameters']:,}",
            f"{layer['multiply_adds']:,}",
            str(layer["receptive_field"]),
            str(layer["step"]),
            layer["then"],
        )
        for layer in description["layers"]
    ]
    total = (
        "all",
        "",
        f"{description['parameters']:,}",
        f"{description['multiply_adds']:,}",
        "",
        "",
        "",
    )
    lines = [title, "", *cli.table([header, *rows, total], right=(1, 2, 3, 4, 5))]
    lines += [
        "",
        "field: side of the receptive field in pixels; stride: pixels between adjacent outputs",
    ]
    if crossings := description["crossings"]:
        header = ("layer", "forward", "backward")
        passes = ("forward", "backward")
        rows = [(c["name"], *(f"{c[p]:,}" for p in passes)) for c in crossings]
        rows.append(("all", *(f"{sum(c[p] for c in crossings):,}" for p in passes)))
        lines += [
            "",
            "values sent between towers on separate devices (train.split_towers), per image:",
            "",
        ]
        lines += cli.table([header, *rows], right=(1, 2))
    if "differences" in description:
        differing = description["differences"]
        header = ("key", description["name"], description["diff"], "source")
        rows = [(d["key"], _value(d["first"]), _value(d["second"]), d["source"]) for d in differing]
        lines += ["", f"{len(differing)} differences", "", *cli.table([header, *rows])]
    return "\n".join(lines)


def _value(value: object) -> str:
    return "-" if value is None else json.dumps(value)


if __name__ == "__main__":
    cli.run(main)
