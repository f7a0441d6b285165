"""Prepare a store: every image decoded, checked and brought to one size, once.

alexnet prepare --from SOURCE --out STORE [--format raw] [--size 256] ...

SOURCE is a folder with the official ILSVRC2012 tars (train, val and devkit), with train/CLASS/ and
val/CLASS/ (or an archive for each), with cifar-10-binary.tar.gz or a set of tensorflow-datasets; or one
archive of class folders. The shorter side becomes --size pixels, the center is kept. A command that was
stopped or killed continues where it was when given again; the store appears when it is complete.
Train on it: --config.data.source=store --config.data.path=STORE
"""

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import importlib.metadata
import io
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
import time
import typing
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from alexnet_jax import cli, files
from alexnet_jax.data.pipeline import images, statistics
from alexnet_jax.data.pipeline.splits import Split, duplicates
from alexnet_jax.data.prepare import layouts
from alexnet_jax.data.prepare.layouts import Image, Listing
from alexnet_jax.data.sources import store
from alexnet_jax.errors import (
    ConfigError,
    DataError,
    OutOfMemoryError,
    StorageError,
    WorkdirError,
    listed,
    printable,
)
from alexnet_jax.files import sha256_of, sync_folder
from alexnet_jax.specs import Exif, Range

VERSION = 2
"""Raise it when the same source gives other bytes: parts of older versions are not used again."""
LARGEST_SHARD, SMALLEST_SHARD, FEWEST_SHARDS = 4096, 128, 16
"""Images in a file: few files for a large set, and work for several processes in a small one."""
# cuda-convnet2's make-data.py writes JPEG of quality 95 with OpenCV, which halves the colors.
SUBSAMPLING = "420"
JPEG_BYTES_A_PIXEL = 0.75
"""For the check of free space; 300 photographs of ImageNet take 0.48 at quality 95."""
SPARE_BYTES = 64 * 2**20
DUPLICATES = "duplicates.jsonl"
_PACKAGES = ("array_record", "numpy", "pillow", "simplejpeg")
_POLL_SECONDS, _LOG_SECONDS = 0.2, 60.0
_FAR_TOO_MANY = 100
"""Unusable images beyond those allowed, after which the others are not waited for."""
_EXAMPLES, _SHOWN = 5, 2
"""Names of images in the report, and of those on the terminal."""
_TURNED = "turned as EXIF says"
_PR_SET_PDEATHSIG = 1


class Options(NamedTuple):
    format: str
    size: int
    quality: int
    exif: Exif = "ignore"


_Whole = typing.Annotated[int, Range(0)]


class _Refused(TypedDict):
    split: str
    image: str
    reason: str


class _Converted(TypedDict):
    count: _Whole
    first: list[str]


class _Result(TypedDict):
    """What is kept of a finished shard."""

    key: str
    count: _Whole
    labels: list[_Whole]
    size: NotRequired[_Whole]
    sha256: NotRequired[str]
    sums: list[str | None]
    refused: list[_Refused]
    converted: dict[str, _Converted]


class Task(NamedTuple):
    """One shard: the images that go into it, and where."""

    split: str
    stem: str
    key: str
    """SHA-256 of all that its bytes follow from."""
    images: list[tuple[int, Image]]
    options: Options
    root: str
    """The part of all names that is not reported: where the source happens to be."""
    folder: pathlib.Path
    """Of the store to be."""
    done: pathlib.Path
    """Written when the shard is complete: its sums and what was found."""


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    _check_options(options)
    with contextlib.suppress(ValueError):  # not in the main thread: then nobody signals us
        signal.signal(signal.SIGTERM, _terminate)
    try:
        prepare(options)
    except KeyboardInterrupt as interrupt:
        print("stopped; the same command continues where it was", file=sys.stderr)
        return 75 if interrupt.args else 130
    return 0


