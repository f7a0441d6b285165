"""Charts: where points lie, and what is escaped."""

import re

import numpy as np

from alexnet_jax.pages import charts
from alexnet_jax.pages.charts import Line


def points(chart: str) -> list[tuple[str, float, float]]:
    """(pen, x, y) of the first curve."""
    [path] = re.findall(r'<g class="one"><path d="([^"]*)"', chart)
    found = re.findall(r"([ML])([\d.]+) ([\d.]+)", path)
    return [(pen, float(x), float(y)) for pen, x, y in found]


def test_a_curve_lies_between_its_axes():
    chart = charts.curves("error", [Line("one", [0, 5, 10], [0, 25, 50], "one")], height=250)
    floor, width = 250 - charts.BOTTOM, charts.WIDTH - charts.LEFT - charts.RIGHT
    (_, x0, y0), (_, x1, y1), (_, x2, y2) = points(chart)
    assert (x0, y0, x2, y2) == (charts.LEFT, floor, charts.LEFT + width, charts.TOP)
    assert (x1, y1) == ((x0 + x2) / 2, (y0 + y2) / 2)
    assert ">50</text>" in chart and ">10</text>" in chart


def test_a_power_of_ten_takes_the_same_room_everywhere():
    rates = [np.float32(0.1), 0.01, np.float32(0.001)]
    chart = charts.curves("rate", [Line("one", [0, 1, 2], rates, "one")], height=250, log=True)
    y = [point[2] for point in points(chart)]
    np.testing.assert_allclose(np.diff(y), [(250 - charts.BOTTOM - charts.TOP) / 2] * 2, atol=0.11)
    assert ">0.0001</text>" not in chart


def test_a_missing_value_leaves_a_gap_and_none_at_all_a_sentence():
    chart = charts.curves("loss", [Line("one", [0, 1, 2, 3], [1, None, 1, 1], "one")], height=250)
    assert [pen for pen, _, _ in points(chart)] == ["M", "M", "L"]
    for log, values in ((False, [None]), (True, [0.0]), (False, [])):
        line = Line("<b>", [0] * len(values), values, "one")
        assert "Not shown" in charts.curves("loss", [line], height=250, log=log)


def test_a_long_curve_is_thinned_to_its_end():
    line = Line("one", list(range(10_000)), [1.0] * 10_000, "one")
    found = points(charts.curves("loss", [line], height=250))
    assert len(found) <= 2 * charts.MAX_POINTS and found[-1][1] == charts.WIDTH - charts.RIGHT


def test_a_matrix_shades_the_share_of_a_row():
    made = charts.matrix(np.array([[3, 1], [0, 0]]), ["<a>", "b"])
    shares = [float(share) for share in re.findall(r"--share:([\d.]+)%", made)]
    assert shares[0] == 3 * shares[1] > 0 and shares[2:] == [0, 0]
    assert "&lt;a&gt;" in made and "<a>" not in made


def test_a_reliability_bar_is_as_high_as_its_accuracy():
    made = charts.reliability(np.array([0, 4]), np.array([np.nan, 0.7]), np.array([np.nan, 0.5]))
    [height] = re.findall(r'<rect[^>]*height="([\d.]+)"', made)
    assert float(height) == (charts.SQUARE - charts.BOTTOM - charts.TOP) / 2


def test_a_polar_curve_shows_each_orientation_on_both_sides():
    chart = charts.polar("<responses>", [0, 45, 90], [2, 0, 4])
    [path] = re.findall(r'class="curve" d="M([^Z]*) Z"', chart)
    places = np.array([point.split() for point in path.split(" L")], float) - charts.POLAR / 2
    radius = charts.POLAR / 2 - 2
    expected = np.array([(0.5, 0), (0, 0), (0, -1), (-0.5, 0), (0, 0), (0, 1)]) * radius
    np.testing.assert_allclose(places, expected, atol=0.06)
    assert "&lt;responses&gt;" in chart and "<responses>" not in chart
    assert "nan" not in charts.polar("none", [0, 90], [0, 0])
