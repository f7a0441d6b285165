"""Measure the activations of each layer and tower over a split.

alexnet figures activations --workdir runs/mine --split test

Writes figures/activations.png and activations.json.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures, pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from alexnet_jax.inference.network import Network

#: Measurements of a layer or tower, as `statistics` returns them.
Measurements = dict[str, Any]


def main(arguments: list[str]) -> None:
    """Run `alexnet figures activations`."""
    parser = figures.parser(__doc__ or "")
    pictures.add_arguments(parser)
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "activations.png"
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    name, dataset = pictures.load_split(net.trained, options.data_path, options.split)
    split = dataset.splits[name]
    layers = statistics(net, split.images)
    numbers = {"step": net.trained.step, "split": name, "images": len(split.labels)}
    print(table(layers))
    print(figures.save(_draw(layers), {**numbers, "rows": layers}, path))


def statistics(net: "Network", images: Any) -> list[Measurements]:
    """Measure each layer, and each of its towers: {"feature", "tower", "units", "mean", "std", "zeros", "dead"}.

    "feature" is the output of the activation function of the layer, or its output if it has none. "tower" is 1, 2, ...,
    or None for the whole layer. "units" is the number of feature maps or dense units. "mean" and "std" are over all
    images and positions; "zeros" is the fraction of zeros; "dead" is the number of units that are never above 0.

    Args:
      images: uint8 [n s s 3], or an object that returns them for an array of indices.
    """
    measured = features(net)
    sums, positions = _sums(net, images, list(measured))
    layers, start = [], 0
    for name, towers in measured.items():
        units = net.shapes[name][-1]
        layer_sums = sums[start : start + units]
        start += units
        parts: list[tuple[int | None, np.ndarray]] = [(None, layer_sums)]
        if towers > 1:
            parts += enumerate(np.split(layer_sums, towers), 1)
        layers += [
            _measure(name, tower, part, len(images) * positions[name]) for tower, part in parts
        ]
    return layers


def features(net: "Network") -> dict[str, int]:
    """Return the feature to measure in each layer, with the number of towers it is divided into."""
    from alexnet_jax.model.geometry import towers_of

    model = net.trained.config.model
    names = [f"{name}/act" if "act" in layer.ops else name for name, layer in model.layers]
    return {name: towers_of(model, name) for name in names}


def table(layers: list[Measurements]) -> str:
    """Format the measurements for a terminal."""
    lines = [f"{'feature':16} {'tower':>5} {'units':>6} {'mean':>9} {'std':>9} {'zeros':>6} {'dead':>6}"]  # fmt: skip
    for one in layers:
        lines.append(
            f"{one['feature']:16} {one['tower'] or 'all':>5} {one['units']:6} {one['mean']:9.4g} "
            f"{one['std']:9.4g} {one['zeros']:6.1%} {one['dead']:6}"
        )
    return "\n".join(lines)


def _sums(net: "Network", images: Any, names: list[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Return sum, sum of squares, zeros and maximum of each unit, [units 4], and the positions per unit by feature."""
    import jax.numpy as jnp

    positions = {name: int(np.prod(net.shapes[name][:-1])) for name in names}

    def image_sums(variables: Any, pixels: Any) -> Any:
        outputs = net.all_features(variables, pixels)
        made = []
        for name in names:
            x = outputs[name].astype(jnp.float32).reshape(len(pixels), positions[name], -1)
            unit_sums = [x.sum(1), jnp.square(x).sum(1), (x == 0).sum(1), x.max(1)]
            made.append(jnp.stack(unit_sums, axis=-1).astype(jnp.float32))
        return jnp.concatenate(made, axis=1)

    total: Any = None
    for part in net.map_batches(net.jitted(f"sums {names}", image_sums), images):
        part = part.astype(np.float64)
        added, largest = part[..., :3].sum(axis=0), part[..., 3:].max(axis=0)
        if total is not None:
            added, largest = added + total[:, :3], np.maximum(largest, total[:, 3:])
        total = np.concatenate([added, largest], axis=1)
    return total, positions


def _measure(name: str, tower: int | None, sums: np.ndarray, count: int) -> Measurements:
    """Measurements of units from their sums over `count` values each."""
    values = count * len(sums)
    mean = sums[:, 0].sum() / values
    variance = max(sums[:, 1].sum() / values - mean**2, 0)
    return {
        "feature": name,
        "tower": tower,
        "units": len(sums),
        "mean": float(mean),
        "std": float(variance**0.5),
        "zeros": float(sums[:, 2].sum() / values),
        "dead": int((sums[:, 3] <= 0).sum()),
    }


def _draw(layers: list[Measurements]) -> "Figure":
    """Bars of mean and deviation, share of zeros and share of dead units, by feature and tower."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(one["feature"] for one in layers))
    figure = Figure(figsize=(len(names) + 1.5, 7), layout="constrained")
    means, zeros, dead = figure.subplots(3, 1, sharex=True)
    for name in names:
        all_units, *towers = (one for one in layers if one["feature"] == name)
        bars = towers or [all_units]
        width = 0.8 / len(bars)
        for place, one in enumerate(bars):
            x = names.index(name) - 0.4 + (place + 0.5) * width
            options: dict[str, Any] = dict(
                width=0.92 * width, color=f"C{place}" if towers else "gray"
            )
            means.bar(x, one["mean"], **options)
            means.plot(x, one["std"], "_k", ms=40 * width)
            for axes, share in ((zeros, one["zeros"]), (dead, one["dead"] / one["units"])):
                bar = axes.bar(x, 100 * share, **options)
                axes.bar_label(bar, [f"{100 * share:.2g}"], padding=1, fontsize=8)
    count = max(one["tower"] or 0 for one in layers)
    for tower in range(1, count + 1):
        means.bar(0, 0, color=f"C{tower - 1}", label=f"tower {tower}")
    means.bar(0, 0, color="gray", label="all units")
    means.plot([], [], "_k", ms=15, label="standard deviation")
    means.legend(
        frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=count + 2, fontsize=9
    )
    labels = {means: "mean", zeros: "zeros (%)", dead: "dead units (%)"}
    for axes, label in labels.items():
        axes.set_ylabel(label)
        figures.plain(axes)
        axes.grid(visible=False, axis="x")
    for axes in (zeros, dead):
        axes.set_ylim(0, max(10, 1.15 * axes.get_ylim()[1]))
    dead.set_xticks(range(len(names)), names, fontsize=8)
    return figure


if __name__ == "__main__":
    cli.run(main)