def _terminate(*_) -> None:
    raise KeyboardInterrupt("SIGTERM")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("--from", required=True, dest="source", metavar="SOURCE")
    parser.add_argument("--out", required=True, metavar="STORE", help="a folder that is not there")
    parser.add_argument("--format", choices=sorted(store.SUFFIXES),
                        help="jpeg: a sixth of the disk; raw: no decoding (default: jpeg; CIFAR-10: raw)")  # fmt: skip
    parser.add_argument("--size", type=int, metavar="N", help="default: 256; CIFAR-10: 32")
    parser.add_argument("--quality", type=int, default=95, metavar="Q", help="of JPEG; default: 95")
    parser.add_argument("--exif", choices=typing.get_args(Exif), default="ignore",
                        help="whether photos are turned as their EXIF orientation says; default: ignore")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
                        help="processes; default: the number of cores")  # fmt: skip
    parser.add_argument("--subset", action="store_true",
                        help="fewer classes or images than the official ones are meant")  # fmt: skip
    parser.add_argument("--classes", nargs="+", default=[], metavar="CLASS", help="only these")
    parser.add_argument("--max-per-class", type=int, metavar="N", help="the first of each split")
    parser.add_argument("--max-bad-share", type=float, default=0.001, metavar="SHARE",
                        help="of train images that may be unusable; default: 0.001. None of val, test")  # fmt: skip
    return parser


def _check_options(options: argparse.Namespace) -> None:
    """Raises ConfigError."""
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
    """Makes the store `options.out` from `options.source`, or completes it.

    Raises DataError for what is wrong with the source, StorageError, WorkdirError where another
    process prepares the same store, and OutOfMemoryError where a process of ours was killed.
    """
    started = time.monotonic()
    out = pathlib.Path(os.path.abspath(pathlib.Path(options.out).expanduser()))
    work = out.with_name(f"{out.name}.preparing")
    if out.exists() and not store.is_store(out) and (not out.is_dir() or os.listdir(out)):
        raise ConfigError(f"--out {out} exists and is no store; choose another name")
    try:
        work.mkdir(parents=True, exist_ok=True)
        with _locked(work):
            listing, asked = _listing(options, work)
            if store.is_store(out):
                _check_same(out, asked)
                shutil.rmtree(work)
                print(f"{out} is already prepared: nothing to do")
                return
            index = _build(listing, asked, options, work)
            os.rename(work / "store", out)
            sync_folder(out.parent)
            shutil.rmtree(work)
    except OSError as error:
        path = str(error.filename or work)
        if path.startswith(str(_root(options.source))) and not path.startswith(str(out)):
            raise DataError(f"cannot read {path}: {error.strerror}") from None
        raise StorageError(
            f"cannot write {path}: {error.strerror}; what is finished is kept, the same command "
            "continues"
        ) from None
    for line in summary(index):
        print(line)
    print(f"{out} is complete after {time.monotonic() - started:,.0f} s")


