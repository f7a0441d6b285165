"""Examine data before it is trained on, and say in words what to mend.

alexnet doctor STORE_OR_SOURCE [--subset] [--sheet FILE.png] [--jobs N]

A prepared store, or whatever alexnet_jax.data.prepare.command reads. Looks at every image and sum, at counts,
label order, colors, and files that are there twice. --sheet draws a contact sheet: of each class (at most
100) an image of train and one of val, with number and name, so that a person sees whether the labels are right.
Lines begin with MEND (training, or prepare where the data needs it, refuses this), NOTE (taken, or left out,
as the line says) or ok. Exit code 0: nothing to mend. 3: something is.
"""

import contextlib
import hashlib
import multiprocessing
import os
import pathlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax import cli
from alexnet_jax.data.pipeline import cache, images, statistics
from alexnet_jax.data.pipeline.image_files import ImageFiles
from alexnet_jax.data.pipeline.splits import TWICE, Split, duplicates
from alexnet_jax.data.pipeline.statistics import Statistics
from alexnet_jax.data.prepare import command as prepare
from alexnet_jax.data.prepare import ilsvrc, layouts
from alexnet_jax.data.sources import folders, store
from alexnet_jax.errors import ConfigError, DataError, StorageError, listed, printable

SAMPLE = 500
"""Images that the colors of a source are estimated from; a store knows those of all."""
TOLERANCE = 1.5
"""Of the standard deviations of colors; 300 photographs, one a class, are up to 1.26 apart."""
LARGEST_SHEET = 100
"""Classes on the contact sheet."""
_THUMB, _TEXT, _COLUMNS = 96, 16, 10
_LISTED = 20
_CHUNK = 64
_SIZE, _SMALL = 256, 64
"""Images are shown and measured in the one, and only decoded in the other, which is quicker."""


class Contents(NamedTuple):
    classes: tuple[str, ...]
    words: tuple[str, ...]
    """What people call the classes."""
    splits: dict[str, Split]
    official: str | None
    """'ILSVRC2012' or 'ILSVRC2010' where the source says so."""
    subset: bool
    """Whether fewer classes or images than the official ones are meant."""
    statistics: Statistics


class Finding(NamedTuple):
    mend: bool
    text: str
    note: bool = False
    """Nothing to mend, but to be known."""

    def __str__(self) -> str:
        return f"{'MEND' if self.mend else 'NOTE' if self.note else 'ok  '}  {printable(self.text)}"


def _note(text: str) -> Finding:
    return Finding(False, text, note=True)


def main(arguments: list[str]) -> int:
    parser = cli.parser(__doc__ or "")
    parser.add_argument("path", metavar="STORE_OR_SOURCE")
    parser.add_argument("--subset", action="store_true",
                        help="fewer classes or images than the official ones are meant")  # fmt: skip
    parser.add_argument("--sheet", metavar="FILE.png",
                        help="draw a contact sheet; without it, nothing is written")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
                        help="processes or threads; default: the number of cores")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs} is not 1 or more")
    path = pathlib.Path(options.path).expanduser()
    sheet = pathlib.Path(options.sheet).expanduser() if options.sheet else None
    faults = 0
    for finding in examine(path, subset=options.subset, sheet=sheet, jobs=options.jobs):
        print(finding, flush=True)
        faults += finding.mend
    if faults:
        things = "1 thing" if faults == 1 else f"{faults} things"
        raise DataError(f"{path}: {things} to mend, in the lines above that begin with MEND")
    return 0


