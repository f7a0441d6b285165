"""Check data before training, and list what to correct.

alexnet doctor STORE_OR_SOURCE [--subset] [--sheet FILE.png] [--jobs N]

The argument is a prepared store, or any input of `alexnet prepare`. Checks every image and checksum, the counts, the
order of the labels, colors and duplicate files. --sheet draws a contact sheet to verify the labels by eye: for each
class (at most 100) its number and name, with one image of train and one of val. Each line begins with FIX (training or
prepare would reject it), NOTE (accepted or left out) or ok.
Exit code: 0 if there is nothing to fix, otherwise 3.
"""

import contextlib
import multiprocessing
import pathlib
import tempfile
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from alexnet_jax import cli, files
from alexnet_jax.data.pipeline import images, statistics
from alexnet_jax.data.pipeline.image_files import ImageFiles
from alexnet_jax.data.pipeline.splits import TWICE, Split, duplicates
from alexnet_jax.data.prepare import checks, discovery, selection
from alexnet_jax.data.prepare.checks import Contents, Finding, as_note
from alexnet_jax.data.prepare.convert import Options, convert, digest
from alexnet_jax.data.prepare.selection import Found, Image, Listing
from alexnet_jax.data.prepare.sheet import draw_sheet
from alexnet_jax.data.prepare.workers import leave_signals_to_the_parent, progress_bar
from alexnet_jax.data.sources import store, store_format, tree
from alexnet_jax.errors import ConfigError, DataError, StorageError

#: Number of images from which the colors of a source are estimated; a store has the statistics of all its images.
SAMPLE = 500
#: At most this many faults of one kind are listed.
_LISTED = 20
_CHUNK = 64
#: Size at which images are shown and measured, and a smaller one for images that are only checked, which is faster.
_SIZE, _SMALL = 256, 64

#: Split -> SHA-256 of each image; None for an image that cannot be used.
Digests = dict[str, list[str | None]]


def main(arguments: list[str]) -> int:
    """Run `alexnet doctor` and return the exit code. Raises DataError if there is something to correct."""
    parser = cli.parser(__doc__ or "")
    parser.add_argument("path", metavar="STORE_OR_SOURCE")
    parser.add_argument("--subset", action="store_true",
                        help="allow fewer classes or images than in the official dataset")  # fmt: skip
    parser.add_argument("--sheet", metavar="FILE.png",
                        help="draw a contact sheet; without it, nothing is written")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=cli.environment.cores(), metavar="N",
                        help="processes or threads; default: the number of cores")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs} is not 1 or more")
    path = pathlib.Path(options.path).expanduser()
    sheet = pathlib.Path(options.sheet).expanduser() if options.sheet else None
    faults = 0
    for finding in examine(path, subset=options.subset, sheet=sheet, jobs=options.jobs):
        print(finding, flush=True)
        faults += finding.is_fault
    if faults:
        things = "1 thing" if faults == 1 else f"{faults} things"
        raise DataError(f"{path}: {things} to fix, in the lines above that begin with FIX")
    return 0


def examine(
    path: pathlib.Path, *, subset: bool, sheet: pathlib.Path | None, jobs: int
) -> Iterator[Finding]:
    """Yield findings about the data at `path`, and draw the contact sheet `sheet`.

    Raises:
        DataError: There is no data at `path`.
        StorageError: A file cannot be written.
    """
    if store_format.is_store(path):
        index = store_format.read_index(path)
        broken = False
        for finding in _files(path, index):
            broken |= finding.is_fault
            yield finding
        if broken:
            return  # the checks below would report the same damage again
        contents = _of_store(path, index, subset, jobs)
        yield from _records(contents)
        yield from _report(index)
        yield from _about(contents, sheet)
        return
    with _scratch() as scratch:
        try:
            found = discovery.find(path, scratch)
        except OSError as error:
            raise StorageError(
                f"cannot unpack into {scratch}: {error.strerror}; set ALEXNET_JAX_CACHE=FOLDER to use another folder"
            ) from None
        yield Finding(False, f"{path} contains {found.kind}")
        names = found.splits["train"]
        for fault in (
            *found.faults,
            *tree.unprintable(names),
            *selection.incomplete(found, subset),
        ):
            yield Finding(True, fault)
        for fault in selection.numbered(names):
            # Training accepts numbers as names of class folders; prepare does not.
            yield (
                as_note(f"{fault}; prepare refuses them") if found.direct else Finding(True, fault)
            )
        for text in found.notes:
            yield as_note(text)
        splits = {
            split: by_class
            for split, by_class in found.splits.items()
            if any(map(by_class.get, names))
        }
        if "train" not in splits:
            return
        listing = selection.listing(found._replace(splits=splits, notes=[]))
        for text in listing.notes:
            yield as_note(text)
        digests = yield from _unreadable(listing, found.direct, jobs)
        yield from _duplicates(listing, digests)
        contents = _of_source(listing, found, subset, digests, jobs)
        if contents is not None:
            yield from _about(contents, sheet)


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """Make a temporary folder for unpacked archives, in the cache folder if possible, since /tmp may be in memory."""
    parent: pathlib.Path | None = files.cache_folder()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".doctor-", dir=parent)
    except OSError:
        folder = tempfile.TemporaryDirectory(prefix=".doctor-")
    with folder as name:
        yield name


def _files(folder: pathlib.Path, index: store_format.Index) -> Iterator[Finding]:
    """Compare the files of a store with their SHA-256 sums."""
    damaged, total = [], 0
    for name, size, fault in store_format.damaged_files(folder, index):
        total += size
        if fault:
            damaged.append(name)
            yield Finding(
                True, f"{folder / name}: {fault}; copy it again, or prepare the store again"
            )
    if not damaged:
        yield Finding(False, f"{len(index.files)} files, {total:,} bytes: all SHA-256 sums match")


