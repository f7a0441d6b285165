"""Tables 1 and 2 of the paper with nets of ours among its rows (§6).

alexnet tables --workdir A B C [--split test] [--views ten] [--out DIR]

A, B and C are run folders or .safetensors files of the same classes: seeds of one config, and, as in the paper marked
with *, of one that was begun with the weights of another net (--init-from). A row of several nets is of the mean of
their probabilities.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from alexnet_jax import cli, files, specs
from alexnet_jax.config import published
from alexnet_jax.errors import ConfigError, StorageError
from alexnet_jax.inference import metrics as errors
from alexnet_jax.run import reading, resume

if TYPE_CHECKING:
    from alexnet_jax.evaluation import target

_COLUMNS = {
    "table1": ("Top-1", "Top-5"),
    "table2": ("Top-1 (val)", "Top-5 (val)", "Top-5 (test)"),
}


def main(arguments: list[str]) -> None:
    from alexnet_jax.evaluation import target

    parser = cli.parser(__doc__ or "")
    parser.add_argument("--workdir", nargs="+", required=True, metavar="W", help="one net or more")
    target.add_protocol(parser, views="ten")
    parser.add_argument("--data-path", metavar="PATH", help="where the images are now")
    parser.add_argument("--out", metavar="DIR", help="also write tables.md and tables.json there")
    options = parser.parse_args(arguments)
    split, found = target.obtain_all(
        options.workdir, options.split, options.views, options.data_path
    )
    starred = [reading.begun_from(one.path) is not None for one, _ in found]
    _check_seeds([one for one, _ in found], starred)
    first, (_, labels) = found[0]
    protocol = {
        "nets": [{"net": str(one.path), "step": one.run.step} for one, _ in found],
        "data": first.data, "split": split, "views": options.views, "count": len(labels),
    }  # fmt: skip
    every = [answers.probabilities for _, answers in found]
    made = protocol | tables(list(zip(every, starred, strict=True)), labels)
    text = markdown(made)
    if options.out:
        _write(Path(options.out), made, text)
    print(text)


def _check_seeds(nets: list["target.EvalTarget"], starred: list[bool]) -> None:
    """Raises ConfigError unless those of a row, with * or without, are of one config and differ by their seed."""
    rows: dict[bool, list[target.EvalTarget]] = {}
    for net, star in zip(nets, starred, strict=True):
        rows.setdefault(star, []).append(net)
    for first, *others in rows.values():
        by_seed = {first.run.config.seed: first}
        for other in others:
            differences = resume.differences(first.run.config_tree, other.run.config_tree)
            moving = [
                f"{key}: {old!r} -> {new!r}"
                for key, (old, new) in differences.items()
                if key == "train.max_steps" or key not in (*resume.HARMLESS, "seed")
            ]
            if moving:
                raise ConfigError(
                    f"{first.path} and {other.path} are not seeds of one config ({', '.join(moving[:6])}): a row of "
                    "the tables would mix them; give the nets of each config in a call of their own"
                )
            same = by_seed.setdefault(other.run.config.seed, other)
            if same is not other:
                raise ConfigError(
                    f"{same.path} and {other.path} have the same seed {other.run.config.seed}: name each net once"
                )


def tables(nets: list[tuple[np.ndarray, bool]], labels: np.ndarray) -> dict:
    """Rows for the two tables (§6), of (probabilities [n classes], whether begun with other weights) of each net.

    {"table1": rows, "table2": rows}; a row is {"model", "top1", "top5", "sd"}, errors as fractions, and "sd" the
    standard deviation over single nets of the top-1 error, or None. "1 CNN" is the mean of all single nets;
    "k CNNs*" takes the nets without * too, as the paper's seven do.
    """
    plain = [one for one, begun in nets if not begun]
    begun = [one for one, begun in nets if begun]
    singles = [
        _row(f"1 CNN{star}", [errors.summarize(one, labels) for one in group])
        for star, group in (("", plain), ("*", begun))
        if group
    ]
    together = [
        _row(f"{len(group)} CNNs{star}", [errors.summarize(np.mean(group, axis=0), labels)])
        for star, group in (("", plain), ("*", plain + begun if begun else []))
        if len(group) > 1
    ]
    rows = sorted(singles + together, key=lambda row: row["model"].endswith("*"))
    return {"table1": singles, "table2": rows}


def _row(model: str, found: list[dict]) -> dict:
    top1 = [one["top1_error"] for one in found]
    top5 = [one["top5_error"] for one in found if "top5_error" in one]
    return {
        "model": model,
        "top1": float(np.mean(top1)),
        "top5": float(np.mean(top5)) if top5 else None,
        "sd": float(np.std(top1, ddof=1)) if len(top1) > 1 else None,
    }


def markdown(made: dict) -> str:
    """The paper's rows, then ours, and what ours are of."""
    said = (
        f"{made['count']:,} images of {made['split']}, {made['data']}, {specs.seen(made['views'])}"
    )
    parts = [
        _table("Table 1", _COLUMNS["table1"], published.TABLE_1, made["table1"]),
        _table("Table 2", _COLUMNS["table2"], published.TABLE_2, made["table2"]),
        f"Ours: {said}. The paper's: Table 1 {published.TEST10}, Table 2 "
        f"{published.VAL12}, ten views; errors on other images cannot be compared with them. "
        "*: begun with the weights of a net trained on other images.",
    ]
    return "\n\n".join(parts)


def _table(title: str, columns: tuple[str, ...], published, ours: list[dict]) -> str:
    lines = [f"| {title}, error in % | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    for model, *values in published:
        lines.append(f"| {model}, the paper | {' | '.join(map(_percent, values))} |")
    for row in ours:
        deviation = f" ± {100 * row['sd']:.1f}" if row["sd"] is not None else ""
        values = [_percent(row["top1"]) + deviation, _percent(row["top5"])]
        values += [""] * (len(columns) - 2)
        lines.append(f"| {row['model']}, ours | {' | '.join(values)} |")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _write(folder: Path, made: dict, text: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"schema": 1} | made, indent=1, allow_nan=False)
        files.write_atomically(folder / "tables.json", content + "\n")
        files.write_atomically(folder / "tables.md", text + "\n")
    except OSError as error:
        raise StorageError(f"cannot write to {folder}: {error.strerror}") from None


if __name__ == "__main__":
    cli.run(main)