def summary(index: store.Index) -> Iterator[str]:
    """The report in lines for people."""
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
    for key, where in (("duplicates", "in two splits"), ("two_classes", "under two classes")):
        found = report.get(key, {"count": 0})  # older stores know of splits alone
        yield f"{found['count']:,} files are {where}, byte for byte" + (
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


@contextlib.contextmanager
def _locked(work: pathlib.Path) -> Iterator[None]:
    with open(work / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WorkdirError(f"another process prepares {work} now; wait for it") from None
        try:
            yield
        finally:  # what holds nothing of use goes
            if not any(work.glob("done/*.json")) and not (work / store.REFUSED).exists():
                shutil.rmtree(work, ignore_errors=True)


def _listing(options: argparse.Namespace, work: pathlib.Path) -> tuple[Listing, dict]:
    """What the source holds, and what is asked for, as index.json repeats it."""
    found = layouts.find(options.source, work)
    listing = layouts.select(
        found,
        subset=options.subset,
        classes=tuple(options.classes),
        max_per_class=options.max_per_class,
    )
    small = found.kind.startswith("CIFAR-10")
    kind = options.format or ("raw" if small else "jpeg")
    asked = {
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
    return listing, asked


def _check_same(out: pathlib.Path, asked: dict) -> None:
    """Raises ConfigError where the store there was asked for otherwise."""
    before = {"exif": "ignore"} | store.read_index(out).request  # older stores do not say
    other = [key for key in asked if before.get(key) != asked[key]]
    if other:
        raise ConfigError(
            f"{out} was prepared with {other[0]} {before.get(other[0])}, not {asked[other[0]]}; "
            "choose another --out, or remove it first"
        )


def _build(
    listing: Listing, asked: dict, arguments: argparse.Namespace, work: pathlib.Path
) -> store.Index:
    """Everything in work/store, its index last."""
    options = Options(asked["format"], asked["size"], arguments.quality, asked["exif"])
    if options.format == "jpeg":
        store.check_jpeg()
    folder, done = work / "store", work / "done"
    folder.mkdir(exist_ok=True)
    done.mkdir(exist_ok=True)
    tasks = _tasks(listing, options, f"{_root(arguments.source)}/", folder, done)
    results = {task.stem: result for task in tasks if (result := _finished(task))}
    _remove_others(folder, done, results)
    pending = [task for task in tasks if task.stem not in results]
    _check_space(pending, options, work)
    limits = {split: 0 for split in listing.splits}
    limits["train"] = int(arguments.max_bad_share * len(listing.splits["train"]))
    _check_refused(tasks, results, limits, work)
    with contextlib.closing(_convert(pending, arguments.jobs)) as converted:
        title = f"{sum(map(len, listing.splits.values())):,} images"
        with progress_bar(title, sum(len(task.images) for task in pending)) as advance:
            for task, count in converted:
                advance(count)
                if task is not None:
                    results[task.stem] = json.loads(task.done.read_bytes())
                    _check_refused(tasks, results, limits, work)
    return _complete(listing, asked, tasks, results, folder, arguments.jobs)


def _root(source: str) -> pathlib.Path:
    """The folder that the source is, or is in."""
    path = pathlib.Path(source).expanduser()
    return path.parent if path.is_file() else path


def _tasks(
    listing: Listing, options: Options, root: str, folder: pathlib.Path, done: pathlib.Path
) -> list[Task]:
    """The shards of all splits: val and test first, where nothing may be refused."""
    versions = _versions()
    tasks = []
    for split in sorted(listing.splits, key=lambda name: name == "train"):
        chosen = listing.splits[split]
        size = min(max(-(-len(chosen) // FEWEST_SHARDS), SMALLEST_SHARD), LARGEST_SHARD)
        for number, start in enumerate(range(0, len(chosen), size)):
            part = chosen[start : start + size]
            key = hashlib.sha256(
                repr((VERSION, images.VERSION, versions, options, listing.stamp, part)).encode()
            ).hexdigest()
            stem = f"{split}-{number:05}"
            tasks.append(Task(split, stem, key, part, options, root, folder, done / f"{stem}.json"))
    return tasks


def _versions() -> dict[str, str]:
    """Of the packages that the bytes of a store depend on, where they are installed."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _finished(task: Task) -> dict | None:
    """What an earlier, interrupted command left of this shard, if that is whole."""
    try:
        result = files.read_json(task.done, _Result)
        path = task.folder / f"{task.stem}{store.SUFFIXES[task.options.format]}"
        if result is None or result["key"] != task.key:
            return None
        if result["count"] and sha256_of(path) != result.get("sha256"):
            return None
    except (OSError, StorageError):
        return None
    return dict(result)


def _remove_others(folder: pathlib.Path, done: pathlib.Path, results: dict[str, dict]) -> None:
    """Removes what an interrupted command left unfinished, or for another source or option."""
    for path in (*folder.iterdir(), *done.iterdir()):
        if path.name.split(".")[0] not in results:
            path.unlink()


def _check_space(pending: list[Task], options: Options, work: pathlib.Path) -> None:
    """Raises StorageError unless the rest of the store fits on the disk."""
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
    """Raises DataError for too many unusable images of any split, once all are seen or far too many are found."""
    refused: dict[str, list[dict]] = {split: [] for split in limits}
    for task in tasks:
        if task.stem in results:
            refused[task.split] += results[task.stem]["refused"]
    beyond = {split: len(refused[split]) - limit for split, limit in limits.items()}
    seen = all(task.stem in results for task in tasks)
    if max(beyond.values()) <= (0 if seen else _FAR_TOO_MANY):
        return
    listing = work / store.REFUSED
    bad = {split: found for split, found in refused.items() if beyond[split] > 0}
    _write_lines(listing, [one for found in bad.values() for one in found])
    said = []
    for split, found in bad.items():
        policy = "none may be of val or test, on which errors are reported"
        if split == "train":
            total = sum(len(task.images) for task in tasks if task.split == split)
            policy = f"--max-bad-share allows {limits[split]:,} of {total:,}"
        reasons = listed([one["reason"].removesuffix("; remove or replace it") for one in found])
        said.append(f"{len(found):,} images of {split} cannot be used ({policy}): {reasons}")
    remedy = "remove or replace them; all"
    raise DataError(f"{'; '.join(said)}; {remedy} {'' if seen else 'so far '}are in {listing}")


@contextlib.contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """`advance(images)` moves a bar on standard error; in a log file, a line a minute."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]:,.0f} images/s"),
        progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    console = Console(stderr=True)
    started = reported = time.monotonic()
    done = 0
    with progress.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, rate=0.0)

        def advance(count: int) -> None:
            nonlocal done, reported
            done += count
            now = time.monotonic()
            rate = done / max(now - started, 1e-9)
            bar.update(task, advance=count, rate=rate)
            if bar.disable and now - reported > _LOG_SECONDS:
                reported = now
                print(f"{done:,} of {total:,} images, {rate:,.0f} images/s", flush=True)

        yield advance


# Images become shards, in several processes: threads were no faster than one alone, since resizing
# holds the interpreter's lock between its many short steps.


def _convert(pending: list[Task], jobs: int) -> Generator[tuple[Task | None, int], None, None]:
    """Yields (finished task, 0) and (None, images done since). Raises OSError, OutOfMemoryError."""
    if jobs == 1 or len(pending) < 2:
        for task in pending:
            done = 0

            def count(number: int) -> None:
                nonlocal done
                done += number

            write_shard(task, count)
            yield None, done
            yield task, 0
        return
    context = multiprocessing.get_context("spawn")
    # A number for each shard and no lock: one that a killed process holds would never come free.
    done = context.RawArray("q", len(pending))
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        min(jobs, len(pending)), context, initializer=_start_worker, initargs=(done,)
    )
    try:
        running = {pool.submit(_work, i, task): task for i, task in enumerate(pending)}
        seen = 0
        while running:
            finished, _ = wait(running, _POLL_SECONDS, FIRST_COMPLETED)
            seen, before = sum(done), seen
            yield None, seen - before
            for future in finished:
                future.result()
                yield running.pop(future), 0
    except BrokenProcessPool:
        raise OutOfMemoryError(
            "a process of ours died, most likely killed for lack of memory; what is finished is "
            "kept: run the same command again with a lower --jobs"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - set(others):
            child.terminate()


_done: Any = None


def _start_worker(done) -> None:
    global _done
    _done = done
    leave_signals_to_the_parent()


def leave_signals_to_the_parent() -> None:
    """In a worker: Ctrl-C is not for it, and where its parent is killed it ends too (on Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it died before it could be told
        os._exit(1)


def _work(place: int, task: Task) -> None:
    def count(number: int) -> None:
        _done[place] += number

    write_shard(task, count)


def write_shard(task: Task, count: Callable[[int], None]) -> None:
    """Writes the file of `task` and then its `done`. Raises OSError."""
    name = f"{task.stem}{store.SUFFIXES[task.options.format]}"
    # No name that another process uses, and none that is taken for a finished shard.
    part = task.folder / f"part-{os.getpid()}.{name}"
    sums, labels, refused, converted = [], [], [], {}
    with _removed_on_failure(part), _writer(part, task) as write:
        for label, image in task.images:
            title = _shown(image, task)
            try:
                content = image.read()
                pixels, record, changes = convert(content, task.options, title)
            except DataError as error:
                reason = printable(str(error).replace(task.root, ""))
                refused.append({"split": task.split, "image": title, "reason": reason})
                sums.append(None)
            else:
                write(record if task.options.format == "jpeg" else pixels)
                encoded = content if isinstance(content, bytes) else content.tobytes()
                sums.append(hashlib.sha256(encoded).hexdigest())
                labels.append(label)
                for change in changes:
                    found = converted.setdefault(change, {"count": 0, "first": []})
                    found["count"] += 1
                    found["first"] = [*found["first"], title][:_EXAMPLES]
            count(1)
    result: dict[str, Any] = {"key": task.key, "count": len(labels), "labels": labels}
    if labels:
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        result |= {"size": part.stat().st_size, "sha256": sha256_of(part)}
        os.replace(part, task.folder / name)
    else:
        part.unlink()
    result |= {"sums": sums, "refused": refused, "converted": converted}
    temporary = task.done.with_name(f"part-{os.getpid()}.{task.done.name}")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(result, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, task.done)


def _shown(image: Image, task: Task) -> str:
    """The name of an image for reports: within its source, wherever that is."""
    return printable(image.title.removeprefix(task.root))


@contextlib.contextmanager
def _removed_on_failure(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _writer(path: pathlib.Path, task: Task) -> Iterator[Callable]:
    """`write` of a record, or of the pixels of an image."""
    if task.options.format == "jpeg":
        try:
            writer = store.jpeg_writer(path)
            yield writer.write
            writer.close()
        except RuntimeError as error:  # what array_record makes of a full disk
            raise OSError(None, " ".join(str(error).split())[:200], str(path)) from None
        return
    size, written = task.options.size, 0

    def write(pixels: np.ndarray) -> None:
        nonlocal written
        written += 1
        file.write(np.ascontiguousarray(pixels).data)

    def header(number: int) -> int:
        content = {"descr": "|u1", "fortran_order": False, "shape": (number, size, size, 3)}
        np.lib.format.write_array_header_1_0(file, content)
        return file.tell()

    with open(path, "wb") as file:
        begin = header(len(task.images))
        yield write
        file.seek(0)
        if header(written) != begin:  # padded to a multiple of 64 bytes
            raise AssertionError(f"the header of {path} has another length")


def convert(
    content: bytes | np.ndarray, options: Options, title: str
) -> tuple[np.ndarray, bytes, list[str]]:
    """(uint8 [s s 3], JPEG record or nothing, what was changed). Raises DataError.

    A JPEG file that has the size already is its own record.
    """
    size = options.size
    kept, changes = False, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as of broken EXIF, which matters to nobody here
        if isinstance(content, bytes):
            if content[:2] == b"\x1f\x8b":  # some files of ILSVRC-2010 are said to be gzipped
                content = _gunzipped(content, title)
                changes.append("gzipped")
            pixels = images.decode(content, size, exif=options.exif, name=title)
            kind, (width, height), found = inspect(content, title, options.exif)
            changes += found
            kept = kind == "JPEG" and width == height == size
            kept &= not {"CMYK, now RGB", _TURNED} & set(found)
        else:
            height, width = content.shape[:2]
            pixels = images.decode(content, size, name=title)
        if min(width, height) < size:
            changes.append(f"enlarged to {size} pixels")
    if options.format == "raw":
        return pixels, b"", changes
    if kept and isinstance(content, bytes):
        return pixels, content, changes
    import simplejpeg

    record = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels),
        quality=options.quality,
        colorspace="RGB",
        colorsubsampling=SUBSAMPLING,
        fastdct=False,
    )
    return pixels, record, changes


def _gunzipped(content: bytes, title: str) -> bytes:
    import zlib

    from alexnet_jax.data.sources.archives import MAX_FILE_BYTES

    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        unpacked = inflater.decompress(content, MAX_FILE_BYTES)
    except zlib.error as error:
        raise DataError(f"{title} is damaged: {error}") from None
    if not inflater.eof:
        raise DataError(f"{title} is gzipped and cut off, or too large")
    return unpacked


def inspect(encoded: bytes, title: str, exif: Exif) -> tuple[str, tuple[int, int], list[str]]:
    """(format, (width, height), what decoding has changed) of an image that can be decoded, from its header.

    The content decides, not the name.
    """
    from PIL import Image

    changes = []
    Image.init()
    known = [name for name in images.FORMATS if name in Image.OPEN]  # some need a package
    with Image.open(io.BytesIO(encoded), formats=known) as image:
        kind = image.format if image.format in images.FORMATS else "JPEG"  # such as MPO
        mode, size = image.mode, image.size
        if mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            changes.append("transparent, now on white")
        if getattr(image, "is_animated", False) and kind != "JPEG":
            changes.append("animated, first frame kept")
        orientation = images.orientation(image)
    suffix = os.path.splitext(title)[1].lower()
    named = next((name for name, suffixes in images.FORMATS.items() if suffix in suffixes), kind)
    if named != kind:
        changes.append(f"{kind} under the name of a {named}")
    if mode == "CMYK":
        changes.append("CMYK, now RGB")
    if mode in ("1", "L", "LA", "I") or mode.startswith("I;"):
        changes.append("gray, now RGB")
    if mode in ("P", "PA"):
        changes.append("with a palette, now RGB")
    if mode.startswith("I") or (kind == "PNG" and encoded[24:25] == b"\x10"):
        changes.append("16-bit, now 8-bit")
    if orientation != 1 and kind not in ("TIFF", "AVIF", "HEIF"):  # those turn an image themselves
        changes.append(_TURNED if exif == "apply" else "with an EXIF orientation, which is ignored")
    return kind, size, changes


# The end


def _complete(
    listing: Listing,
    asked: dict,
    tasks: list[Task],
    results: dict[str, dict],
    folder: pathlib.Path,
    jobs: int,
) -> store.Index:
    """Labels, statistics, lists and the index. Raises DataError where a split is empty."""
    files, splits = {}, {}
    for split in listing.splits:
        mine = [(task, results[task.stem]) for task in tasks if task.split == split]
        shards = []
        for task, result in mine:
            if result["count"]:
                name = f"{task.stem}{store.SUFFIXES[task.options.format]}"
                files[name] = (result["size"], result["sha256"])
                shards.append(store.Shard(name, result["count"]))
        if not shards:
            raise DataError(f"{split} has no usable image")
        splits[split] = tuple(shards)
        labels = np.array([label for _, result in mine for label in result["labels"]], np.int32)
        _save(folder / f"{split}-labels.npy", lambda file, labels=labels: np.save(file, labels))
    refused = [one for task in tasks for one in results[task.stem]["refused"]]
    _write_lines(folder / store.REFUSED, refused)
    in_splits, in_classes = _duplicates(tasks, results)
    _write_lines(folder / DUPLICATES, [*in_splits, *in_classes])
    report = _report(listing, tasks, results)
    report["duplicates"] = {
        "count": len(in_splits),
        "first": [" = ".join(one.values()) for one in in_splits[:_EXAMPLES]],
    }
    report["two_classes"] = {
        "count": len(in_classes),
        "first": [" = ".join(one["classes"]) for one in in_classes[:_EXAMPLES]],
    }
    index = store.Index(
        asked["format"], asked["size"], listing.classes, listing.words, splits, files, "",
        asked, report,
    )  # fmt: skip
    train = store.images(folder, index, "train", index.size, jobs)
    found = statistics.compute(Split(train, np.empty(0, np.int32)))
    _save(folder / store.STATISTICS, lambda file: np.savez(file, **found._asdict()))
    rest = [f"{split}-labels.npy" for split in splits]
    for name in (*rest, store.REFUSED, DUPLICATES, store.STATISTICS):
        files[name] = ((folder / name).stat().st_size, sha256_of(folder / name))
    report["bytes"] = sum(size for size, _ in files.values())
    index = index._replace(fingerprint=store.fingerprint(index))
    temporary = folder / f"part.{store.INDEX}"
    store.write_index(temporary, index)
    os.replace(temporary, folder / store.INDEX)
    sync_folder(folder)
    return index


def _report(listing: Listing, tasks: list[Task], results: dict[str, dict]) -> dict[str, Any]:
    """Not the time it took, nor the paths: the same source gives the same bytes."""
    report: dict[str, Any] = {
        "made_with": _versions(),
        "notes": listing.notes,
        "per_class": {},
        "converted": {},
        "refused": {},
    }
    for split in listing.splits:
        mine = [results[task.stem] for task in tasks if task.split == split]
        labels = [label for result in mine for label in result["labels"]]
        counts = np.bincount(labels, minlength=len(listing.classes))
        report["per_class"][split] = counts.tolist()
        refused = [one["reason"] for result in mine for one in result["refused"]]
        report["refused"][split] = {"count": len(refused), "first": refused[:_EXAMPLES]}
        converted = report["converted"][split] = {}
        for result in mine:
            for change, found in result["converted"].items():
                total = converted.setdefault(change, {"count": 0, "first": []})
                total["count"] += found["count"]
                total["first"] = (total["first"] + found["first"])[:_EXAMPLES]
    return report


def _duplicates(
    tasks: list[Task], results: dict[str, dict]
) -> tuple[list[dict[str, str]], list[dict[str, list[str]]]]:
    """The source files whose bytes are in two splits, and those whose bytes are under two classes."""
    digests: dict[str, list] = {}
    labels: dict[str, list[int]] = {}
    places: dict[str, list[tuple[Image, Task]]] = {}
    for task in tasks:
        digests.setdefault(task.split, []).extend(results[task.stem]["sums"])
        labels.setdefault(task.split, []).extend(label for label, _ in task.images)
        places.setdefault(task.split, []).extend((image, task) for _, image in task.images)
    found = duplicates(digests, labels)
    return (
        [{split: _shown(*places[split][i]) for split, i in pair} for pair in found.splits],
        [{"classes": [_shown(*places[split][i]) for split, i in pair]} for pair in found.classes],
    )


def _write_lines(path: pathlib.Path, records: list[dict]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _save(path: pathlib.Path, write: Callable) -> None:
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    cli.run(main)