def _of_store(folder: pathlib.Path, index: store_format.Index, subset: bool, jobs: int) -> Contents:
    splits = {}
    for name in index.splits:
        labels = store_format.read_labels(folder, index, name)
        images = store.images(folder, index, name, index.size, jobs)
        splits[name] = Split(images, labels)
    request = index.request
    is_subset = any(request.get(key) for key in ("subset", "classes", "max_per_class"))
    return Contents(
        index.classes,
        index.words,
        splits,
        request.get("official"),
        subset or is_subset,
        store_format.read_statistics(folder, index.size),
    )


def _records(contents: Contents) -> Iterator[Finding]:
    """Decode every image of a store."""
    for name, split in contents.splits.items():
        bad, count = [], len(split.labels)
        with progress_bar(name, count) as advance:
            for start in range(0, count, _CHUNK):
                chunk = np.arange(start, min(start + _CHUNK, count))
                try:
                    split.images[chunk]
                except DataError:
                    for i in chunk:
                        try:
                            split.images[np.array([i])]
                        except DataError as error:
                            bad.append(str(error))
                advance(len(chunk))
        yield from (Finding(True, text) for text in bad[:_LISTED])
        if not bad:
            yield Finding(False, f"{name}: all {len(split.labels):,} images can be read")


def _report(index: store_format.Index) -> Iterator[Finding]:
    """Yield what the report of `prepare` lists as left out or duplicated."""
    for name, refused in index.report.get("refused", {}).items():
        if refused["count"]:
            yield as_note(
                f"{name}: {refused['count']:,} images were refused, see {store_format.REFUSED}"
            )
    for text in index.report.get("notes", []):
        yield as_note(text)
    for key, text in TWICE.items():
        if key not in index.report:
            uncounted = text.partition(",")[0].replace(" are", "")
            yield as_note(f"an older version prepared this store and did not count the {uncounted}")
        elif found := index.report[key]["count"]:
            yield as_note(f"{found:,} {text} (see {store_format.DUPLICATES})")


def _unreadable(listing: Listing, direct: bool, jobs: int) -> Generator[Finding, None, Digests]:
    """Decode every image of a source; yield findings and return the digests."""
    digests: Digests = {}
    for name, chosen in listing.splits.items():
        parts = [chosen[i : i + _CHUNK] for i in range(0, len(chosen), _CHUNK)]
        bad, digests[name] = [], []
        with contextlib.ExitStack() as stack:
            mapped = map
            if jobs > 1 and len(parts) > 1:
                pool = ProcessPoolExecutor(
                    min(jobs, len(parts)),
                    multiprocessing.get_context("spawn"),
                    initializer=leave_signals_to_the_parent,
                )
                mapped = stack.enter_context(pool).map
            advance = stack.enter_context(progress_bar(name, len(chosen)))
            for part, found in zip(parts, mapped(partial(_check, direct), parts), strict=True):
                bad += [reason for _, reason in found if reason]
                digests[name] += [digest for digest, _ in found]
                advance(len(part))
        yield from (Finding(True, reason) for reason in bad[:_LISTED])
        if len(bad) > _LISTED:
            yield Finding(True, f"... and {len(bad) - _LISTED:,} more in {name}")
        if bad:
            yield as_note(f"{name}: {len(bad):,} of {len(chosen):,} images cannot be read")
        else:
            yield Finding(False, f"{name}: all {len(chosen):,} images can be read")
    return digests


def _check(direct: bool, part: list[tuple[int, Image]]) -> list[tuple[str | None, str | None]]:
    """Return (digest, None) for each usable image, or (None, the reason why it is rejected).

    Args:
        direct: Whether training reads the source directly; otherwise images are checked as by `prepare`.
    """
    found = []
    for _, image in part:
        try:
            content = image.read()
            if direct:
                images.decode(content, _SMALL, name=image.title)
            else:
                convert(content, Options("raw", _SMALL, 95), image.title)
            found.append((digest(content), None))
        except DataError as error:
            found.append((None, str(error)))
    return found


def _duplicates(listing: Listing, digests: Digests) -> Iterator[Finding]:
    labels = {name: [label for label, _ in chosen] for name, chosen in listing.splits.items()}
    found = duplicates(digests, labels)
    yield from map(as_note, found.notes(lambda name, i: listing.splits[name][i][1].title))


def _of_source(
    listing: Listing,
    found: Found,
    subset: bool,
    digests: Digests,
    jobs: int,
) -> Contents | None:
    """Collect the images that can be read; return None if 'train' has none."""
    splits = {}
    for name, chosen in listing.splits.items():
        usable = [image for image, digest in zip(chosen, digests[name], strict=True) if digest]
        if not usable and name == "train":
            return None
        if not usable:
            continue

        def read(i: int, usable: Any = usable) -> tuple[str, bytes | np.ndarray]:
            image = usable[i][1]
            return image.title, image.read()

        opened = ImageFiles(read, len(usable), _SIZE, threads=jobs, identity=None)
        splits[name] = Split(opened, np.array([label for label, _ in usable], np.int32))
    train = splits["train"]
    count = len(train.labels)
    chosen = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.intp))
    known = statistics.compute(Split(train.images[chosen], train.labels[chosen]))
    return Contents(listing.classes, listing.words, splits, found.official, subset, known)


def _about(contents: Contents, sheet: pathlib.Path | None) -> Iterator[Finding]:
    yield from checks.counts(contents)
    yield from checks.order(contents)
    yield from checks.colors(contents)
    if sheet is None:
        return
    draw_sheet(contents, sheet)
    yield Finding(
        False,
        f"{sheet}: check by eye that each image matches its class name, in train and in val",
    )


if __name__ == "__main__":
    cli.run(main)