def examine(
    path: pathlib.Path, *, subset: bool, sheet: pathlib.Path | None, jobs: int
) -> Iterator[Finding]:
    """What is right and what is wrong with the data at `path`; draws the contact sheet `sheet`.

    Raises DataError where there is nothing to examine, StorageError where something cannot be written.
    """
    if store.is_store(path):
        index = store.read_index(path)
        broken = False
        for finding in _files(path, index):
            broken |= finding.mend
            yield finding
        if broken:
            return  # what follows would only say so again
        contents = _of_store(path, index, subset, jobs)
        yield from _records(contents)
        yield from _report(index)
        yield from _about(contents, sheet)
        return
    with _scratch() as scratch:
        try:
            found = layouts.find(path, scratch)
        except OSError as error:
            raise StorageError(
                f"cannot unpack into {scratch}: {error.strerror}; ALEXNET_JAX_CACHE=FOLDER names another place"
            ) from None
        yield Finding(False, f"{path} holds {found.kind}")
        names = found.splits["train"]
        for fault in (
            *found.faults,
            *folders.unprintable(names),
            *layouts.incomplete(found, subset),
        ):
            yield Finding(True, fault)
        for fault in layouts.numbered(names):
            # Training takes numbers in folders as names; prepare does not.
            yield _note(f"{fault}; prepare refuses them") if found.direct else Finding(True, fault)
        for note in found.notes:
            yield _note(note)
        splits = {name: kinds for name, kinds in found.splits.items() if any(map(kinds.get, names))}
        if "train" not in splits:
            return
        listing = layouts.listing(found._replace(splits=splits, notes=[]))
        for note in listing.notes:
            yield _note(note)
        digests = yield from _unreadable(listing, found.direct, jobs)
        yield from _duplicates(listing, digests)
        contents = _of_source(listing, found, subset, digests, jobs)
        if contents is not None:
            yield from _about(contents, sheet)


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """A folder for compressed archives: in the cache folder, as /tmp may be memory, or in /tmp."""
    parent: pathlib.Path | None = cache.folder()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".doctor-", dir=parent)
    except OSError:
        folder = tempfile.TemporaryDirectory(prefix=".doctor-")
    with folder as name:
        yield name


def _files(folder: pathlib.Path, index: store.Index) -> Iterator[Finding]:
    """The sums of all files of a store."""
    damaged, total = [], 0
    for name, size, fault in store.damaged_files(folder, index):
        total += size
        if fault:
            damaged.append(name)
            yield Finding(
                True, f"{folder / name}: {fault}; copy it again, or prepare the store again"
            )
    if not damaged:
        yield Finding(False, f"{len(index.files)} files, {total:,} bytes: all SHA-256 sums fit")


def _of_store(folder: pathlib.Path, index: store.Index, subset: bool, jobs: int) -> Contents:
    splits = {}
    for name, shards in index.splits.items():
        labels = store.read_labels(folder, index, name, sum(shard.count for shard in shards))
        images = store.images(folder, index, name, index.size, jobs)
        splits[name] = Split(images, labels)
    asked = index.request
    partial = bool(asked.get("subset") or asked.get("classes") or asked.get("max_per_class"))
    return Contents(
        index.classes,
        index.words,
        splits,
        asked.get("official"),
        subset or partial,
        store.read_statistics(folder, index.size),
    )


def _records(contents: Contents) -> Iterator[Finding]:
    """Decodes every image of a store."""
    for name, split in contents.splits.items():
        bad, count = [], len(split.labels)
        with prepare.progress_bar(name, count) as advance:
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


def _report(index: store.Index) -> Iterator[Finding]:
    """What prepare found that a person should know."""
    for name, refused in index.report.get("refused", {}).items():
        if refused["count"]:
            yield _note(f"{name}: {refused['count']:,} images were refused, see {store.REFUSED}")
    for note in index.report.get("notes", []):
        yield _note(note)
    for key, text in TWICE.items():
        if key not in index.report:
            uncounted = text.partition(",")[0].replace(" are", "")
            yield _note(f"an older version prepared this store and did not count the {uncounted}")
        elif found := index.report[key]["count"]:
            yield _note(f"{found:,} {text} (see {prepare.DUPLICATES})")


def _unreadable(listing: layouts.Listing, direct: bool, jobs: int):
    """Decodes every image of a source; yields findings, returns the digests of all, None for the unusable."""
    digests: dict[str, list[str | None]] = {}
    for name, chosen in listing.splits.items():
        parts = [chosen[i : i + _CHUNK] for i in range(0, len(chosen), _CHUNK)]
        bad, digests[name] = [], []
        with contextlib.ExitStack() as stack:
            each = map
            if jobs > 1 and len(parts) > 1:
                pool = ProcessPoolExecutor(
                    min(jobs, len(parts)),
                    multiprocessing.get_context("spawn"),
                    initializer=prepare.leave_signals_to_the_parent,
                )
                each = stack.enter_context(pool).map
            advance = stack.enter_context(prepare.progress_bar(name, len(chosen)))
            for part, found in zip(parts, each(partial(_looked_at, direct), parts), strict=True):
                bad += [reason for _, reason in found if reason]
                digests[name] += [digest for digest, _ in found]
                advance(len(part))
        yield from (Finding(True, reason) for reason in bad[:_LISTED])
        if len(bad) > _LISTED:
            yield Finding(True, f"... and {len(bad) - _LISTED:,} more of {name}")
        if bad:
            yield _note(f"{name}: {len(bad):,} of {len(chosen):,} images cannot be read")
        else:
            yield Finding(False, f"{name}: all {len(chosen):,} images can be read")
    return digests


