"""Sections of the report about training: learning curves, the network, other figures, and how to reproduce the run."""

import base64
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from alexnet_jax import config
from alexnet_jax.analysis import curves, describe
from alexnet_jax.config import provenance
from alexnet_jax.errors import AlexNetError, StorageError, printable
from alexnet_jax.pages import charts
from alexnet_jax.pages.render import render
from alexnet_jax.run import reading
from alexnet_jax.specs import Config

#: Figures whose content has a section of its own.
_HAS_SECTION = (
    "curves", "filters", "predictions", "neighbors", "confusion", "calibration", "hardest",
)  # fmt: skip


def learning_curves(folder: Path) -> Markup:
    """Error, loss and learning rate against epochs. Raises WorkdirError."""
    found = curves.read(folder)
    train = found["train"]
    epochs = train["epoch"]
    error = [charts.Line("training", epochs, _percent(train["train_top1_error"]), "train")]
    for i, (name, columns) in enumerate(sorted(found["evaluations"].items())):
        style, name = ("held", "other")[i % 2], name.replace("_", ", ")
        for measure, dash in (("top1_error", ""), ("top5_error", " dashed")):
            if any(value is not None for value in columns[measure]):
                title = f"{name}, {measure[:3]}-{measure[3]}"
                shares = _percent(columns[measure])
                error.append(charts.Line(title, columns["epoch"], shares, style + dash))
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
    """The layers of the network, and how its config differs from the one that it is based on."""
    described = describe.describe(spec)
    layers = [
        (layer["name"], f"{layer['height']}x{layer['height']}x{layer['channels']}", f"{layer['parameters']:,}",
         f"{layer['multiply_adds']:,}", layer["receptive_field"], layer["then"])
        for layer in described["layers"]
    ]  # fmt: skip
    layers.append(("all", "", f"{described['parameters']:,}", f"{described['multiply_adds']:,}", "", ""))  # fmt: skip
    assumed = f"{describe.ASSUMED_CLASSES:,}" if spec.model.num_classes is None else ""
    return render(
        "network.html", layers=layers, assumed_classes=assumed, **_differences(spec.name, tree)
    )


def _differences(name: str, tree: dict[str, Any]) -> dict[str, Any]:
    """How a config differs from its base, as network.html takes it."""
    base = provenance.other_file(name)
    found: dict[str, Any] = {"base": base, "base_file": "", "base_error": "", "differences": None}
    if base is None:
        return found
    base_file = provenance.argument(base)
    try:
        other = json.loads(config.to_json(config.load(str(describe.CONFIGS / base_file), [])))
    except AlexNetError as error:
        return found | {"base_error": str(error)}
    rows = [
        (d.key, _json(d.first), _json(d.second), d.source)
        for d in describe.differences(tree, other)
        if d.key != "data.path"  # depends on the machine
    ]
    return found | {"base_file": base_file, "differences": rows}


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value)


def other_figures(folder: Path) -> Markup:
    """The figures in the run folder that no section covers. Raises StorageError if there are none."""
    paths = [path for path in sorted(folder.glob("figures/*.png")) if path.stem not in _HAS_SECTION]
    if not paths:
        raise StorageError("there are no others yet; alexnet figures --help lists their kinds")
    encoded = [(path.stem, base64.b64encode(path.read_bytes()).decode()) for path in paths]
    return render("other_figures.html", figures=encoded)


def reproduction(folder: Path) -> Markup:
    """The command of the last start, its commit, and the machine. Raises StorageError without run.json."""
    made = reading.read_environment(folder)
    if made is None:
        raise StorageError(f"{folder} has no run.json")
    command = shlex.join(["python", "-m", "alexnet_jax.main", *made["command"][1:]])
    if commit := made.get("commit"):
        command = f"git checkout {commit}\n{command}"
    shown = {key: value for key, value in made.items() if key not in ("command", "versions")}
    shown |= {"versions": ", ".join(f"{k} {v}" for k, v in made.get("versions", {}).items())}
    environment = [(printable(key.replace("_", " ")), _text(value)) for key, value in shown.items()]
    starts = [
        (start.get("time", ""), start["command"], _json(start.get("changes") or None))
        for start in reading.history(folder)
    ]
    return render(
        "reproduction.html", command=command, uncommitted=bool(made.get("uncommitted_changes")),
        environment=environment, starts=starts,
    )  # fmt: skip


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
