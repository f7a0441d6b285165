"""The parts of a report that are about the run: results, curves, the network, and how to run it again."""

import base64
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_jax import config
from alexnet_jax.analysis import curves, describe
from alexnet_jax.config import provenance
from alexnet_jax.config import published as published_numbers
from alexnet_jax.errors import AlexNetError, StorageError, printable
from alexnet_jax.pages import charts, html
from alexnet_jax.pages.html import Html, fill, table
from alexnet_jax.run import reading
from alexnet_jax.specs import Config

if TYPE_CHECKING:
    from alexnet_jax.analysis.answers import Kept

ON_THE_PAGE = (
    "curves",
    "filters",
    "predictions",
    "neighbors",
    "confusion",
    "calibration",
    "hardest",
)
VIEWS = {"center": "center crop", "ten": "mean of ten views", "nine": "mean of nine views"}


def results(folder: Path, kept: list["Kept"]) -> Html:
    """Errors of the held-out splits: those of results.json, and of predictions made later."""
    results = reading.read_results(folder)
    rows: dict = {}
    if results:
        rows = {
            (split, view): (results["step"], errors)
            for split, by_view in results["splits"].items()
            for view, errors in by_view.items()
        }
    rows |= {(one.split, one.views): (one.step, one.errors()) for one in kept}
    if not rows:
        raise StorageError(f"no results yet; alexnet evaluate --workdir {folder} makes them")
    (split, view), (_, errors) = next(iter(rows.items()))
    numbers = [
        (_percent(errors["top1_error"]), "top-1 error"),
        (_percent(errors.get("top5_error")), "top-5 error"),
        (f"{errors['count']:,}", f"{split} images, {VIEWS.get(view, view)}"),
        (f"{errors['nll']:.3f}", "nats to the label, mean"),
    ]
    if results:
        numbers.append((f"{results['epoch']:.3g}", f"epochs in {_duration(results['seconds'])}"))
    lines = [
        (split, VIEWS.get(view, view), f"{step:,}", f"{errors['count']:,}", _percent(errors["top1_error"]),
         _percent(errors.get("top5_error")), f"{errors['nll']:.3f}")
        for (split, view), (step, errors) in sorted(rows.items())
    ]  # fmt: skip
    header = ("split", "views", "step", "images", "top-1 error", "top-5 error", "nats")
    note = "One net, one seed. A tie with another class counts as wrong."
    several = table(header, lines, numbers=range(2, 7)) if len(lines) > 1 else Html("")
    return _large(numbers) + several + fill('<p class="muted small">{note}</p>', note=note)


def _large(numbers: list[tuple[str, str]]) -> Html:
    """A few numbers, large, each with what it is; empty ones are left out."""
    made = (
        fill("<div><dd>{number}</dd><dt>{name}</dt></div>", number=number, name=name)
        for number, name in numbers
        if number
    )
    return Html(f'<dl class="figures">{html.join(made)}</dl>')


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def published(spec: Config) -> Html:
    parts = []
    member = spec.name.partition(":")[2].partition(",")[0]
    claim = published_numbers.CLAIMS.get(member) if spec.name.startswith("ablations:") else None
    if claim:
        rows = [
            ("the paper", claim.paper or "nothing"),
            ("the authors' log of 2012", claim.log),
            ("caution", claim.caution),
        ]
        parts.append(table((member, "points of error, top-1 / top-5"), filter(_last, rows)))
    if spec.data.source == "cifar10":
        rows = [(name, f"{100 * error:.1f} %") for name, error in published_numbers.CIFAR10.items()]
        parts.append(table(("CIFAR-10 nets of the authors", "test error"), rows, numbers=(1,)))
        note = (
            "As the names and comments of their files state them; other nets, on undamaged images."
        )
        parts.append(fill('<p class="muted small">{note}</p>', note=note))
    header, rows = published_numbers.HEADER, published_numbers.rows()
    imagenet = table((f"{header[0]}, top-1 / top-5 in %", *header[1:]), rows, numbers=(1, 2))
    if spec.model.num_classes in (None, 1000):
        return html.join([*parts, imagenet])
    note = "of ImageNet, with which errors on other data cannot be compared"
    parts.append(_folded(f"{len(rows)} numbers {note}", imagenet))
    return html.join(parts)


def _folded(summary: str, body: Html) -> Html:
    return fill("<details><summary>{summary}</summary>{body}</details>", summary=summary, body=body)


def _last(row: tuple) -> bool:
    return bool(row[-1])