def _looked_at(
    direct: bool, part: list[tuple[int, layouts.Image]]
) -> list[tuple[str | None, str | None]]:
    """(digest, None), or (None, the reason) of an image that training, or else prepare, would refuse."""
    found = []
    for _, image in part:
        try:
            content = image.read()
            if direct:
                images.decode(content, _SMALL, name=image.title)
            else:
                prepare.convert(content, prepare.Options("raw", _SMALL, 95), image.title)
            encoded = content if isinstance(content, bytes) else content.tobytes()
            found.append((hashlib.sha256(encoded).hexdigest(), None))
        except DataError as error:
            found.append((None, str(error)))
    return found


def _duplicates(
    listing: layouts.Listing, digests: dict[str, list[str | None]]
) -> Iterator[Finding]:
    labels = {name: [label for label, _ in chosen] for name, chosen in listing.splits.items()}
    found = duplicates(digests, labels)
    yield from map(_note, found.notes(lambda name, i: listing.splits[name][i][1].title))


def _of_source(
    listing: layouts.Listing,
    found: layouts.Found,
    subset: bool,
    digests: dict[str, list[str | None]],
    jobs: int,
) -> Contents | None:
    """What can be read; None where that is nothing of 'train'."""
    splits = {}
    for name, chosen in listing.splits.items():
        usable = [one for one, digest in zip(chosen, digests[name], strict=True) if digest]
        if not usable and name == "train":
            return None
        if not usable:
            continue

        def read(i: int, usable: Any = usable):
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
    yield from _counts(contents)
    yield from _order(contents)
    yield from _colors(contents)
    if sheet is None:
        return
    draw_sheet(contents, sheet)
    yield Finding(
        False,
        f"{sheet}: look at it: is each picture what its name says, in train and in val alike?",
    )


def _counts(contents: Contents) -> Iterator[Finding]:
    for name, split in contents.splits.items():
        counts = np.bincount(split.labels, minlength=len(contents.classes))
        empty = [contents.classes[i] for i in np.flatnonzero(counts == 0)]
        text = f"{name}: {len(split.labels):,} images, {counts.min():,} to {counts.max():,} a class"
        if empty:
            text += f"; none of {len(empty):,} classes: {listed(empty)}"
        # What training does: it refuses a class without training images, and warns of others.
        yield Finding(bool(empty) and name == "train", text, note=bool(empty))
    official = _official(contents)
    if official is None:
        yield Finding(
            False, f"{len(contents.classes):,} classes; not an ILSVRC, whose counts are known"
        )
        return
    expected = {"classes": ilsvrc.NUM_CLASSES, **ilsvrc.COUNTS[official]}
    found = {name: len(split.labels) for name, split in contents.splits.items()}
    found["classes"] = len(contents.classes)
    fewer = [
        f"{found[name]:,} of {count:,} {name if name == 'classes' else name + ' images'}"
        for name, count in expected.items()
        if name in found and found[name] != count
    ]
    if not fewer:
        yield Finding(False, f"the counts of {official}, exactly")
    elif contents.subset:
        yield Finding(
            False,
            f"a subset of {official} ({', '.join(fewer)}): its errors compare with no published one",
        )
    else:
        yield Finding(
            True,
            f"{', '.join(fewer)} of {official}: complete the data, or say --subset if this is meant",
        )


def _official(contents: Contents) -> str | None:
    """Which ILSVRC this is; folders of synsets are taken for ILSVRC-2012."""
    if contents.official is None and all(map(ilsvrc.is_synset, contents.classes)):
        return "ILSVRC2012"
    return contents.official


