"""Tables 1 and 2 of the paper with trained networks added to their rows (§6).

alexnet tables --workdir A B C [--split test] [--views ten] [--out DIR]

A, B and C are run folders or .safetensors files of the same classes: seeds of one config. As in the paper, * marks
networks that were initialized with another network's weights (--init-from). A row for several networks averages their
probabilities.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import cli, files, specs
from alexnet_jax.cli.markdown import table
from alexnet_jax.config import published
from alexnet_jax.errors import ConfigError, StorageError
from alexnet_jax.evaluation import target
from alexnet_jax.evaluation.classes import scope_in_words
from alexnet_jax.evaluation.target import EvalTarget
from alexnet_jax.inference import metrics
from alexnet_jax.run import reading, resume

_COLUMNS = {
    "table1": ("Top-1", "Top-5"),
    "table2": ("Top-1 (val)", "Top-5 (val)", "Top-5 (test)"),
}


def main(arguments: list[str]) -> None:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", nargs="+", required=True, metavar="W", help="one net or more")
    target.add_protocol(parser, views="ten")
    parser.add_argument("--data-path", metavar="PATH", help="where the images are now")
    parser.add_argument("--out", metavar="DIR", help="also write tables.md and tables.json there")
    options = parser.parse_args(arguments)
    targets = target.open_all(options.workdir, options.data_path)
    starred = [reading.begun_from(one.path) is not None for one in targets]
    _check_seeds(targets, starred)
    split, found = target.obtain_all(targets, options.split, options.views)
    labels = found[0].labels
    protocol = {
        "nets": [{"net": str(one.path), "step": one.trained.step} for one in targets],
        "data": targets[0].data, "split": split, "views": options.views, "count": len(labels),
        **(targets[0].scope() if options.data_path else {}),
    }  # fmt: skip
    probabilities = [predictions.probabilities for predictions in found]
    made = protocol | tables(list(zip(probabilities, starred, strict=True)), labels)
    text = markdown(made)
    if options.out:
        _write(Path(options.out), made, text)
    print(text)


def _check_seeds(nets: list[EvalTarget], starred: list[bool]) -> None:
    """Raise ConfigError unless the networks of each row (* or not) have one config and different seeds."""
    groups: dict[bool, list[EvalTarget]] = {}
    for net, star in zip(nets, starred, strict=True):
        groups.setdefault(star, []).append(net)
    for first, *others in groups.values():
        by_seed = {first.trained.config.seed: first}
        for other in others:
            if changed := _differences(first, other):
                raise ConfigError(
                    f"{first.path} and {other.path} are not seeds of one config ({', '.join(changed[:6])}): a row of "
                    "the tables would mix them; give the nets of each config in a call of their own"
                )
            seed = other.trained.config.seed
            same = by_seed.setdefault(seed, other)
            if same is not other:
                raise ConfigError(
                    f"{same.path} and {other.path} have the same seed {seed}: name each net once"
                )


def _differences(first: EvalTarget, other: EvalTarget) -> list[str]:
    """The keys, and their values, that make two networks more than seeds of one config."""
    differences = resume.differences(first.trained.config_tree, other.trained.config_tree)
    return [
        f"{key}: {old!r} -> {new!r}"
        for key, (old, new) in differences.items()
        if key == "train.max_steps" or key not in (*resume.HARMLESS, "seed")
    ]


def tables(nets: list[tuple[np.ndarray, bool]], labels: np.ndarray) -> dict[str, Any]:
    """Rows for Tables 1 and 2 from (probabilities [n classes], whether starred) of each network.

    "1 CNN" averages the errors of single networks. "k CNNs*" includes the networks without *, as the paper's seven do.

    Returns:
        {"table1": rows, "table2": rows}; a row is {"model", "top1", "top5", "sd"}: errors as fractions, and the
        standard deviation of the top-1 error over single networks, or None.
    """
    plain = [one for one, star in nets if not star]
    starred = [one for one, star in nets if star]
    singles = [
        _row(f"1 CNN{star}", [metrics.summarize(one, labels) for one in group])
        for star, group in (("", plain), ("*", starred))
        if group
    ]
    ensembles = [
        _row(f"{len(group)} CNNs{star}", [metrics.summarize(np.mean(group, axis=0), labels)])
        for star, group in (("", plain), ("*", plain + starred if starred else []))
        if len(group) > 1
    ]
    rows = sorted(singles + ensembles, key=lambda row: row["model"].endswith("*"))
    return {"table1": singles, "table2": rows}


def _row(model: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    top1 = [one["top1_error"] for one in found]
    top5 = [one["top5_error"] for one in found if "top5_error" in one]
    return {
        "model": model,
        "top1": float(np.mean(top1)),
        "top5": float(np.mean(top5)) if top5 else None,
        "sd": float(np.std(top1, ddof=1)) if len(top1) > 1 else None,
    }


def markdown(made: dict[str, Any]) -> str:
    """Both tables with the paper's rows and ours, and a line on the images of each."""
    ours = f"{made['count']:,} images of {made['split']}, {made['data']}, {specs.views_in_words(made['views'])}"
    parts = [
        _table("Table 1", _COLUMNS["table1"], published.TABLE_1, made["table1"]),
        _table("Table 2", _COLUMNS["table2"], published.TABLE_2, made["table2"]),
        f"Ours: {ours}. The paper's: Table 1 {published.TEST10}, Table 2 "
        f"{published.VAL12}, ten views; errors on other images cannot be compared with them. "
        "*: begun with the weights of a net trained on other images.",
        *scope_in_words(made),
    ]
    return "\n\n".join(parts)


def _table(
    title: str,
    columns: tuple[str, ...],
    paper: Iterable[tuple[Any, ...]],
    ours: list[dict[str, Any]],
) -> str:
    rows = [(f"{model}, the paper", *map(_percent, values)) for model, *values in paper]
    for row in ours:
        deviation = f" ± {100 * row['sd']:.1f}" if row["sd"] is not None else ""
        values = [_percent(row["top1"]) + deviation, _percent(row["top5"])]
        rows.append((f"{row['model']}, ours", *values, *[""] * (len(columns) - 2)))
    header = (f"{title}, error in %", *columns)
    return "\n".join(table(header, rows, range(1, len(header))))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _write(folder: Path, made: dict[str, Any], text: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"schema": 1} | made, indent=1, allow_nan=False)
        files.write_atomically(folder / "tables.json", content + "\n")
        files.write_atomically(folder / "tables.md", text + "\n")
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror}") from None


if __name__ == "__main__":
    cli.run(main)
