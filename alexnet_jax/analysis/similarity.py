"""Compare what the layers of nets represent, on the same images, with each other, with brains and with behaviour.

alexnet similarity --nets runs/a runs/b --split test --out similarity
alexnet similarity --nets runs/a@all --split test --out settling
alexnet similarity --nets runs/a --images pictures --rdm it.npy --responses v4.npy --out brain

A net is a run folder or a .safetensors file. RUN@STEP, RUN@best and RUN@all are checkpoints of a run. Writes
similarity.png, .json and .npz to --out, and settling.png for the checkpoints of a run (docs/similarity.md).
"""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax import cli, files
from alexnet_jax.analysis import (
    encoding,
    figures,
    pictures,
    similarity_figures,
    similarity_inputs,
    similarity_measures,
)
from alexnet_jax.analysis.similarity_inputs import BATCH, COUNT, Inputs
from alexnet_jax.analysis.similarity_measures import Measures, Value
from alexnet_jax.errors import StorageError
from alexnet_jax.inference import metrics

#: A layer has settled at the first checkpoint from which on its CKA with its last state is at least this.
SETTLED = 0.9


def main(arguments: list[str]) -> None:
    """Run `alexnet similarity`."""
    options = _parser().parse_args(arguments)
    inputs = similarity_inputs.read(options)
    folder = figures.make_folder(Path(options.out))
    measures = similarity_measures.measure(
        inputs, folder, options.resamples, options.permutations, options.seed
    )
    report = summarize(inputs, measures, options)
    _write_arrays(folder / "similarity.npz", inputs, measures, options.save_rdms)
    last = [group[-1] for group in similarity_measures.series(inputs.nets)]
    figure = similarity_figures.heatmaps(report, measures, last)
    paths = [figures.save(figure, report, folder / "similarity.png")]
    if report["settling"]:
        figure = similarity_figures.settling(report["settling"])
        paths.append(figures.save(figure, {"runs": report["settling"]}, folder / "settling.png"))
    print("\n".join([*lines(report), "", *map(str, paths)]))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__ or "")
    # fmt: off
    parser.add_argument("--nets", nargs="+", required=True, metavar="NET",
                        help="run folders, .safetensors files, RUN@STEP, RUN@best or RUN@all")
    parser.add_argument("--layers", nargs="+", default=["all"], metavar="NAME",
                        help="layers such as fc7, or operations such as conv1/linear; default: all layers")
    pictures.add_arguments(parser)
    parser.add_argument("--images", nargs="+", metavar="PATH",
                        help="image files, folders and patterns in quotes, instead of --split")
    parser.add_argument("--count", type=int, metavar="N",
                        help=f"number of images, drawn at random; default: {COUNT:,} of a split, and all of --images "
                        "or with --rdm or --responses")
    parser.add_argument("--batch", type=int, metavar="N",
                        help=f"most images compared at once; default: {BATCH:,}, and all with --rdm or --responses")
    parser.add_argument("--rdm", metavar="FILE.npy", help="dissimilarities of all images, [n n]")
    parser.add_argument("--responses", metavar="FILE.npy", help="responses to all images, [n voxels or neurons]")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N",
                        help="for intervals; default: 1000; 0: none")
    parser.add_argument("--permutations", type=int, default=1000, metavar="N",
                        help="for p-values; default: 1000; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices; default: 0")
    parser.add_argument("--save-rdms", action="store_true", help="also write the RDMs of all layers to similarity.npz")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    # fmt: on
    return parser


