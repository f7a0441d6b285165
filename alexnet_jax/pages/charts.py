"""Charts as inline SVG, and a confusion matrix as a table, in the colors of style.css."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from alexnet_jax.pages.render import render

WIDTH, SQUARE, POLAR = 420, 250, 120
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 34
#: Curves with more points are thinned out.
MAX_POINTS = 300
#: Curves with at most this many points have markers, as a line of one point is invisible.
MAX_MARKERS = 30

Place = Callable[[float, float], tuple[float, float]]


class Line(NamedTuple):
    """A curve."""

    name: str
    x: Sequence[float]
    #: None leaves a gap.
    y: Sequence[float | None]
    #: A CSS class of templates/report.html.
    style: str


def curves(title: str, lines: Sequence[Line], height: int, log: bool = False) -> Markup:
    """Draw `lines` against epochs, with a legend below; the y axis begins at 0 or is logarithmic."""
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y if y is not None and (y > 0 or not log)]
    if not xs or not ys:
        return render("curves.html", title=title, lines=[])
    end, floor = max(xs) or 1, height - BOTTOM
    ticks = _powers(min(ys), max(ys)) if log else _ticks(max(ys), height / 50, beyond=True)
    bottom, top = (ticks[0], ticks[-1]) if log else (0, ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        share = math.log(y / bottom) / math.log(top / bottom) if log else y / top
        return LEFT + x / end * (WIDTH - LEFT - RIGHT), floor - share * (floor - TOP)

    return render(
        "curves.html", title=title, lines=[_drawn(line, place, log) for line in lines],
        width=WIDTH, height=height, left=LEFT, right=WIDTH - RIGHT, floor=floor,
        y_ticks=[(round(place(0, tick)[1], 1), f"{tick:g}") for tick in ticks],
        x_ticks=[(round(place(tick, top)[0], 1), f"{tick:g}") for tick in _ticks(end, 6)],
    )  # fmt: skip


def reliability(counts: np.ndarray, confidence: np.ndarray, accuracy: np.ndarray) -> Markup:
    """Draw the bins of inference.metrics.Reliability beside their diagonal."""
    bins, floor = len(counts), SQUARE - BOTTOM
    side = floor - TOP

    def place(x: float, y: float) -> tuple[float, float]:
        return round(LEFT + x * side, 1), round(floor - y * side, 1)

    bars = []
    for i in np.flatnonzero(counts):
        x, y = place(i / bins, accuracy[i])
        bars.append({
            "x": round(x + 1, 1), "y": y, "width": f"{side / bins - 2:.1f}", "height": f"{accuracy[i] * side:.1f}",
            "label": f"{100 * confidence[i]:.0f} % confidence, {100 * accuracy[i]:.0f} % accuracy, {counts[i]} images",
        })  # fmt: skip
    shares = (0, 0.25, 0.5, 0.75, 1)
    return render(
        "reliability.html", bars=bars, width=LEFT + side + 20, height=SQUARE,
        left=LEFT, right=LEFT + side, floor=floor, top=TOP,
        ticks=[(f"{100 * share:g}", place(share, 0)[0], place(0, share)[1]) for share in shares],
    )  # fmt: skip


def polar(title: str, orientations: Sequence[float], values: Sequence[float]) -> Markup:
    """Draw values, at least 0, by orientation in degrees, from 0 to 180 counterclockwise; each is on both sides."""
    middle, radius, largest = POLAR / 2, POLAR / 2 - 2, max(max(values), 1e-12)
    angles = [math.radians(a) for a in (*orientations, *(180 + a for a in orientations))]
    points = [
        f"{middle + radius * value / largest * math.cos(angle):.1f} "
        f"{middle - radius * value / largest * math.sin(angle):.1f}"
        for angle, value in zip(angles, [*values, *values], strict=True)
    ]
    path = f"M{' L'.join(points)} Z"
    return render("polar.html", title=title, size=POLAR, middle=middle, radius=radius, path=path)


def matrix(values: np.ndarray, names: Sequence[str]) -> Markup:
    """Show a confusion matrix [n n] of counts; rows are labels, shades are shares of a row."""
    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1)
    rows = [
        (name, [(count, f"{70 * part:.1f}") for count, part in zip(row, share, strict=True)])
        for name, row, share in zip(names, values, shares, strict=True)
    ]
    return render("matrix.html", names=names, rows=rows)


def _drawn(line: Line, place: Place, log: bool) -> dict[str, object]:
    """Compute the path and markers of a line for curves.html."""
    every = max(1, len(line.x) // MAX_POINTS)
    points, path, pen = [], [], "M"
    kept = [i for i in range(len(line.x)) if i % every == 0 or i == len(line.x) - 1]
    for i in kept:
        y = line.y[i]
        if y is None or (log and y <= 0):
            pen = "M"
            continue
        x, y = (f"{value:.1f}" for value in place(line.x[i], y))
        points.append((x, y))
        path.append(f"{pen}{x} {y}")
        pen = "L"
    markers = points if len(kept) <= MAX_MARKERS else []
    return {"name": line.name, "style": line.style, "path": " ".join(path), "markers": markers}


def _ticks(high: float, number: float, beyond: bool = False) -> list[float]:
    """About `number` round values from 0 to `high`, or to the next one above it."""
    raw = high / number or 1
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * (1 - 1e-9))
    last = math.ceil(high / step - 1e-9) if beyond else math.floor(high / step + 1e-9)
    return [round(step * i, 12) for i in range(last + 1)]


def _powers(low: float, high: float) -> list[float]:
    # Learning rates are float32, where 0.0001 is slightly less than that.
    first, last = math.floor(math.log10(low) + 1e-6), math.ceil(math.log10(high) - 1e-6)
    return [10.0**i for i in range(first, max(last, first + 1) + 1)]
