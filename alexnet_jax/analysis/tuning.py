"""Measure what gratings the first layer responds to, and whether its towers differ (§6.1, Figure 3).

alexnet figures tuning --workdir runs/mine [--response max]

Writes figures/tuning.png and tuning.json. It needs no images.
"""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures, filters, pictures
from alexnet_jax.errors import ConfigError
from alexnet_jax.model.geometry import tower_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet_jax.inference.network import Network

#: Directions in RGB, of length 1: all gratings have the same contrast as the root of the squared amplitudes of red,
#: green and blue. The first is achromatic; the others do not change the sum of red, green and blue.
COLORS = {
    name: np.array(direction, np.float32) / np.linalg.norm(direction)
    for name, direction in {
        "achromatic": (1, 1, 1), "red-green": (1, -1, 0), "red-cyan": (2, -1, -1),
        "green-magenta": (-1, 2, -1), "blue-yellow": (-1, -1, 2),
    }.items()
}  # fmt: skip
#: Mid-gray, about which gratings vary, and their contrast: the largest with which all stay between 0 and 255.
GRAY = 127.5
AMPLITUDE = GRAY / max(float(np.abs(color).max()) for color in COLORS.values())
#: Numbers of orientations (from 0 to 180 degrees), spatial frequencies and phases.
ORIENTATIONS, FREQUENCIES, PHASES = 12, 8, 8
GRATINGS = ORIENTATIONS * FREQUENCIES * PHASES * len(COLORS)
#: Permutations of maps among towers.
PERMUTATIONS = 10_000
#: How the responses to the phases of a grating are summarized.
Response = Literal["f1", "max"]
#: Properties of maps that are compared between towers.
COMPARED = ("color_index", "orientation_selectivity", "log2_frequency")


class Tuning(NamedTuple):
    """Responses of the maps of the first layer to gratings."""

    #: Of the bars, in degrees counterclockwise from horizontal [o].
    orientations: np.ndarray
    #: In cycles per pixel of the network's input [f].
    frequencies: np.ndarray
    #: float32 [o f colors maps]; never negative. The colors are those of COLORS.
    responses: np.ndarray