def learning(folder: Path) -> Html:
    found = curves.read(folder)
    train = found["train"]
    epochs = train["epoch"]
    error = [charts.Line("training", epochs, _hundred(train["train_top1_error"]), "train")]
    for i, (name, columns) in enumerate(sorted(found["evaluations"].items())):
        style, name = ("held", "other")[i % 2], name.replace("_", ", ")
        for measure, dash in (("top1_error", ""), ("top5_error", " dashed")):
            if any(value is not None for value in columns[measure]):
                title = f"{name}, {measure[:3]}-{measure[3]}"
                shares = _hundred(columns[measure])
                error.append(charts.Line(title, columns["epoch"], shares, style + dash))
    loss = [charts.Line("loss", epochs, train["train_loss"], "train")]
    rate = [charts.Line("rate", epochs, train["learning_rate"], "train")]
    return fill(
        '<div class="halves">{error}<div>{loss}{rate}</div></div>',
        error=charts.curves("Error, %", error, height=310),
        loss=charts.curves("Training loss", loss, height=160),
        rate=charts.curves("Learning rate", rate, height=140, log=True),
    )


def _hundred(column: list) -> list:
    return [None if value is None else 100 * value for value in column]


def network(spec: Config, tree: dict) -> Html:
    described = describe.describe(spec)
    rows = [
        (layer["name"], f"{layer['height']}x{layer['height']}x{layer['channels']}", f"{layer['parameters']:,}",
         f"{layer['multiply_adds']:,}", layer["receptive_field"], layer["then"])
        for layer in described["layers"]
    ]  # fmt: skip
    rows.append(("all", "", f"{described['parameters']:,}", f"{described['multiply_adds']:,}", "", ""))  # fmt: skip
    header = ("layer", "output", "parameters", "multiply-adds", "sees", "operations")
    body = table(header, rows, numbers=range(1, 5))
    if spec.model.num_classes is None:
        body += missing(
            f"the number of classes, which is counted from the data and no checkpoint says yet; "
            f"{describe.ASSUMED_CLASSES:,} are assumed"
        )
    return body + _differences(spec.name, tree)


def _differences(name: str, tree: dict) -> Html:
    """What sets a config apart from the one that its file begins from."""
    base = provenance.other_file(name)
    if base is None:
        return Html("")
    try:
        argument = str(describe.CONFIGS / provenance.argument(base))
        other = json.loads(config.to_json(config.load(argument, [])))
    except AlexNetError as error:
        return missing(f"differences from {base}: {error}")
    found = describe.differences(tree, other)
    # Where the images lie is no property of a net.
    rows = [(d.key, _value(d.first), _value(d.second), d.source) for d in found if d.key != "data.path"]  # fmt: skip
    summary = f"{len(rows)} differences from configs/{provenance.argument(base)}"
    return _folded(summary, table(("key", "here", base, "source"), rows))


def _value(value) -> str:
    return "" if value is None else json.dumps(value)


def figures(folder: Path) -> Html:
    """What other commands have drawn of this run and the page has no part for."""
    paths = sorted(folder.glob("figures/*.png"))
    paths = [path for path in paths if path.stem not in ON_THE_PAGE]
    if not paths:
        raise StorageError(
            "none but those above are drawn yet; alexnet saliency and others draw them"
        )
    return html.join(
        fill(
            '<figure class="drawn"><img src="data:image/png;base64,{png}" alt="{name}"><figcaption>{name}</figcaption>'
            "</figure>",
            png=base64.b64encode(path.read_bytes()).decode(),
            name=path.stem,
        )
        for path in paths
    )


def again(folder: Path) -> Html:
    """The command of the last start, the code that it ran, and the machine."""
    made = reading.read_environment(folder)
    if made is None:
        raise StorageError(f"{folder} has no run.json")
    command = shlex.join(["python", "-m", "alexnet_jax.main", *made["command"][1:]])
    if commit := made.get("commit"):
        command = f"git checkout {commit}\n{command}"
    parts = [fill("<pre>{command}</pre>", command=command)]
    if made.get("uncommitted_changes"):
        parts.append(Html("<p>The code had changes that were not committed.</p>"))
    note = "Into another --workdir: in this one the run would continue, or be found finished."
    parts.append(fill('<p class="muted small">{note}</p>', note=note))
    shown = {key: value for key, value in made.items() if key not in ("command", "versions")}
    shown |= {"versions": ", ".join(f"{k} {v}" for k, v in made.get("versions", {}).items())}
    rows = [(printable(key.replace("_", " ")), _plain(value)) for key, value in shown.items()]
    parts.append(table(("machine and code", ""), rows))
    starts = reading.history(folder)
    if len(starts) > 1:
        rows = [
            (start.get("time", ""), start["command"], json.dumps(changes) if (changes := start.get("changes")) else "")
            for start in starts
        ]  # fmt: skip
        parts.append(
            _folded(f"all {len(starts)} starts", table(("time", "command", "changes"), rows))
        )
    return html.join(parts)


def _plain(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def missing(why: str) -> Html:
    return fill('<p class="muted">Not shown: {why}.</p>', why=why.rstrip("."))
