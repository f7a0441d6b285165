"""Shards of a store: which images go into which file, and the processes that write them."""

import contextlib
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import typing
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from alexnet_jax import files
from alexnet_jax.data.pipeline import images
from alexnet_jax.data.prepare.convert import Options, convert, digest
from alexnet_jax.data.prepare.selection import Image, Listing
from alexnet_jax.data.prepare.workers import leave_signals_to_the_parent
from alexnet_jax.data.sources import store
from alexnet_jax.data.sources.store_format import SUFFIXES
from alexnet_jax.errors import DataError, OutOfMemoryError, StorageError, one_line, printable
from alexnet_jax.specs import Range

#: Increase it when the same source gives different bytes, so that finished shards of older versions are not reused.
VERSION = 2
#: Limits of the images in a shard and of the shards of a split: few files for a large dataset, and work for several
#: processes in a small one.
LARGEST_SHARD, SMALLEST_SHARD, FEWEST_SHARDS = 4096, 128, 16
#: Maximum number of image names for each entry of the report.
EXAMPLES = 5
_PACKAGES = ("array_record", "numpy", "pillow", "simplejpeg")
_POLL_SECONDS = 0.2
# One record per chunk, because records are read one by one; no compression, because JPEG is compressed.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_Count = typing.Annotated[int, Range(0)]


class _Refused(TypedDict):
    split: str
    image: str
    reason: str


class _Converted(TypedDict):
    count: _Count
    first: list[str]


class _Result(TypedDict):
    """JSON beside a finished shard."""

    key: str
    count: _Count
    labels: list[_Count]
    size: NotRequired[_Count]
    sha256: NotRequired[str]
    sums: list[str | None]
    refused: list[_Refused]
    converted: dict[str, _Converted]


class Task(NamedTuple):
    """One shard to write.

    Attributes:
        stem: Name of its file without the suffix.
        key: SHA-256 of everything that determines its bytes.
        images: (label, image) in order.
        root: Path of the source, a prefix of image names that reports leave out.
        folder: The unfinished store.
        done: JSON file with its result, written when the shard is complete.
    """

    split: str
    stem: str
    key: str
    images: list[tuple[int, Image]]
    options: Options
    root: str
    folder: pathlib.Path
    done: pathlib.Path

    @property
    def path(self) -> pathlib.Path:
        return self.folder / f"{self.stem}{SUFFIXES[self.options.format]}"


def plan(
    listing: Listing, options: Options, root: str, folder: pathlib.Path, done: pathlib.Path
) -> list[Task]:
    """Divide all splits into shards; val and test come first, as preparing fails if one of their images is refused."""
    installed, tasks = versions(), []
    for split in sorted(listing.splits, key=lambda name: name == "train"):
        chosen = listing.splits[split]
        size = min(max(-(-len(chosen) // FEWEST_SHARDS), SMALLEST_SHARD), LARGEST_SHARD)
        for number, start in enumerate(range(0, len(chosen), size)):
            part = chosen[start : start + size]
            key = hashlib.sha256(
                repr((VERSION, images.VERSION, installed, options, listing.stamp, part)).encode()
            ).hexdigest()
            stem = f"{split}-{number:05}"
            tasks.append(Task(split, stem, key, part, options, root, folder, done / f"{stem}.json"))
    return tasks


def versions() -> dict[str, str]:
    """Versions of the installed packages that the bytes of a store depend on."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def finished(task: Task) -> dict | None:
    """The result of this shard from an earlier, interrupted command, if it is complete and intact."""
    try:
        result = files.read_json(task.done, _Result)
        if result is None or result["key"] != task.key:
            return None
        if result["count"] and files.sha256_of(task.path) != result.get("sha256"):
            return None
    except (OSError, StorageError):
        return None
    return dict(result)


def write_all(pending: list[Task], jobs: int) -> Generator[tuple[Task | None, int], None, None]:
    """Write shards; yield (task, 0) when a task is finished, and (None, n) when n more images are done.

    Uses processes, because resizing holds the GIL between its many short steps. Raises OSError and OutOfMemoryError.
    """
    if jobs == 1 or len(pending) < 2:
        for task in pending:
            write_shard(task, lambda number: None)
            yield None, len(task.images)
            yield task, 0
        return
    context = multiprocessing.get_context("spawn")
    # A counter for each shard instead of a lock, which a killed process would hold forever.
    done = context.RawArray("q", len(pending))
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        min(jobs, len(pending)), context, initializer=_start_worker, initargs=(done,)
    )
    try:
        running = {pool.submit(_work, i, task): task for i, task in enumerate(pending)}
        seen = 0
        while running:
            ended, _ = wait(running, _POLL_SECONDS, FIRST_COMPLETED)
            seen, before = sum(done), seen
            yield None, seen - before
            for future in ended:
                future.result()
                yield running.pop(future), 0
    except BrokenProcessPool:
        raise OutOfMemoryError(
            "a process of this command died, most likely killed for lack of memory; what is finished is "
            "kept: run the same command again with a lower --jobs"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - set(others):
            child.terminate()


_done: Any = None


def _start_worker(done: Any) -> None:
    global _done
    _done = done
    leave_signals_to_the_parent()


def _work(index: int, task: Task) -> None:
    def count(number: int) -> None:
        _done[index] += number

    write_shard(task, count)


def write_shard(task: Task, count: Callable[[int], None]) -> None:
    """Write the shard and then `task.done`, and call `count(1)` after each image. Raises OSError."""
    # A name that no other process uses and that does not look like a finished shard.
    part = task.path.with_name(f"part-{os.getpid()}.{task.path.name}")
    sums, labels, refused, converted = [], [], [], {}
    with _removed_on_failure(part), _writer(part, task) as write:
        for label, image in task.images:
            title = shown(image, task)
            try:
                content = image.read()
                pixels, record, changes = convert(content, task.options, title)
            except DataError as error:
                reason = printable(str(error).replace(task.root, ""))
                refused.append({"split": task.split, "image": title, "reason": reason})
                sums.append(None)
            else:
                write(record if task.options.format == "jpeg" else pixels)
                sums.append(digest(content))
                labels.append(label)
                for change in changes:
                    found = converted.setdefault(change, {"count": 0, "first": []})
                    found["count"] += 1
                    found["first"] = [*found["first"], title][:EXAMPLES]
            count(1)
    result: dict[str, Any] = {"key": task.key, "count": len(labels), "labels": labels}
    if labels:
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        result |= {"size": part.stat().st_size, "sha256": files.sha256_of(part)}
        os.replace(part, task.path)
    else:
        part.unlink()
    result |= {"sums": sums, "refused": refused, "converted": converted}
    files.write_atomically(task.done, json.dumps(result))


def shown(image: Image, task: Task) -> str:
    """The name of an image in reports: its path within the source."""
    return printable(image.title.removeprefix(task.root))


@contextlib.contextmanager
def _removed_on_failure(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _writer(path: pathlib.Path, task: Task) -> Iterator[Callable[[Any], None]]:
    """Yield `write(record)` or, for a raw store, `write(pixels)`; the file is valid only after the context ends."""
    if task.options.format == "jpeg":
        try:
            writer = store.array_record().ArrayRecordWriter(str(path), _WRITER_OPTIONS)
            yield writer.write
            writer.close()
        except RuntimeError as error:  # array_record's error for a full disk
            raise OSError(None, one_line(error)[:200], str(path)) from None
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
