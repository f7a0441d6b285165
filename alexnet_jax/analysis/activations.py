"""How strongly and how often the units of each row answer, over a split, tower by tower.

Command: alexnet activations --workdir runs/mine --split test
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_jax import cli
from alexnet_jax.analysis import figures, pictures

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network

MEASURES = ("mean", "std", "zeros", "dead")


def main(arguments: list[str]) -> None:
    parser = figures.parser(
        "Measure the activations of each row over a split: figures/activations.png and .json."
    )
    pictures.add_arguments(parser)
    options = parser.parse_args(arguments)
    path = figures.folder(options) / "activations.png"
    from alexnet_jax.inference import network

    net = network.load(options.workdir, options.step)
    name, dataset = pictures.load_split(net.run, options.data_path, options.split)
    split = dataset.splits[name]
    rows = statistics(net, split.images)
    numbers = {"step": net.run.step, "split": name, "images": len(split.labels)}
    print(table(rows))
    print(figures.save(_draw(rows), {**numbers, "rows": rows}, path))


def statistics(net: "Network", images) -> list[dict]:
    """Of each row, and of each of its towers: {"feature", "tower", "units", "mean", "std", "zeros", "dead"}.

    The feature is what the row's activation function gives, or its last output where it has none. A unit is a map
    or a unit of a dense row. Mean and standard deviation are over all images and places; `zeros` is the share of
    them that is 0; `dead` counts the units that are never above 0. tower: 1, 2, ..., or None for all of the row.
    images: uint8 [n s s 3], or what gives them for an array of indices. Sums are float64.
    """
    watched = features(net)
    sums, places = _sums(net, images, list(watched))
    rows, start = [], 0
    for name, towers in watched.items():
        units = net.shapes[name][-1]
        own = sums[start : start + units]
        start += units
        parts = [(None, own)]
        if towers > 1:
            parts += list(enumerate(np.split(own, towers), 1))
        rows += [_row(name, tower, part, len(images) * places[name]) for tower, part in parts]
    return rows


def features(net: "Network") -> dict[str, int]:
    """The feature of each row that is measured, and over how many towers it is split."""
    from alexnet_jax.model.geometry import is_replicated

    model = net.run.config.model
    found = {}
    for name, row in (*model.convs, *model.fcs):
        towers = 1 if is_replicated(model, name) else model.towers
        found[f"{name}/act" if "act" in row.then else name] = towers
    return found


def table(rows: list[dict]) -> str:
    """For the terminal."""
    lines = [f"{'feature':16} {'tower':>5} {'units':>6} {'mean':>9} {'std':>9} {'zeros':>6} {'dead':>6}"]  # fmt: skip
    for row in rows:
        lines.append(
            f"{row['feature']:16} {row['tower'] or 'all':>5} {row['units']:6} {row['mean']:9.4g} "
            f"{row['std']:9.4g} {row['zeros']:6.1%} {row['dead']:6}"
        )
    return "\n".join(lines)


def _sums(net: "Network", images, names: list[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Of every unit [sum, sum of squares, zeros, largest], float64 [units 4], and {name: places of a unit}."""
    import jax.numpy as jnp

    places = {name: int(np.prod(net.shapes[name][:-1])) for name in names}

    def of_images(variables, pixels):
        inputs = net.inputs(pixels)[:, 0]
        outputs: Any = net.model.apply(variables, inputs, train=False)[1]
        made = []
        for name in names:
            x = outputs[name].astype(jnp.float32).reshape(len(pixels), places[name], -1)
            of_unit = [x.sum(1), jnp.square(x).sum(1), (x == 0).sum(1), x.max(1)]
            made.append(jnp.stack(of_unit, axis=-1).astype(jnp.float32))
        return jnp.concatenate(made, axis=1)

    total: Any = None
    for part in net.map_batches(net.jitted(f"sums {names}", of_images), images):
        part = part.astype(np.float64)
        added, largest = part[..., :3].sum(axis=0), part[..., 3:].max(axis=0)
        if total is not None:
            added, largest = added + total[:, :3], np.maximum(largest, total[:, 3:])
        total = np.concatenate([added, largest], axis=1)
    return total, places


def _row(name: str, tower: int | None, sums: np.ndarray, count: int) -> dict:
    every = count * len(sums)
    mean = sums[:, 0].sum() / every
    variance = max(sums[:, 1].sum() / every - mean**2, 0)
    return {
        "feature": name,
        "tower": tower,
        "units": len(sums),
        "mean": float(mean),
        "std": float(variance**0.5),
        "zeros": float(sums[:, 2].sum() / every),
        "dead": int((sums[:, 3] <= 0).sum()),
    }


def _draw(rows: list[dict]):
    """Mean and standard deviation, share of zeros, share of dead units: by feature, one bar a tower."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(row["feature"] for row in rows))
    figure = Figure(figsize=(len(names) + 1.5, 7), layout="constrained")
    answers, zeros, dead = figure.subplots(3, 1, sharex=True)
    for name in names:
        whole, *towers = (row for row in rows if row["feature"] == name)
        bars = towers or [whole]
        width = 0.8 / len(bars)
        for place, row in enumerate(bars):
            x = names.index(name) - 0.4 + (place + 0.5) * width
            options = dict(width=0.92 * width, color=f"C{place}" if towers else "gray")
            answers.bar(x, row["mean"], **options)
            answers.plot(x, row["std"], "_k", ms=40 * width)
            zeros.bar(x, 100 * row["zeros"], **options)
            dead.bar(x, 100 * row["dead"] / row["units"], **options)
    count = max(row["tower"] or 0 for row in rows)
    for tower in range(1, count + 1):
        answers.bar(0, 0, color=f"C{tower - 1}", label=f"tower {tower}")
    answers.bar(0, 0, color="gray", label="all units")
    answers.plot([], [], "_k", ms=15, label="standard deviation")
    answers.legend(frameon=False)
    labels = {answers: "mean", zeros: "zeros (%)", dead: "dead units (%)"}
    for axes, label in labels.items():
        axes.set_ylabel(label)
        axes.grid(alpha=0.3, axis="y")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    zeros.set_ylim(0, 100)
    dead.set_ylim(0, max(10, 1.05 * dead.get_ylim()[1]))
    dead.set_xticks(range(len(names)), names, fontsize=8)
    return figure


if __name__ == "__main__":
    cli.run(main)
