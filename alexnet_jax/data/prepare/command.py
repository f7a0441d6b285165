"""Prepare a store: decode and check every image once, and store it at one size.

alexnet prepare --from SOURCE --out STORE [--format raw] [--size 256] ...

SOURCE is a folder with the official ILSVRC2012 tars (train, val and devkit), with train/CLASS/ and
val/CLASS/ (or an archive for each), with cifar-10-binary.tar.gz or a dataset of tensorflow-datasets; Kaggle's
copy of ImageNet; Parquet shards or save_to_disk folders of Hugging Face; WebDataset shards; images with a .csv
of labels; or one archive of class folders. The shorter side becomes --size pixels, the center is kept. If the
command is stopped or killed, the same command continues; the store appears when it is complete.
Train on it: --config.data.source=store --config.data.path=STORE
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys
import time
import typing
from collections.abc import Iterator

from alexnet_jax import cli, files
from alexnet_jax.data.prepare import discovery, report, selection, shards
from alexnet_jax.data.prepare.convert import Options
from alexnet_jax.data.prepare.selection import Listing
from alexnet_jax.data.prepare.shards import Task
from alexnet_jax.data.prepare.workers import progress_bar
from alexnet_jax.data.sources import store, store_format
from alexnet_jax.errors import ConfigError, DataError, StorageError, WorkdirError, listed
from alexnet_jax.specs import Exif

#: Estimate for the check of free space; 300 photographs of ImageNet take 0.48 at quality 95.
JPEG_BYTES_A_PIXEL = 0.75
SPARE_BYTES = 64 * 2**20
#: Number of unusable images above the limit at which the command fails before it has tried all images.
_FAR_TOO_MANY = 100


def main(arguments: list[str]) -> int:
    """Run `alexnet prepare` and return the exit code."""
    options = _parser().parse_args(arguments)
    _check_options(options)
    with contextlib.suppress(ValueError):  # only the main thread can set handlers
        signal.signal(signal.SIGTERM, _terminate)
    try:
        prepare(options)
    except KeyboardInterrupt as interrupt:
        print("stopped; the same command continues where it stopped", file=sys.stderr)
        return 75 if interrupt.args else 130
    return 0


def _terminate(*_) -> None:
    raise KeyboardInterrupt("SIGTERM")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--from", required=True, dest="source", metavar="SOURCE")
    parser.add_argument(
        "--out", required=True, metavar="STORE", help="a folder that does not exist"
    )
    parser.add_argument("--format", choices=sorted(store_format.SUFFIXES),
                        help="jpeg: a sixth of the disk; raw: no decoding (default: jpeg; CIFAR-10: raw)")  # fmt: skip
    parser.add_argument("--size", type=int, metavar="N", help="default: 256; CIFAR-10: 32")
    parser.add_argument(
        "--quality", type=int, default=95, metavar="Q", help="JPEG quality; default: 95"
    )
    parser.add_argument("--exif", choices=typing.get_args(Exif), default="ignore",
                        help="whether to rotate images by their EXIF orientation; default: ignore")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=cli.environment.cores(), metavar="N",
                        help="processes; default: the number of cores")  # fmt: skip
    parser.add_argument("--subset", action="store_true",
                        help="allow fewer classes or images than the official ones")  # fmt: skip
    parser.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help="only these")
    parser.add_argument(
        "--max-per-class",
        type=int,
        metavar="N",
        help="only the first N images of each class and split",
    )
    parser.add_argument("--max-bad-share", type=float, default=0.001, metavar="SHARE",
                        help="share of unusable images allowed in train (val, test: none); default: 0.001")  # fmt: skip
    return parser


def _check_options(options: argparse.Namespace) -> None:
    """Check the ranges of numbers. Raises ConfigError."""
    for name, value, low, high in (
        ("--size", options.size, 1, 8192),
        ("--quality", options.quality, 1, 100),
        ("--jobs", options.jobs, 1, 1024),
        ("--max-per-class", options.max_per_class, 1, None),
        ("--max-bad-share", options.max_bad_share, 0, 1),
    ):
        if value is not None and (value < low or (high is not None and value > high)):
            raise ConfigError(
                f"{name} {value} is not {low}" + (f" to {high}" if high else " or more")
            )


def prepare(options: argparse.Namespace) -> None:
    """Make the store `options.out` from `options.source`, or complete it.

    Raises:
        DataError: Something is wrong with the source.
        StorageError: The store cannot be written.
        WorkdirError: Another process prepares the same store.
        OutOfMemoryError: A worker was killed.
    """
    started = time.monotonic()
    out = pathlib.Path(os.path.abspath(pathlib.Path(options.out).expanduser()))
    work = out.with_name(f"{out.name}.preparing")
    if out.exists() and not store_format.is_store(out) and (not out.is_dir() or os.listdir(out)):
        raise ConfigError(f"--out {out} exists and is not a store; choose another name")
    try:
        work.mkdir(parents=True, exist_ok=True)
        with _locked(work):
            listing, request = _listing(options, work)
            if store_format.is_store(out):
                _check_same(out, request)
                shutil.rmtree(work)
                print(f"{out} is already prepared: nothing to do")
                return
            index = _build(listing, request, options, work)
            os.rename(work / "store", out)
            files.sync_folder(out.parent)
            shutil.rmtree(work)
    except OSError as error:
        path = str(error.filename or work)
        if path.startswith(str(_root(options.source))) and not path.startswith(str(out)):
            raise DataError(f"cannot read {path}: {error.strerror}") from None
        raise StorageError(
            f"cannot write {path}: {error.strerror}; what is finished is kept, the same command "
            "continues"
        ) from None
    for line in report.summary(index):
        print(line)
    print(f"{out} is complete after {time.monotonic() - started:,.0f} s")


@contextlib.contextmanager
def _locked(work: pathlib.Path) -> Iterator[None]:
    """Lock the folder `work`, and remove it afterwards unless it has finished shards or a list of refused images."""
    lock = files.lock(work / "lock")
    if lock is None:
        raise WorkdirError(f"another process prepares {work} now; wait for it")
    with lock:
        try:
            yield
        finally:
            if not any(work.glob("done/*.json")) and not (work / store_format.REFUSED).exists():
                shutil.rmtree(work, ignore_errors=True)


def _listing(options: argparse.Namespace, work: pathlib.Path) -> tuple[Listing, dict]:
    """Return the images to store, and the request as index.json records it."""
    found = discovery.find(options.source, work)
    listing = selection.select(
        found,
        subset=options.subset,
        classes=tuple(options.classes),
        max_per_class=options.max_per_class,
    )
    small = found.kind.startswith("CIFAR-10")
    kind = options.format or ("raw" if small else "jpeg")
    request = {
        "source": found.kind,
        "official": found.official,
        "format": kind,
        "size": options.size or (32 if small else 256),
        "quality": options.quality if kind == "jpeg" else None,
        "exif": options.exif,
        "subset": options.subset,
        "classes": sorted(set(options.classes)),
        "max_per_class": options.max_per_class,
        "images": {split: len(found) for split, found in listing.splits.items()},
    }
    return listing, request


def _check_same(out: pathlib.Path, request: dict) -> None:
    """Raise ConfigError if the existing store was prepared with other options."""
    # Older stores do not record exif.
    before = {"exif": "ignore"} | store_format.read_index(out).request
    other = [key for key in request if before.get(key) != request[key]]
    if other:
        raise ConfigError(
            f"{out} was prepared with {other[0]} {before.get(other[0])}, not {request[other[0]]}; "
            "choose another --out, or remove it first"
        )


def _build(
    listing: Listing, request: dict, arguments: argparse.Namespace, work: pathlib.Path
) -> store_format.Index:
    """Write everything in work/store, its index last."""
    options = Options(request["format"], request["size"], arguments.quality, request["exif"])
    if options.format == "jpeg":
        store.array_record()  # fails early
    folder, done = work / "store", work / "done"
    folder.mkdir(exist_ok=True)
    done.mkdir(exist_ok=True)
    tasks = shards.plan(listing, options, f"{_root(arguments.source)}/", folder, done)
    results = {task.stem: result for task in tasks if (result := shards.finished(task))}
    _remove_others(folder, done, results)
    pending = [task for task in tasks if task.stem not in results]
    _check_space(pending, options, work)
    limits = {split: 0 for split in listing.splits}
    limits["train"] = int(arguments.max_bad_share * len(listing.splits["train"]))
    _check_refused(tasks, results, limits, work)
    with contextlib.closing(shards.write_all(pending, arguments.jobs)) as converted:
        title = f"{sum(map(len, listing.splits.values())):,} images"
        with progress_bar(title, sum(len(task.images) for task in pending)) as advance:
            for task, count in converted:
                advance(count)
                if task is not None:
                    results[task.stem] = json.loads(task.done.read_bytes())
                    _check_refused(tasks, results, limits, work)
    return report.complete(listing, request, tasks, results, folder, arguments.jobs)


def _root(source: str) -> pathlib.Path:
    """The source if it is a folder, else the folder that it is in."""
    path = pathlib.Path(source).expanduser()
    return path.parent if path.is_file() else path


def _remove_others(folder: pathlib.Path, done: pathlib.Path, results: dict[str, dict]) -> None:
    """Remove what an interrupted command left unfinished, or made for another source or option."""
    for path in (*folder.iterdir(), *done.iterdir()):
        if path.name.split(".")[0] not in results:
            path.unlink()


def _check_space(pending: list[Task], options: Options, work: pathlib.Path) -> None:
    """Raise StorageError unless the rest of the store fits on the disk."""
    pixels = sum(len(task.images) for task in pending) * options.size**2
    need = int(pixels * (3 if options.format == "raw" else JPEG_BYTES_A_PIXEL)) + SPARE_BYTES
    free = shutil.disk_usage(work).free
    if free < need:
        raise StorageError(
            f"the store needs some {need:,} bytes more, and {work.parent} has {free:,} free: make "
            "room or choose another --out" + ("; or --format jpeg" * (options.format == "raw"))
        )


def _check_refused(
    tasks: list[Task], results: dict[str, dict], limits: dict[str, int], work: pathlib.Path
) -> None:
    """Raise DataError if a split has too many unusable images, once all are seen or far too many are found."""
    refused: dict[str, list[dict]] = {split: [] for split in limits}
    for task in tasks:
        if task.stem in results:
            refused[task.split] += results[task.stem]["refused"]
    beyond = {split: len(refused[split]) - limit for split, limit in limits.items()}
    seen = all(task.stem in results for task in tasks)
    if max(beyond.values()) <= (0 if seen else _FAR_TOO_MANY):
        return
    listing = work / store_format.REFUSED
    bad = {split: found for split, found in refused.items() if beyond[split] > 0}
    report.write_lines(listing, [one for found in bad.values() for one in found])
    messages = []
    for split, found in bad.items():
        policy = "none is allowed in val and test, on which errors are measured"
        if split == "train":
            total = sum(len(task.images) for task in tasks if task.split == split)
            policy = f"--max-bad-share allows {limits[split]:,} of {total:,}"
        reasons = listed([one["reason"].removesuffix("; remove or replace it") for one in found])
        messages.append(f"{len(found):,} images of {split} cannot be used ({policy}): {reasons}")
    so_far = "" if seen else " so far"
    raise DataError(f"{'; '.join(messages)}; remove or replace them; all{so_far} are in {listing}")


if __name__ == "__main__":
    cli.run(main)