def _order(contents: Contents) -> Iterator[Finding]:
    """Whether label i is the i-th synset in sorted order, as in all published weights."""
    classes, words = contents.classes, contents.words
    if list(classes) != sorted(classes):
        yield Finding(True, "the classes are not in sorted order: prepare the store again")
    if _official(contents) != "ILSVRC2012":
        return
    for i, (synset, word) in ilsvrc.KNOWN_CLASSES.items():
        if len(classes) == ilsvrc.NUM_CLASSES and classes[i] != synset:
            yield Finding(
                True,
                f"class {i} is {classes[i]} and should be {synset} ({word}): these are not the "
                "1,000 classes of ILSVRC-2012; get the missing ones, take out the others",
            )
            return
        if synset in classes:
            place = classes.index(synset)
            if words[place] != synset and word.split()[-1] not in words[place].lower():
                yield Finding(
                    True,
                    f"class {place}, {synset}, is called {words[place]!r} and should be {word!r}: "
                    "the names are of another order; take meta.mat of the devkit of 2012",
                )
                return
    first = f"class 0 is {classes[0]}" + (f", {words[0]}" if words[0] != classes[0] else "")
    if classes[0] == ilsvrc.KNOWN_CLASSES[0][0] and words[0] == classes[0]:
        first += f", {ilsvrc.KNOWN_CLASSES[0][1]}"
    yield Finding(False, f"labels count by sorted synsets; {first}")


def _colors(contents: Contents) -> Iterator[Finding]:
    found = contents.statistics
    shown = ", ".join(f"{std:.1f}" for std in found.stds)
    mean = ", ".join(f"{value:.1f}" for value in found.channel_mean)
    text = f"color: standard deviations {shown}, mean {mean} (RGB, of 255)"
    if _official(contents) is None:
        yield Finding(False, text)
        return
    published = ", ".join(f"{std:.1f}" for std in ilsvrc.STDS)
    text += f"; ILSVRC-2012 had {published} in 2012"
    ratios = found.stds / np.array(ilsvrc.STDS)
    if ratios.max() > TOLERANCE or ratios.min() < 1 / TOLERANCE:
        yield Finding(
            True,
            f"{text}: too different for photographs of ImageNet; were they changed, or is this "
            "another set?",
        )
    elif found.channel_mean[0] < found.channel_mean[2]:
        yield Finding(True, f"{text}: more blue than red; were the channels swapped (BGR)?")
    else:
        yield Finding(False, text)


def draw_sheet(contents: Contents, path: pathlib.Path) -> None:
    """Of up to LARGEST_SHEET classes the first image of train and of val or test, and the name.

    Raises StorageError.
    """
    from PIL import Image, ImageDraw, ImageFont

    count = len(contents.classes)
    chosen = np.unique(np.linspace(0, count - 1, min(count, LARGEST_SHEET)).astype(int)).tolist()
    shown = [name for name in ("train", "val", "test") if name in contents.splits][:2]
    columns = min(_COLUMNS // len(shown), len(chosen))
    rows = -(-len(chosen) // columns)
    width, height = _THUMB * len(shown) + 8, _THUMB + _TEXT + 4
    sheet = Image.new("RGB", (columns * width, rows * height + _TEXT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    draw.text((2, 1), f"{' | '.join(shown)}, {len(chosen)} of {count} classes", "black", font)
    firsts = {
        name: dict(zip(*np.unique(contents.splits[name].labels, return_index=True), strict=True))
        for name in shown
    }
    for place, label in enumerate(chosen):
        left, top = place % columns * width, place // columns * height + _TEXT
        for i, name in enumerate(shown):
            if label in firsts[name]:
                first = firsts[name][label]
                pixels = contents.splits[name].images[np.array([first])][0]
                thumb = Image.fromarray(pixels).resize((_THUMB, _THUMB))
                sheet.paste(thumb, (left + i * _THUMB, top))
        word = contents.words[label].split(",")[0]
        text = f"{label} {word}"
        while len(text) > 1 and draw.textlength(text, font) > width - 4:
            text = text[:-1]
        draw.text((left + 1, top + _THUMB + 1), text, "black", font)
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}; say --sheet FILE.png") from None


if __name__ == "__main__":
    cli.run(main)
