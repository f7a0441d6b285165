"""Complete a store: write its labels, statistics, lists and index, with a readable report."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from alexnet_jax import files
from alexnet_jax.data.pipeline import statistics
from alexnet_jax.data.pipeline.splits import TWICE, Split, duplicates
from alexnet_jax.data.prepare.selection import Image, Listing
from alexnet_jax.data.prepare.shards import EXAMPLES, Task, shown, versions
from alexnet_jax.data.sources import store, store_format
from alexnet_jax.data.sources.store_format import DUPLICATES, REFUSED, STATISTICS
from alexnet_jax.errors import DataError

#: Maximum number of image names per line on the terminal.
_SHOWN = 2


def summary(index: store_format.Index) -> Iterator[str]:
    """The report as lines of text."""
    report = index.report
    for split, counts in report.get("per_class", {}).items():
        yield (
            f"{split}: {sum(counts):,} images of {sum(map(bool, counts)):,} classes, "
            f"{min(counts, default=0):,} to {max(counts, default=0):,} in each"
        )
        for what, found in report.get("converted", {}).get(split, {}).items():
            yield f"  {found['count']:,} {what}: {_named(found['count'], found['first'])}"
        refused = report.get("refused", {}).get(split)
        if refused and refused["count"]:
            yield f"  {refused['count']:,} refused: {_named(refused['count'], refused['first'])}"
    for note in report.get("notes", []):
        yield f"note: {note}"
    for key, text in TWICE.items():
        found = report.get(key, {"count": 0})  # older stores have no count for classes
        yield f"{found['count']:,} {text.partition(':')[0]}" + (
            f": {_named(found['count'], found['first'])}; all in {DUPLICATES}"
            if found["count"]
            else ""
        )
    yield (
        f"{index.format} of {index.size}x{index.size}, {report.get('bytes', 0):,} bytes, "
        f"fingerprint {index.fingerprint[:16]}"
    )


def _named(count: int, first: list[str]) -> str:
    return ", ".join(first[:_SHOWN]) + (" ..." if count > _SHOWN else "")


def complete(
    listing: Listing,
    request: dict,
    tasks: list[Task],
    results: dict[str, dict],
    folder: pathlib.Path,
    jobs: int,
) -> store_format.Index:
    """Write labels, statistics, lists and, last, the index. Raises DataError if a split is empty."""
    sums, splits = {}, {}
    for split in listing.splits:
        of_split = [(task, results[task.stem]) for task in tasks if task.split == split]
        shards = []
        for task, result in of_split:
            if result["count"]:
                sums[task.path.name] = (result["size"], result["sha256"])
                shards.append(store_format.Shard(task.path.name, result["count"]))
        if not shards:
            raise DataError(f"{split} has no usable image")
        splits[split] = tuple(shards)
        labels = np.array([label for _, result in of_split for label in result["labels"]], np.int32)
        with files.replacing(folder / store_format.labels_name(split)) as file:
            np.save(file, labels)
    refused = [one for task in tasks for one in results[task.stem]["refused"]]
    write_lines(folder / REFUSED, refused)
    in_splits, in_classes = _duplicates(tasks, results)
    write_lines(folder / DUPLICATES, [*in_splits, *in_classes])
    report = _report(listing, tasks, results)
    report["duplicates"] = {
        "count": len(in_splits),
        "first": [" = ".join(one.values()) for one in in_splits[:EXAMPLES]],
    }
    report["two_classes"] = {
        "count": len(in_classes),
        "first": [" = ".join(one["classes"]) for one in in_classes[:EXAMPLES]],
    }
    index = store_format.Index(
        request["format"], request["size"], listing.classes, listing.words, splits, sums, "",
        request, report,
    )  # fmt: skip
    train = store.images(folder, index, "train", index.size, jobs)
    found = statistics.compute(Split(train, np.empty(0, np.int32)))
    with files.replacing(folder / STATISTICS) as file:
        np.savez(file, **found._asdict())
    rest = [store_format.labels_name(split) for split in splits]
    for name in (*rest, REFUSED, DUPLICATES, STATISTICS):
        sums[name] = ((folder / name).stat().st_size, files.sha256_of(folder / name))
    report["bytes"] = sum(size for size, _ in sums.values())
    index = index._replace(fingerprint=store_format.fingerprint(index))
    store_format.write_index(folder / store_format.INDEX, index)
    return index


def _report(listing: Listing, tasks: list[Task], results: dict[str, dict]) -> dict[str, Any]:
    """Collect counts, conversions and refusals, but no times or paths: the same source must give the same bytes."""
    report: dict[str, Any] = {
        "made_with": versions(),
        "notes": listing.notes,
        "per_class": {},
        "converted": {},
        "refused": {},
    }
    for split in listing.splits:
        of_split = [results[task.stem] for task in tasks if task.split == split]
        labels = [label for result in of_split for label in result["labels"]]
        counts = np.bincount(labels, minlength=len(listing.classes))
        report["per_class"][split] = counts.tolist()
        refused = [one["reason"] for result in of_split for one in result["refused"]]
        report["refused"][split] = {"count": len(refused), "first": refused[:EXAMPLES]}
        converted = report["converted"][split] = {}
        for result in of_split:
            for change, found in result["converted"].items():
                total = converted.setdefault(change, {"count": 0, "first": []})
                total["count"] += found["count"]
                total["first"] = (total["first"] + found["first"])[:EXAMPLES]
    return report


def _duplicates(
    tasks: list[Task], results: dict[str, dict]
) -> tuple[list[dict[str, str]], list[dict[str, list[str]]]]:
    """Find identical files: (those in two splits, those under two classes)."""
    digests: dict[str, list] = {}
    labels: dict[str, list[int]] = {}
    origins: dict[str, list[tuple[Image, Task]]] = {}
    for task in tasks:
        digests.setdefault(task.split, []).extend(results[task.stem]["sums"])
        labels.setdefault(task.split, []).extend(label for label, _ in task.images)
        origins.setdefault(task.split, []).extend((image, task) for _, image in task.images)
    found = duplicates(digests, labels)
    return (
        [{split: shown(*origins[split][i]) for split, i in pair} for pair in found.splits],
        [{"classes": [shown(*origins[split][i]) for split, i in pair]} for pair in found.classes],
    )


def write_lines(path: pathlib.Path, records: list[dict]) -> None:
    """Write a .jsonl file."""
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    files.write_atomically(path, "".join(lines))
