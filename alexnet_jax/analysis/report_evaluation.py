"""Evaluation sections of the report: results, published numbers, errors by class, calibration."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from alexnet_jax.config import published as reference
from alexnet_jax.data.pipeline import splits
from alexnet_jax.errors import DataError, StorageError
from alexnet_jax.inference import metrics
from alexnet_jax.inference import predictions as prediction_files
from alexnet_jax.inference.predictions import Predictions
from alexnet_jax.inference.trained import TrainedModel
from alexnet_jax.pages import charts
from alexnet_jax.pages.render import render
from alexnet_jax.run import reading
from alexnet_jax.specs import Config

#: Maximum number of classes for a confusion matrix; with more, the classes with the highest errors are listed.
MAX_CLASSES = 20
#: Number of confused pairs to list.
PAIRS = 10
#: Display names of views (§4.1).
VIEWS = {"center": "center crop", "ten": "ten-crop", "nine": "nine-crop"}


class SavedPredictions:
    """The predictions of a run for one split, views and step, read on first use."""

    def __init__(self, folder: Path, split: str, views: str, step: int) -> None:
        self.folder, self.split, self.views, self.step = folder, split, views, step

    @cached_property
    def predictions(self) -> Predictions:
        """The probabilities and labels."""
        return prediction_files.load(self.folder, self.split, self.views, self.step)

    def errors(self) -> dict[str, Any]:
        """Compute the top-1 and top-5 error and other metrics."""
        return dict(metrics.summarize(*self.predictions))

    def __str__(self) -> str:
        count = len(self.predictions.labels)
        return f"{count:,} images of {self.split}, views: {self.views}, step {self.step:,}"


def find_predictions(folder: Path, step: int | None) -> list[SavedPredictions]:
    """Find the saved predictions of a step, by default the latest step with predictions.

    They are sorted by split, in the order of splits.PREFERRED, with center crops first.
    """
    names = (path.name for path in folder.glob("predictions/*.npz"))
    matches = (re.fullmatch(r"(\w+)_([a-z]+)_(\d+)\.npz", name) for name in names)
    saved = [SavedPredictions(folder, m[1], m[2], int(m[3])) for m in matches if m]
    step = step or max((p.step for p in saved), default=0)
    saved = [p for p in saved if p.step == step]
    order = [*splits.PREFERRED, *sorted({p.split for p in saved} - set(splits.PREFERRED))]
    return sorted(saved, key=lambda p: (order.index(p.split), p.views != "center", p.views))


def first(saved: list[SavedPredictions]) -> SavedPredictions:
    """Return the predictions that the sections show. Raises DataError if none are saved."""
    if not saved:
        raise DataError("there are no predictions of this step; run alexnet evaluate")
    return saved[0]


def results(folder: Path, saved: list[SavedPredictions]) -> Markup:
    """Render the errors on held-out splits, from results.json and from saved predictions. Raises StorageError."""
    final = reading.read_results(folder)
    entries: dict[tuple[str, str], tuple[int, Any]] = {}
    if final:
        entries = {
            (split, view): (final["step"], errors)
            for split, by_view in final["splits"].items()
            for view, errors in by_view.items()
        }
    entries |= {(p.split, p.views): (p.step, p.errors()) for p in saved}
    if not entries:
        raise StorageError(f"no results yet; run alexnet evaluate --workdir {folder}")
    (split, view), (_, errors) = next(iter(entries.items()))
    headline = [
        (_percent(errors["top1_error"]), "top-1 error"),
        (_percent(errors.get("top5_error")), "top-5 error"),
        (f"{errors['count']:,}", f"{split} images, {VIEWS.get(view, view)}"),
        (f"{errors['nll']:.3f}", "mean negative log-likelihood (nats)"),
    ]
    if final:
        headline.append((f"{final['epoch']:.3g}", f"epochs in {_duration(final['seconds'])}"))
    has_top5 = any("top5_error" in errors for _, errors in entries.values())
    tops = ("top1_error", "top5_error") if has_top5 else ("top1_error",)
    header = ("split", "views", "step", "images", *(f"top-{top[3]} error" for top in tops), "NLL")
    rows = []
    for (split, view), (step, errors) in sorted(entries.items()):
        percent = (_percent(errors.get(top)) for top in tops)
        where = (split, VIEWS.get(view, view), f"{step:,}", f"{errors['count']:,}")
        rows.append((*where, *percent, f"{errors['nll']:.3f}"))
    return render("results.html", headline=headline, header=header, rows=rows)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.2f} %"


def published(spec: Config) -> Markup:
    """Render published errors: of this ablation, of the authors' CIFAR-10 networks, or on ImageNet.

    Only those that the errors of this network can be compared with; empty if there are none.
    """
    member = spec.name.partition(":")[2].partition(",")[0]
    claim = reference.CLAIMS.get(member) if spec.name.startswith("ablations:") else None
    claims = []
    if claim:
        claims = [("the paper", claim.paper or "nothing"), ("the authors' log of 2012", claim.log),
                  ("caution", claim.caution)]  # fmt: skip
    cifar10 = reference.CIFAR10 if spec.data.source == "cifar10" else {}
    header = reference.HEADER
    is_imagenet = spec.model.num_classes == reference.CLASSES
    if not (claims or cifar10 or is_imagenet):
        return Markup()
    return render(
        "published.html", member=member, claims=[row for row in claims if row[1]],
        cifar10=[(name, f"{100 * error:.1f} %") for name, error in cifar10.items()],
        header=(f"{header[0]}, top-1 / top-5 in %", *header[1:]),
        imagenet=reference.rows() if is_imagenet else [],
    )  # fmt: skip


def classes(saved: list[SavedPredictions], run: TrainedModel | None) -> Markup:
    """Render the error of each class and the classes confused most often. Raises DataError."""
    shown = first(saved)
    matrix = metrics.confusion(*shown.predictions)
    errors = metrics.per_class_errors(*shown.predictions)
    names = run.class_names if run else [f"class {i}" for i in range(len(matrix))]
    hardest = np.argsort(-errors, kind="stable")
    hardest = hardest[np.isfinite(errors[hardest])]  # omit classes without images
    few = len(matrix) <= MAX_CLASSES
    return render(
        "classes.html", source=str(shown),
        matrix=charts.matrix(matrix, names) if few else None,
        title="Error of each class" if few else f"Error of the {MAX_CLASSES} hardest classes",
        errors=[(names[i], float(errors[i]), False) for i in hardest[: None if few else MAX_CLASSES]],
        pairs=[
            (names[pair.label], names[pair.predicted], pair.images)
            for pair in metrics.most_confused(matrix, PAIRS)
        ],
    )  # fmt: skip


def calibration(saved: list[SavedPredictions]) -> Markup:
    """Render the reliability diagram and the expected calibration error. Raises DataError."""
    shown = first(saved)
    found = metrics.reliability(*shown.predictions)
    return render(
        "calibration.html", source=str(shown), error=100 * found.error, bins=len(found.counts),
        chart=charts.reliability(found.counts, found.confidence, found.accuracy),
    )  # fmt: skip
