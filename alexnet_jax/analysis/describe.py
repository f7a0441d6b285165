"""Print a network: its layers, their sizes, parameters, multiply-adds and receptive fields.

alexnet describe --config configs/paper.py [--diff configs/krizhevsky2012.py]

alexnet describe --workdir runs/mine

--diff adds every value in which a second config differs, and where each of the two comes from. --workdir describes the
net of a run folder or of a .safetensors file, with the number of classes that was counted from its data.
Values set on the command line (--config.key=value) apply to the first config.
"""

import functools
import json
from typing import NamedTuple

from alexnet_jax import cli, config, files
from alexnet_jax.config import find, provenance
from alexnet_jax.errors import ConfigError
from alexnet_jax.inference import trained
from alexnet_jax.model import geometry
from alexnet_jax.specs import Config, ConvSpec, ModelSpec

ASSUMED_CLASSES = 1000
"""Outputs of the last row where the classes are counted from the data."""


class Difference(NamedTuple):
    """A key in which two configs differ; a value is None too where the config lacks the key."""

    key: str
    first: object
    second: object
    source: str


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", metavar="FILE[:VARIANT]", help="one of configs/")
    which.add_argument("--workdir", help="a run folder, or a .safetensors file")
    parser.add_argument("--diff", metavar="FILE[:VARIANT]", help="another, to compare with")
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


def describe(spec: Config) -> dict:
    """Layers and totals of the network of `spec`, as JSON has them."""
    classes = spec.model.num_classes or ASSUMED_CLASSES
    layers = geometry.layers(spec.model, spec.augment.crop_size, classes)
    operations = _operations(spec.model)
    crossings = geometry.crossings(spec.model, spec.augment.crop_size, classes)
    return {
        "name": spec.name,
        "input": spec.augment.crop_size,
        "num_classes": spec.model.num_classes,
        "layers": [layer._asdict() | {"then": operations[layer.name]} for layer in layers],
        "parameters": sum(layer.parameters for layer in layers),
        "multiply_adds": sum(layer.multiply_adds for layer in layers),
        "crossings": [crossing._asdict() for crossing in crossings]
        if spec.model.towers > 1
        else [],
    }


def differences(first: dict, second: dict) -> list[Difference]:
    """Every value in which two configs, as plain dicts, differ, in order of their keys.

    A key that only one of them lists has its default in the other.
    """
    listed = files.flatten(first, ".").keys() | files.flatten(second, ".").keys()
    one, two = (files.flatten(config.completed(tree), ".") for tree in (first, second))
    found = []
    for key in sorted(listed):
        # 2 and 2.0 are the same to parse().
        if key != "name" and one.get(key) != two.get(key):
            values = one.get(key), two.get(key)
            sources = [
                source(first["name"], key, values[0]),
                source(second["name"], key, values[1]),
            ]
            found.append(Difference(key, *values, "; ".join(dict.fromkeys(filter(None, sources)))))
    return found


def source(name: str, key: str, value: object) -> str:
    """Where config `name` has this value of `key` from; "" if not known. None: it lacks the key."""
    if not provenance.is_known(name) or not _values(name):
        return ""
    if _values(name).get(key) != value:
        return f"not as in configs/{provenance.argument(name)}"
    while (base := provenance.base(name)) and _values(base).get(key) == value:
        name = base
    return provenance.note(name, key)


@functools.cache
def _values(name: str) -> dict[str, object]:
    """The values of a config of configs/, by its name; none where there is no such variant."""
    try:
        tree = _plain(str(find.folder() / provenance.argument(name)), [])
        return files.flatten(config.completed(tree), ".")
    except ConfigError:
        return {}


def _plain(argument: str, overrides: list[str]) -> dict:
    return json.loads(config.to_json(config.load(argument, overrides)))


def _spec(tree: dict) -> Config:
    """The checked specs of `tree`, whose images need not be there for this."""
    return config.parse(tree, needs_images=False)


def _operations(model: ModelSpec) -> dict[str, str]:
    """Layer -> what is done before and after it; a pool, on its own line, takes what follows."""
    texts: dict[str, str] = {}
    for name, row in model.convs:
        after = [_operation(model, operation) for operation in row.ops]
        if "pool" in after:
            place = after.index("pool")
            texts[f"{name}/pool"] = ", ".join([_pool(row), *after[place + 1 :]])
            after = after[:place]
        groups = [f"{row.groups} groups"] if row.groups > 1 else []
        texts[name] = ", ".join([_shape(row), *groups, *after])
    for name, row in model.fcs:
        groups = [f"{row.groups} groups"] if row.groups > 1 else []
        before = [f"{operation} before" for operation in row.pre_ops]
        texts[name] = ", ".join([*before, *groups, *row.ops])
    return texts


def _operation(model: ModelSpec, operation: str) -> str:
    across = operation == "lrn" and model.towers > 1 and not model.lrn_constants.within_towers
    return "lrn over all maps" if across else operation


def _pool(row: ConvSpec) -> str:
    assert row.pool  # config.parse() refuses a 'pool' without one
    return f"{row.pool.kind} {row.pool.window}x{row.pool.window}/{row.pool.stride}"


def _shape(row: ConvSpec) -> str:
    pad = f"pad {row.pad[0]}" if row.pad[0] == row.pad[1] else f"pad {row.pad[0]},{row.pad[1]}"
    return f"{row.kind} {row.kernel}x{row.kernel}/{row.stride} {pad}"


def _text(description: dict) -> str:
    classes = description["num_classes"]
    counted = f"classes counted from the data ({ASSUMED_CLASSES} here)"
    title = f"{description['name']}: {description['input']}x{description['input']} pixels, "
    title += f"{classes} classes" if classes else counted
    header = ("layer", "output", "parameters", "multiply-adds", "sees", "every", "operations")
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
    lines += ["", "sees: side in pixels of what one output sees; every: pixels between neighbors"]
    if crossings := description["crossings"]:
        header = ("crosses at", "values forward", "values backward")
        ways = ("forward", "backward")
        rows = [(c["name"], *(f"{c[way]:,}" for way in ways)) for c in crossings]
        rows.append(("all", *(f"{sum(c[way] for c in crossings):,}" for way in ways)))
        lines += [
            "",
            "between towers on devices of their own (train.split_towers), for each image:",
            "",
        ]
        lines += cli.table([header, *rows], right=(1, 2))
    if "differences" in description:
        found = description["differences"]
        header = ("key", description["name"], description["diff"], "source")
        rows = [(d["key"], _value(d["first"]), _value(d["second"]), d["source"]) for d in found]
        lines += ["", f"{len(found)} differences", "", *cli.table([header, *rows])]
    return "\n".join(lines)


def _value(value: object) -> str:
    return "-" if value is None else json.dumps(value)


if __name__ == "__main__":
    cli.run(main)
