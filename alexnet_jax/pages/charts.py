"""Charts as SVG and tables in the colors of pages/style.css, which follow the reader's light or dark."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alexnet_jax.pages.html import Html, fill, join

WIDTH, SQUARE = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 34
POINTS = 300
"""A curve of more is thinned out."""


class Line(NamedTuple):
    """A curve; where a y is None it has a gap. Its `style` is a class of pages/report.html."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: str


def curves(title: str, lines: Sequence[Line], height: int, log: bool = False) -> Html:
    """A chart of `lines` against epochs with a legend below; y begins at 0, or is logarithmic."""
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y if y is not None and (y > 0 or not log)]
    if not xs or not ys:
        return fill('<p class="muted">Not shown: there are no numbers of {title}.</p>', title=title)
    end, floor = max(xs) or 1, height - BOTTOM
    ticks = _powers(min(ys), max(ys)) if log else _ticks(max(ys), height / 50, beyond=True)
    bottom, top = (ticks[0], ticks[-1]) if log else (0, ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        share = math.log(y / bottom) / math.log(top / bottom) if log else y / top
        return LEFT + x / end * (WIDTH - LEFT - RIGHT), floor - share * (floor - TOP)

    parts = [_axis_y(place(0, tick)[1], f"{tick:g}") for tick in ticks]
    parts += [_axis_x(place(tick, top)[0], floor, f"{tick:g}") for tick in _ticks(end, 6)]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, height - 4, "epoch", "middle"))
    for line in lines:
        parts.append(_path(line, place, log))
    legend = join(
        fill('<li class="{style}"><i></i>{name}</li>', style=line.style, name=line.name)
        for line in lines
    )
    return fill(
        '<figure class="chart"><figcaption><b>{title}</b></figcaption>{svg}<ul class="legend">{legend}</ul></figure>',
        title=title,
        svg=_svg(title, parts, WIDTH, height),
        legend=legend if len(lines) > 1 else Html(""),
    )


def reliability(counts, confidence, accuracy) -> Html:
    """A reliability diagram of the bins of evaluation.calibration.Reliability, beside its diagonal."""
    bins, parts, floor = len(counts), [], SQUARE - BOTTOM
    side = floor - TOP

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + x * side, floor - y * side

    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts += [_axis_y(place(0, tick)[1], f"{100 * tick:g}", LEFT + side)]
        parts += [_axis_x(place(tick, 0)[0], floor, f"{100 * tick:g}")]
    for i in range(bins):
        if counts[i]:
            x, y = place(i / bins, accuracy[i])
            parts.append(
                Html(
                    f'<rect class="bar" x="{x + 1:.1f}" y="{y:.1f}" width="{side / bins - 2:.1f}" '
                    f'height="{accuracy[i] * side:.1f}"><title>{100 * confidence[i]:.0f} % sure, '
                    f"{100 * accuracy[i]:.0f} % right, {counts[i]} images</title></rect>"
                )
            )
    (x1, y1), (x2, y2) = place(0, 0), place(1, 1)
    parts.append(Html(f'<path class="diagonal" d="M{x1} {y1} L{x2} {y2}"/>'))
    parts.append(_text(LEFT + side / 2, SQUARE - 4, "how sure, %", "middle"))
    return fill(
        '<figure class="chart square"><figcaption><b>right, %</b></figcaption>{svg}</figure>',
        svg=_svg("share of right answers by confidence", parts, LEFT + side + 20, SQUARE),
    )


def matrix(values: np.ndarray, names: Sequence[str]) -> Html:
    """A confusion matrix [n n] of counts as a table: rows are labels, shades are shares of a row."""
    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1)
    head = join(fill('<th scope="col"><span>{name}</span></th>', name=name) for name in names)
    rows = []
    for name, row, share in zip(names, values, shares, strict=True):
        cells = join(
            fill(
                '<td style="--share:{share}%">{count}</td>',
                share=f"{70 * part:.1f}",
                count=count or "",
            )
            for count, part in zip(row, share, strict=True)
        )
        rows.append(fill('<tr><th scope="row">{name}</th>{cells}</tr>', name=name, cells=cells))
    return Html(
        '<div class="scroll"><table class="matrix"><thead><tr><td></td>'
        f"{head}</tr></thead><tbody>{join(rows)}</tbody></table></div>"
    )


def bars(rows: Sequence[tuple[str, float]]) -> Html:
    """(name, share from 0 to 1) as horizontal bars with their percent."""
    return Html(
        '<ol class="bars even">'
        + join(
            fill(
                '<li><span class="name">{name}</span><span class="percent">{percent} %</span>'
                '<span class="track"><span style="width:{percent}%"></span></span></li>',
                name=name,
                percent=f"{100 * share:.1f}",
            )
            for name, share in rows
        )
        + "</ol>"
    )


def _path(line: Line, place, log: bool) -> Html:
    every = max(1, len(line.x) // POINTS)
    steps, pen = [], "M"
    kept = [i for i in range(len(line.x)) if i % every == 0 or i == len(line.x) - 1]
    for i in kept:
        y = line.y[i]
        if y is None or (log and y <= 0):
            pen = "M"
            continue
        steps.append("{}{:.1f} {:.1f}".format(pen, *place(line.x[i], y)))
        pen = "L"
    marks = ""
    if len(kept) <= 30:  # a line of one point is invisible without
        points = (step[1:].split() for step in steps)
        marks = "".join(f'<circle cx="{x}" cy="{y}" r="2.4"/>' for x, y in points)
    return fill(
        '<g class="{style}"><path d="{path}"/>{marks}</g>',
        style=line.style,
        path=" ".join(steps),
        marks=Html(marks),
    )


def _ticks(high: float, number: float, beyond: bool = False) -> list[float]:
    """About `number` round numbers from 0 to `high`, or to the next one `beyond`."""
    raw = high / number or 1
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * (1 - 1e-9))
    last = math.ceil(high / step - 1e-9) if beyond else math.floor(high / step + 1e-9)
    return [round(step * i, 12) for i in range(last + 1)]


def _powers(low: float, high: float) -> list[float]:
    # Rates are float32, and 0.0001 a little less than that.
    first, last = math.floor(math.log10(low) + 1e-6), math.ceil(math.log10(high) - 1e-6)
    return [10.0**i for i in range(first, max(last, first + 1) + 1)]


def _axis_y(y: float, label: str, right: float = WIDTH - RIGHT) -> Html:
    line = Html(f'<path class="grid" d="M{LEFT} {y:.1f} H{right}"/>')
    return line + _text(LEFT - 7, y + 3.5, label, "end")


def _axis_x(x: float, floor: float, label: str) -> Html:
    return _text(x, floor + 15, label, "middle")


def _text(x: float, y: float, text: str, anchor: str) -> Html:
    return fill(
        '<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>',
        x=f"{x:.1f}",
        y=f"{y:.1f}",
        anchor=anchor,
        text=text,
    )


def _svg(label: str, parts: Sequence[Html], width: float, height: float) -> Html:
    return fill(
        '<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{parts}</svg>',
        width=f"{width:g}",
        height=f"{height:g}",
        label=label,
        parts=join(parts),
    )