def summarize(inputs: Inputs, measures: Measures, options: argparse.Namespace) -> dict[str, Any]:
    """Return the content of similarity.json, which docs/similarity.md describes."""

    def named(layer: int) -> dict[str, str]:
        net, name = measures.layers[layer]
        return {"net": inputs.nets[net].name, "layer": name}

    layers = [
        named(i) | {"values": inputs.nets[net].layers[name]}
        for i, (net, name) in enumerate(measures.layers)
    ]
    report: dict[str, Any] = {
        "nets": [
            {"net": net.name, "step": net.step, "epoch": net.epoch(), "config": net.config, "seed": net.seed}
            for net in inputs.nets
        ],
        "layers": layers,
        "images": {
            "from": inputs.images.title, "count": len(inputs.chosen), "batches": len(inputs.batches),
            "batch": len(inputs.batches[0]), "seed": options.seed,
        },
        "confidence": metrics.CONFIDENCE,
        "resamples": options.resamples,
        "permutations": options.permutations,
        "without_rdm": [named(i) for i, rdm in enumerate(measures.rdms) if rdm is None],
        "pairs": [
            {"first": named(a), "second": named(b), "cka": cka._asdict(), "rdm": rdm._asdict()}
            for (a, b), (cka, rdm) in measures.pairs.items()
            if inputs.nets[measures.layers[a][0]].run != inputs.nets[measures.layers[b][0]].run
        ],
        "settling": settling(inputs, measures),
    }  # fmt: skip
    if measures.with_rdm:
        found = [named(i) | value._asdict() for i, value in enumerate(measures.with_rdm)]
        report["rdm"] = {"file": options.rdm, "layers": found}
    if measures.encodings:
        generator = np.random.default_rng([options.seed, 5])
        found = [
            named(i) | _encoding(one, options.resamples, generator)
            for i, one in enumerate(measures.encodings)
        ]
        report["encoding"] = {
            "file": options.responses, "folds": encoding.FOLDS, "responses": len(measures.encodings[0].r2),
            "layers": found,
        }  # fmt: skip
    return report


def _encoding(
    found: encoding.Encoding, resamples: int, generator: np.random.Generator
) -> dict[str, Any]:
    """Medians over the responses, with intervals over the responses."""
    summary: dict[str, Any] = {"known": int(np.isfinite(found.r2).sum())}
    for name in ("correlation", "r2", "penalty"):
        median, drawn = encoding.median_interval(getattr(found, name), resamples, generator)
        low, high = metrics.percentile_interval(drawn) or (None, None)
        summary[name] = Value(None if np.isnan(median) else median, low, high)._asdict()
        del summary[name]["p"]
    return summary


def settling(inputs: Inputs, measures: Measures) -> list[dict[str, Any]]:
    """Compare the layers at each checkpoint of a run with the last, for each run with several checkpoints."""
    place = {layer: i for i, layer in enumerate(measures.layers)}
    runs = []
    for *others, last in similarity_measures.series(inputs.nets):
        if not others:
            continue
        nets = [inputs.nets[i] for i in (*others, last)]
        found: dict[str, Any] = {}
        for name in inputs.nets[last].layers:
            pairs = [measures.pairs[place[i, name], place[last, name]] for i in others]
            below = [
                i for i, (cka, _) in enumerate(pairs) if cka.value is None or cka.value < SETTLED
            ]
            found[name] = {
                "cka": [cka._asdict() for cka, _ in pairs],
                "rdm": [rdm._asdict() for _, rdm in pairs],
                "settled": nets[below[-1] + 1 if below else 0].step,
            }
        epochs = [net.epoch() for net in nets]
        runs.append({
            "run": inputs.nets[last].path, "steps": [net.step for net in nets],
            "epochs": None if None in epochs else epochs, "layers": found,
        })  # fmt: skip
    return runs


def _write_arrays(path: Path, inputs: Inputs, measures: Measures, with_rdms: bool) -> None:
    """Write the matrices to an .npz file. Raises StorageError."""
    t = len(measures.layers)
    arrays: dict[str, Any] = {
        "nets": np.array([inputs.nets[net].name for net, _ in measures.layers]),
        "layers": np.array([name for _, name in measures.layers]),
        "cka": measures.cka,
        "rdm": measures.rdm[:t, :t],
        "images": inputs.chosen,
        "rdm_images": inputs.batches[0],
    }
    if inputs.images.paths is not None:
        arrays["files"] = np.array([str(inputs.images.paths[i]) for i in inputs.chosen])
    for name in ("correlation", "r2", "penalty") if measures.encodings else ():
        arrays[name] = np.array([getattr(one, name) for one in measures.encodings])
    if with_rdms:
        pairs = len(inputs.batches[0]) * (len(inputs.batches[0]) - 1) // 2
        missing = np.full(pairs, np.nan, np.float32)
        arrays["rdms"] = np.array([missing if rdm is None else rdm for rdm in measures.rdms])
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    try:
        files.write_atomically(path, content.getvalue())
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from None


