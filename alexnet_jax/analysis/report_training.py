"""Training sections of the report: learning curves, the network, other figures, and how to reproduce the run."""

import base64
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from alexnet_jax import config
from alexnet_jax.analysis import curves, describe
from alexnet_jax.config import find, provenance
from alexnet_jax.errors import AlexNetError, StorageError, printable
from alexnet_jax.pages import charts
from alexnet_jax.pages.render import render
from alexnet_jax.run import reading
from alexnet_jax.specs import Config

#: Figures that other sections of the report already cover.
_HAS_SECTION = (
    "curves", "filters", "predictions", "neighbors", "confusion", "calibration", "hardest",
)  # fmt: skip


def learning_curves(folder: Path) -> Markup:
    """Render error, loss and learning rate against epochs. Raises WorkdirError."""
    recorded = curves.read(folder)
    train = recorded["train"]
    epochs = train["epoch"]
    error = [charts.Line("training", epochs, _percent(train["train_top1_error"]), "train")]
    for i, (name, columns) in enumerate(sorted(recorded["evaluations"].items())):
        style, name = ("held", "other")[i % 2], name.replace("_", ", ")
        for measure, dash in (("top1_error", ""), ("top5_error", " dashed")):
            if any(value is not None for value in columns[measure]):
                title = f"{name}, {measure[:3]}-{measure[3]}"
                percent = _percent(columns[measure])
                error.append(charts.Line(title, columns["epoch"], percent, style + dash))
    loss = [charts.Line("loss", epochs, train["train_loss"], "train")]
    rate = [charts.Line("rate", epochs, train["learning_rate"], "train")]
    return render(
        "learning_curves.html",
        error=charts.curves("Error, %", error, height=310),
        loss=charts.curves("Training loss", loss, height=160),
        rate=charts.curves("Learning rate", rate, height=140, log=True),
    )


def _percent(column: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else 100 * value for value in column]


def network(spec: Config, tree: dict[str, Any]) -> Markup:
    """Render the layers of the network, and the differences of its config from its base config."""
    description = describe.describe(spec)
    layers = [
        (layer["name"], f"{layer['height']}x{layer['height']}x{layer['channels']}", f"{layer['parameters']:,}",
         f"{layer['multiply_adds']:,}", layer["receptive_field"], layer["then"])
        for layer in description["layers"]
    ]  # fmt: skip
    parameters, multiply_adds = description["parameters"], description["multiply_adds"]
    layers.append(("all", "", f"{parameters:,}", f"{multiply_adds:,}", "", ""))
    assumed = f"{describe.ASSUMED_CLASSES:,}" if spec.model.num_classes is None else ""
    return render(
        "network.html", layers=layers, assumed_classes=assumed, **_differences(spec.name, tree)
    )


def _differences(name: str, tree: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of network.html that describe the differences of a config from its base."""
    base = provenance.other_file(name)
    arguments: dict[str, Any] = {
        "base": base,
        "base_file": "",
        "base_error": "",
        "differences": None,
    }
    if base is None:
        return arguments
    base_file = provenance.argument(base)
    try:
        other = config.plain(config.load(str(find.folder() / base_file), []))
    except AlexNetError as error:
        return arguments | {"base_error": str(error)}
    rows = [
        (d.key, _json(d.first), _json(d.second), d.source)
        for d in describe.differences(tree, other)
        if d.key != "data.path"  # depends on the machine
    ]
    return arguments | {"base_file": base_file, "differences": rows}


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value)


def other_figures(folder: Path) -> Markup:
    """Render the figures in the run folder that no other section covers. Raises StorageError if none exist."""
    paths = [path for path in sorted(folder.glob("figures/*.png")) if path.stem not in _HAS_SECTION]
    if not paths:
        raise StorageError("no other figures yet; alexnet figures --help lists them")
    encoded = [(path.stem, base64.b64encode(path.read_bytes()).decode()) for path in paths]
    return render("other_figures.html", figures=encoded)


def reproduction(folder: Path) -> Markup:
    """Render the command of the last start, its commit, and the machine. Raises StorageError without run.json."""
    recorded = reading.read_environment(folder)
    if recorded is None:
        raise StorageError(f"{folder} has no run.json")
    command = shlex.join(["python", "-m", "alexnet_jax.main", *recorded["command"][1:]])
    if commit := recorded.get("commit"):
        command = f"git checkout {commit}\n{command}"
    shown = {key: value for key, value in recorded.items() if key not in ("command", "versions")}
    shown |= {"versions": ", ".join(f"{k} {v}" for k, v in recorded.get("versions", {}).items())}
    environment = [(printable(key.replace("_", " ")), _text(value)) for key, value in shown.items()]
    starts = [
        (start.get("time", ""), start["command"], _json(start.get("changes") or None))
        for start in reading.history(folder)
    ]
    return render(
        "reproduction.html", command=command, uncommitted=bool(recorded.get("uncommitted_changes")),
        environment=environment, starts=starts,
    )  # fmt: skip


def _text(value: Any) -> str:
    """Write lists and dictionaries without brackets and quotes, except around those that are inside others."""
    if isinstance(value, dict):
        parts = (
            f"{key} ({_text(v)})" if isinstance(v, dict) else f"{key} {_text(v)}"
            for key, v in value.items()
            if v not in ([], {})
        )  # fmt: skip
        return ", ".join(parts)
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)