def main(arguments: list[str]) -> None:
    """Run `alexnet figures tuning`."""
    parser = figures.parser(__doc__ or "")
    parser.add_argument(
        "--response", choices=("f1", "max"), default="f1",
        help="f1: amplitude of the response to a drifting grating, before the activation function; "
        "max: largest response over the phases, after it; default: f1",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "tuning.png"
    from alexnet_jax.inference import network

    print(plot(network.load(options.workdir, options.step), path, options.response))


def plot(net: "Network", path: Path, response: Response = "f1") -> Path:
    """Draw how the towers are tuned, with their kernels by color, and write all numbers as JSON. Raises ConfigError."""
    tuning = measure(net, response)
    maps, towers = describe(tuning), net.trained.config.model.towers
    orientations = tuning.orientations.tolist()
    numbers = {
        "step": net.trained.step,
        "layer": first_layer(net),
        "response": response,
        "orientations": orientations,
        "frequencies": [round(float(f), 5) for f in tuning.frequencies],
        "colors": list(COLORS),
        "towers": compare(maps, towers),
        "maps": [
            {"tower": tower_of(i, len(maps), towers) + 1, **one} for i, one in enumerate(maps)
        ],
    }
    kernel = np.asarray(net.trained.params[first_layer(net)]["kernel"], np.float32)
    return figures.save(_draw(numbers, kernel), numbers, path)


def first_layer(net: "Network") -> str:
    """Return the name of the first layer. Raises ConfigError if it is not a convolution."""
    name, layer = net.trained.config.model.convs[0]
    if layer.kind != "conv":
        raise ConfigError(f"{name} is not a convolution: its kernels differ from place to place")
    return name


def measure(net: "Network", response: Response = "f1") -> Tuning:
    """Measure the responses of the central unit of each map of the first layer to gratings.

    f1: the amplitude of the first harmonic over the phases, of the convolution: for this linear unit, the magnitude of
    the Fourier transform of its kernel in a direction of color. max: the maximum over the phases after the activation
    function, at least 0.
    """
    import jax.numpy as jnp

    layer, spec = first_layer(net), net.trained.config.model.convs[0][1]
    feature = f"{layer}/act" if response == "max" and "act" in spec.ops else f"{layer}/linear"
    size = net.trained.config.augment.crop_size
    orientations = np.arange(ORIENTATIONS) * 180 / ORIENTATIONS
    # From half a cycle in a kernel to the finest wave that pixels can show.
    frequencies = np.geomspace(0.5 / spec.kernel, 0.5, FREQUENCIES)
    phases = np.arange(PHASES) * 360 / PHASES
    rows = np.array(
        [
            (orientation, frequency, phase, *color)
            for orientation, frequency, color, phase in itertools.product(
                orientations, frequencies, COLORS.values(), phases
            )
        ],
        np.float32,
    )

    def responses(variables: Any, rows: Any) -> Any:
        inputs = pictures.inputs(net, gratings(rows, size))
        made: Any = net.model.apply(variables, inputs, train=False)
        x = made[1][feature]
        return x[:, x.shape[1] // 2, x.shape[2] // 2].astype(jnp.float32)

    found = net.in_batches(f"gratings {feature}", responses, rows)
    found = found.reshape(len(orientations), len(frequencies), len(COLORS), len(phases), -1)
    if response == "max":
        summary = np.maximum(found.max(axis=3), 0)
    else:
        turns = np.exp(-1j * np.deg2rad(phases))[:, None]
        varying = found - found[:, :, :, :1]  # exactly 0 for a unit that does not respond
        summary = 2 * np.abs((varying * turns).mean(axis=3))
    return Tuning(orientations, frequencies, summary.astype(np.float32))


def gratings(rows: Any, size: int) -> Any:
    """Make sinusoidal gratings float32 [n size size 3] about mid-gray.

    Args:
      rows: [n 6]: orientation of the bars in degrees, cycles per pixel, phase in degrees, direction in RGB.
    """
    import jax.numpy as jnp

    angle, frequency, phase = (rows[:, i, None, None] for i in range(3))
    y, x = np.meshgrid(*2 * [np.arange(size) - size // 2], indexing="ij")
    # Rows are counted downward, and so bars at an angle a lie along (cos a, -sin a).
    across = x * jnp.sin(jnp.deg2rad(angle)) + y * jnp.cos(jnp.deg2rad(angle))
    waves = jnp.cos(2 * np.pi * frequency * across - jnp.deg2rad(phase))
    return GRAY + AMPLITUDE * waves[..., None] * rows[:, None, None, 3:]


def describe(tuning: Tuning) -> list[dict[str, Any]]:
    """Describe the tuning of each map, at the grating that it responds to most.

    "orientation" of the bars (degrees), "frequency" (cycles per pixel) and "color" of that grating, and "response";
    "orientation_selectivity", 1 - the circular variance of its responses over orientations (Ringach, Shapley and
    Hawken, 2002): 0 for none, 1 for a single orientation; "color_index": (c - a) / (c + a), where c and a are its
    largest responses to a colored and to the achromatic grating: -1 for brightness alone, 1 for color alone. Its curves
    through that grating: "by_orientation", "by_frequency", "by_color". A map without responses has None for all but
    "response".
    """
    turns = np.exp(2j * np.deg2rad(tuning.orientations))
    maps: list[dict[str, Any]] = []
    for number, responses in enumerate(np.moveaxis(tuning.responses.astype(np.float64), -1, 0)):
        o, f, c = np.unravel_index(responses.argmax(), responses.shape)
        by_orientation, by_color = responses[:, f, c], responses.max(axis=(0, 1))
        gray, colored = by_color[0], by_color[1:].max()
        total = max(
            by_orientation.sum(), 1e-30
        )  # 0 / 0 for a silent map, which is described by None below
        found: dict[str, Any] = {
            "orientation": float(tuning.orientations[o]),
            "frequency": float(tuning.frequencies[f]),
            "log2_frequency": float(np.log2(tuning.frequencies[f])),
            "color": list(COLORS)[c],
            "orientation_selectivity": float(abs((by_orientation * turns).sum()) / total),
            "color_index": float((colored - gray) / max(colored + gray, 1e-30)),
            "by_orientation": by_orientation.tolist(),
            "by_frequency": responses[o, :, c].tolist(),
            "by_color": dict(zip(COLORS, by_color.tolist(), strict=True)),
        }
        if responses.max() <= 0:
            found = dict.fromkeys(found)
        maps.append({"map": number, "response": float(responses.max())} | found)
    return maps


def compare(maps: list[dict[str, Any]], towers: int, seed: int = 0) -> dict[str, Any]:
    """Compare the maps of the towers: the mean of each of COMPARED by tower, and whether the means differ.

    Returns:
      {property: {"means": [one per tower], "difference": largest mean - smallest, "p"}}, where p is the share of
      PERMUTATIONS of the maps among the towers whose difference is as large (with 1 added to both counts); the three
      p are not corrected for one another. Maps without responses are left out. For one tower, and for towers without
      any map that responds, "difference" and "p" are None.
    """
    all_of = tower_of(np.arange(len(maps)), len(maps), towers) + 1
    responds = np.array([one["response"] > 0 for one in maps])
    members = all_of[responds]
    complete = towers > 1 and len(np.unique(members)) == towers
    generator, found = np.random.default_rng(seed), {}
    for name in COMPARED:
        values = np.array([one[name] for one in maps if one["response"] > 0], np.float64)
        means = [values[members == tower].mean() if (members == tower).any() else None
                 for tower in range(1, towers + 1)]  # fmt: skip
        found[name] = {"means": [None if mean is None else float(mean) for mean in means],
                       "difference": None, "p": None}  # fmt: skip
        if complete:
            orders = generator.permuted(np.tile(values, (PERMUTATIONS, 1)), axis=1)
            spread, spreads = (_spread(v, members, towers) for v in (values[None], orders))
            as_large = int((spreads >= spread - 1e-12).sum())
            p = (1 + as_large) / (1 + PERMUTATIONS)
            found[name] |= {"difference": float(spread[0]), "p": p}
    return found


def _spread(values: np.ndarray, members: np.ndarray, towers: int) -> np.ndarray:
    """The difference of the largest and smallest mean of a tower [p], of values [p maps]."""
    means = [values[:, members == tower].mean(axis=1) for tower in range(1, towers + 1)]
    return np.max(means, axis=0) - np.min(means, axis=0)


def _draw(numbers: dict[str, Any], kernel: np.ndarray) -> "Figure":
    """Draw color and orientation selectivity of each map, preferred waves, and the kernels of each tower by color."""
    from matplotlib.figure import Figure

    towers = max(one["tower"] for one in numbers["maps"])
    members = [[one for one in numbers["maps"] if one["tower"] == tower and one["response"] > 0]
               for tower in range(1, towers + 1)]  # fmt: skip
    tiles = filters.tiles(kernel)
    blocks = [_sorted_tiles(tiles, maps) for maps in members]
    heights = [4.2, *(9.6 * len(block) / block.shape[1] + 0.35 for block in blocks)]
    figure = Figure(figsize=(9.6, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
    top, *rest = np.ravel(parts)
    left, middle = top.subplots(1, 2, width_ratios=(1.2, 1))
    for tower, maps in enumerate(members):
        label = f"tower {tower + 1}" if towers > 1 else f"{len(maps)} maps"
        style: dict[str, Any] = dict(color=f"C{tower}", label=label, s=26, alpha=0.8, linewidths=0)
        left.scatter([m["color_index"] for m in maps],
                     [m["orientation_selectivity"] for m in maps], **style)  # fmt: skip
        middle.scatter([m["orientation"] for m in maps], [m["frequency"] for m in maps], **style)
    color, selective = (numbers["towers"][key]["p"] for key in COMPARED[:2])
    tests = "" if color is None else f"; towers differ: p = {color:.2g} and {selective:.2g}"
    left.set_title(f"color and orientation{tests}", fontsize=9)
    left.set_xlabel("color index: -1 brightness alone, 1 color alone")
    left.set_ylabel("orientation selectivity")
    left.set_xlim(-1.05, 1.05)
    left.set_ylim(0, 1.05)
    middle.set_title("preferred gratings", fontsize=9)
    middle.set_xlabel("orientation of the bars (degrees)")
    middle.set_ylabel("cycles per pixel")
    middle.set_yscale("log")
    middle.set_ylim(numbers["frequencies"][0] / 1.15, numbers["frequencies"][-1] * 1.15)
    middle.set_xticks(range(0, 181, 45))
    figures.plain_log_ticks(middle, numbers["frequencies"])
    for axes in (left, middle):
        figures.plain(axes)
    left.legend(frameon=False, fontsize=9)
    for tower, (part, block, maps) in enumerate(zip(rest, blocks, members, strict=True), 1):
        indices = [m["color_index"] for m in maps]
        mean = f"mean color index {np.mean(indices):.2f}" if indices else "no map responds"
        name = f"tower {tower}" if towers > 1 else "all maps"
        axes = part.subplots()
        figures.show(axes, block)
        axes.set_title(f"{name}, from gray to color: {mean}", loc="left", fontsize=9)
    return figure


def _sorted_tiles(tiles: np.ndarray, maps: list[dict[str, Any]]) -> np.ndarray:
    """Arrange the kernels of maps by their color index, filters.PER_ROW in a row: uint8 [h w 3]."""
    order = np.array([one["map"] for one in sorted(maps, key=lambda one: one["color_index"])], int)
    rows = -(-max(len(order), 1) // filters.PER_ROW)
    return figures.mosaic(tiles[order], rows, filters.PER_ROW, gap=1)


if __name__ == "__main__":
    cli.run(main)