def lines(report: dict[str, Any]) -> list[str]:
    """Format a report for a terminal."""
    images, batches = report["images"], report["images"]["batches"]
    parts = f", in {batches} random batches" if batches > 1 else ""
    some = f"the {images['batch']:,} images of the first batch" if batches > 1 else "the same"
    found = [
        f"{images['count']:,} images of {images['from']}. CKA: debiased, linear, of all images{parts}. "
        f"RDMs: 1 - Pearson correlation, of {some}, compared by Spearman correlation.",
        f"Intervals: {report['confidence']:.0%}, bootstrap over images; p: permutations of {some}.",
    ]
    tables = [_pair_lines, _settling_lines, _rdm_lines, _encoding_lines]
    found += [line for make in tables for line in make(report)]
    if len(found) == 2:
        found += [
            "",
            "One net: its layers with each other are in the figure and in similarity.npz.",
        ]
    if report["without_rdm"]:
        names = ", ".join(f"{one['layer']} of {one['net']}" for one in report["without_rdm"])
        found += ["", f"No RDM, because an image has the same value in all features: {names}."]
    return found


def _pair_lines(report: dict[str, Any]) -> list[str]:
    """The same layer in the last checkpoints of two runs, and the layer of the second that is most like it."""
    by_net: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for pair in report["pairs"]:
        by_net.setdefault((pair["first"]["net"], pair["second"]["net"]), []).append(pair)
    found: list[str] = []
    for (first, second), pairs in by_net.items():
        rows: list[tuple[str, ...]] = [
            ("layer", "CKA", "", "p", "RDM", "", "p", "most similar by CKA")
        ]
        for name in dict.fromkeys(pair["first"]["layer"] for pair in pairs):
            same = [pair for pair in pairs if pair["first"]["layer"] == name]
            known = [pair for pair in same if pair["cka"]["value"] is not None]
            nearest = max(known, key=lambda pair: pair["cka"]["value"], default=None)
            shown = next((pair for pair in same if pair["second"]["layer"] == name), None)
            cells = (*_cells(shown["cka"]), *_cells(shown["rdm"])) if shown else ("",) * 6
            rows.append((name, *cells, nearest["second"]["layer"] if nearest else ""))
        found += ["", f"{first} and {second}", *cli.table(rows, right=(1, 3, 4, 6))]
    return found


def _settling_lines(report: dict[str, Any]) -> list[str]:
    found: list[str] = []
    for run in report["settling"]:
        steps, epochs = run["steps"], run["epochs"]
        rows = [
            (
                "layer",
                f"CKA of step {steps[0]:,}",
                f"CKA from step on at least {SETTLED:g}",
                "epoch",
            )
        ]
        for name, layer in run["layers"].items():
            first, settled = layer["cka"][0]["value"], layer["settled"]
            epoch = f"{epochs[steps.index(settled)]:.3g}" if epochs else ""
            rows.append((name, "" if first is None else f"{first:.3f}", f"{settled:,}", epoch))
        heading = (
            f"{run['run']}: {len(steps)} checkpoints, compared with the last, of step {steps[-1]:,}"
        )
        found += ["", heading, *cli.table(rows, right=(1, 2, 3))]
    return found


def _rdm_lines(report: dict[str, Any]) -> list[str]:
    if "rdm" not in report:
        return []
    rows = [("net", "layer", "RDM", "", "p")]
    rows += [(one["net"], one["layer"], *_cells(one)) for one in report["rdm"]["layers"]]
    return ["", f"with the RDM in {report['rdm']['file']}", *cli.table(rows, right=(2, 4))]


def _encoding_lines(report: dict[str, Any]) -> list[str]:
    if "encoding" not in report:
        return []
    about = report["encoding"]
    rows: list[tuple[str, ...]] = [("net", "layer", "correlation", "", "R2", "")]
    for one in about["layers"]:
        cells = [*_cells(one["correlation"])[:2], *_cells(one["r2"])[:2]]
        rows.append((one["net"], one["layer"], *cells))
    heading = (
        f"responses in {about['file']}, predicted by ridge regression, {about['folds']} folds: medians over "
        f"{about['responses']:,} responses, with intervals over the responses"
    )
    return ["", heading, *cli.table(rows, right=(2, 4))]


def _cells(value: dict[str, Any]) -> tuple[str, str, str]:
    """Value, interval and p as text."""
    if value["value"] is None:
        return "", "", ""
    low, high, p = value["low"], value["high"], value.get("p")
    bounds = "" if low is None else f"({low:.3f} to {high:.3f})"
    return f"{value['value']:.3f}", bounds, "" if p is None else f"{p:.2g}"


if __name__ == "__main__":
    cli.run(main)
