"""What a folder or archive holds: the images of each class and split, found without decoding any."""

import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.pipeline.splits import SPLITS, split_of
from alexnet_jax.data.prepare import ilsvrc
from alexnet_jax.data.sources import archives, cifar10, folders, tfds
from alexnet_jax.data.sources.archives import Member
from alexnet_jax.data.sources.folders import File
from alexnet_jax.errors import DataError, listed

LAYOUTS = (
    "the official tars ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
    "ILSVRC2012_devkit_t12.tar.gz (or those of ILSVRC2010)",
    "train/CLASS/*.jpg and the same below val/ and test/; CLASS.tar or CLASS.zip instead of CLASS/",
    "train.tar or train.zip, val.tar ..., with CLASS/*.jpg inside",
    "cifar-10-binary.tar.gz",
    "a folder that tensorflow-datasets prepared (dataset_info.json)",
)


class CifarRecord(NamedTuple):
    """Image `index` of one of CIFAR-10's binary files, itself in a plain tar."""

    file: Member
    index: int

    @property
    def title(self) -> str:
        return f"{self.file.title}: image {self.index}"

    def read(self) -> np.ndarray:
        """uint8 [32 32 3]. Raises DataError."""
        start = self.file.offset + self.index * cifar10.RECORD + 1
        planes = self.file._replace(offset=start, packed=3072, size=3072).read()
        return np.frombuffer(planes, np.uint8).reshape(3, 32, 32).transpose(1, 2, 0)


Image = File | Member | CifarRecord | tfds.Example
"""Each has a `title` for people and `read()`: encoded bytes or pixels; DataError if it cannot."""


class Found(NamedTuple):
    path: pathlib.Path
    kind: str
    """What the source is, in words."""
    splits: dict[str, dict[str, list[Image]]]
    """Split -> class -> its images in the order of their names."""
    words: dict[str, str]
    """Class -> what people call it, where the source says."""
    official: str | None
    """'ILSVRC2012' or 'ILSVRC2010', for their own archives."""
    notes: list[str]
    """What was left out, in words."""
    stamp: str
    """Changes when a file does that holds many images."""
    faults: Sequence[str] = ()
    """What has to be mended first."""
    direct: bool = False
    """Whether training reads it as it is, without a store."""


class Listing(NamedTuple):
    """The chosen images, in the order of class and name, which no source can change."""

    kind: str
    splits: dict[str, list[tuple[int, Image]]]
    """Split -> (label, image)."""
    classes: tuple[str, ...]
    """Sorted; synsets or the names of folders."""
    words: tuple[str, ...]
    """What people call them; the same as `classes` where nobody knows."""
    notes: list[str]
    stamp: str


def find(source: str | os.PathLike, scratch: str | os.PathLike) -> Found:
    """The images of `source`, which has one of LAYOUTS.

    Compressed tars are unpacked into plain ones within the folder `scratch`, under names of ours.
    Raises DataError, saying what was looked for and what is there.
    """
    root = pathlib.Path(source).expanduser()
    unpacked = _Unpacked(pathlib.Path(scratch))
    if root.is_file():
        return _archive(root, unpacked)
    if not root.is_dir():
        raise DataError(f"no folder or archive {root}; known are: {'; '.join(LAYOUTS)}")
    names = sorted(os.listdir(root))
    for year, parts in _OFFICIAL.items():
        if any(name in names for name in (parts["train"], parts["val"])):
            return _official(root, year, parts, unpacked)
    for name in ("cifar-10-binary.tar.gz", "cifar-10-binary.tar"):
        if name in names:
            return _archive(root / name, unpacked)
    if folders.has_train(root):
        return _tree(root, unpacked)
    packed: dict[str, pathlib.Path] = {}
    for name in filter(archives.is_archive, names):
        if split := split_of(archives.stem(name)):
            if split in packed:
                raise DataError(f"{packed[split]} and {root / name} are both {split}; remove one")
            packed[split] = root / name
    if "train" in packed:
        return _split_archives(packed, unpacked)
    if tfds.is_prepared(root):
        return _prepared(root)
    if "cifar-10-batches-py" in names or "data_batch_1" in names:
        raise DataError(
            f"{root} holds the Python (pickled) version of CIFAR-10; get cifar-10-binary.tar.gz"
        )
    seen = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
    raise DataError(f"{root} has {seen or 'nothing'}; known are: {'; '.join(LAYOUTS)}")


def select(
    found: Found,
    *,
    subset: bool,
    classes: tuple[str, ...] = (),
    max_per_class: int | None = None,
) -> Listing:
    """The images of `classes` (none: all), at most the first `max_per_class` of each and split.

    Without `subset`, official archives must be complete and all splits must have the classes of
    'train'; with it, images of classes that 'train' lacks are left out, and noted. Raises DataError with all
    that is wrong.
    """
    names = found.splits["train"]
    faults = [*found.faults, *incomplete(found, subset)]
    faults += folders.unprintable(names) + numbered(names)
    if faults:
        raise folders.refusal(found.path, faults, layout=folders.LAYOUT if found.faults else "")
    return listing(found, classes=classes, max_per_class=max_per_class)


def listing(
    found: Found, *, classes: tuple[str, ...] = (), max_per_class: int | None = None
) -> Listing:
    """As `select`, whatever is wrong with `found`. Raises DataError where nothing is chosen."""
    names = tuple(sorted(found.splits["train"]))
    notes = list(found.notes)
    if classes:
        unknown = sorted(set(classes) - set(names))
        if unknown:
            listed = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
            raise DataError(f"{found.path}: train has no class {unknown[0]!r}; it has {listed}")
        names = tuple(sorted(set(classes)))
    splits = {}
    for split in SPLITS:
        if split not in found.splits:
            continue
        kinds = found.splits[split]
        strangers = sum(len(kinds[name]) for name in set(kinds) - set(found.splits["train"]))
        if strangers:
            notes.append(f"{strangers:,} images of {split} are of classes that train has not")
        splits[split] = [
            (label, image)
            for label, name in enumerate(names)
            for image in kinds.get(name, [])[:max_per_class]
        ]
        if not splits[split]:
            raise DataError(f"{found.path} has no images of {', '.join(names[:5])} ... in {split}")
    words = tuple(found.words.get(name, name) for name in names)
    return Listing(found.kind, splits, names, words, notes, found.stamp)


def numbered(names: Iterable[str]) -> list[str]:
    """A fault where all classes have numbers, which do not say whose numbering they are.

    The devkit's own numbers are not the places in sorted order, and '10' sorts before '2':
    mistaking one for the other costs all accuracy and no error. The ten digits are exempt.
    """
    names = list(names)
    if not names or not all(name.isdigit() for name in names) or set(names) <= set("0123456789"):
        return []
    return [
        f"the classes are numbers ({listed(sorted(names), 3)}): nothing says which classes these are, and as text "
        "10 comes before 2; rename them to synsets (n01440764) or names"
    ]


def incomplete(found: Found, subset: bool = False) -> list[str]:
    """Faults, unless the counts are the official ones and all splits have all classes, or a `subset` is meant."""
    if subset:
        return []
    faults = []
    hint = "; if this is meant, say --subset"
    if found.official:
        kinds = found.splits["train"]
        if len(kinds) != ilsvrc.NUM_CLASSES:
            faults.append(f"{found.official} train has {len(kinds):,} classes, not 1,000{hint}")
        for split, expected in ilsvrc.COUNTS[found.official].items():
            count = sum(map(len, found.splits.get(split, {}).values()))
            if count != expected and split in found.splits:
                faults.append(
                    f"{found.official} {split} has {count:,} images, not {expected:,}: download it again{hint}"
                )
    classes = {split: kinds.keys() for split, kinds in found.splits.items()}
    return faults + [fault + hint for fault in folders.mismatches(classes)]


class _Unpacked:
    """Plain tars in the place of compressed ones, which cannot be read in any order."""

    def __init__(self, folder: pathlib.Path):
        self._folder, self._count = folder, 0

    def __call__(self, path: pathlib.Path) -> str:
        if not path.name.lower().endswith(archives.GZIP_SUFFIXES):
            return str(path)
        target = self._folder / f"unpacked-{self._count}.tar"
        self._count += 1
        archives.gunzip(path, target)
        return str(target)


def _images(path: pathlib.Path, unpacked: _Unpacked, *, nested: bool = False) -> list[Member]:
    """The images of an archive by name. Raises DataError, also where there are none."""
    found = archives.members(unpacked(path), folders.SUFFIXES, nested=nested, shown=str(path))
    if not found:
        raise DataError(f"{path} has no images")
    return sorted(found, key=lambda member: member.name)


def _stamp(paths: Iterable[pathlib.Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(
            f"{path} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()


def _by_class(members: Iterable[Any], name: Callable[[Any], str]) -> dict[str, list[Image]]:
    kinds: dict[str, list[Image]] = {}
    for member in members:
        kinds.setdefault(name(member), []).append(member)
    return kinds


# The official archives

_OFFICIAL = {
    "ILSVRC2012": {
        "train": "ILSVRC2012_img_train.tar",
        "val": "ILSVRC2012_img_val.tar",
        "devkit": "ILSVRC2012_devkit_t12.tar.gz",
    },
    # Named after a program that reads them (fuel's ilsvrc2010 converter); never seen by this one.
    "ILSVRC2010": {
        "train": "ILSVRC2010_images_train.tar",
        "val": "ILSVRC2010_images_val.tar",
        "test": "ILSVRC2010_images_test.tar",
        "devkit": "ILSVRC2010_devkit-1.0.tar.gz",
    },
}


def _official(root: pathlib.Path, year: str, parts: dict[str, str], unpacked: _Unpacked) -> Found:
    """Train: a tar of SYNSET.tar. Validation and test: flat, labels by number from the devkit."""
    for part in ("train", "val", "devkit"):
        if not (root / parts[part]).is_file():
            raise DataError(f"{root} has no {parts[part]}; needed are {', '.join(parts.values())}")
    used = [root / parts[part] for part in ("train", "val", "devkit")]
    devkit = ilsvrc.read_devkit(unpacked(used[2]), year, str(used[2]))
    train = _by_class(_images(used[0], unpacked, nested=True), _synset_of_inner_tar)
    for synset, images in train.items():
        if synset not in devkit.words:
            raise DataError(f"{used[0]}: {synset}.tar is no class of the devkit {used[2]}")
        _check_synset(synset, images)
    val = _numbered(_images(used[1], unpacked), year, "val", devkit.validation)
    splits, notes = {"train": train, "val": val}, []
    truth = root / "ILSVRC2010_test_ground_truth.txt"
    if "test" in parts and (root / parts["test"]).is_file():
        if truth.is_file():
            used += [root / parts["test"], truth]
            labels = [
                ilsvrc.synset_of(number, devkit.by_id, f"{truth}: line {line}")
                for line, number in enumerate(truth.read_bytes().split(), 1)
            ]
            splits["test"] = _numbered(_images(used[-2], unpacked), year, "test", labels)
        else:
            notes.append(f"{parts['test']} was left out: there is no {truth.name}")
    if (root / "patch_images.tar").is_file():
        used.append(root / "patch_images.tar")
        notes.append(_patch(splits, _images(used[-1], unpacked)))
    return Found(root, f"{year} archives", splits, devkit.words, year, notes, _stamp(used))


def _synset_of_inner_tar(member: Member) -> str:
    inner = member.name.split("/")[0].removesuffix(".tar")
    if not ilsvrc.is_synset(inner):
        raise DataError(f"{member.title} is in no archive named by a synset, as n01440764.tar is")
    return inner


def _check_synset(synset: str, images: list[Image]) -> None:
    """Raises DataError where a file says that it belongs to another class."""
    for image in images:
        match = re.match(r"(n\d{8})_", image.title.rsplit("/", 1)[-1])
        if match and match[1] != synset:
            raise DataError(f"{image.title} says that it is of class {match[1]}, not {synset}")


def _numbered(
    members: list[Member], year: str, split: str, labels: list[str]
) -> dict[str, list[Image]]:
    """By class, from the numbers in names like ILSVRC2012_val_00000001.JPEG. Raises DataError."""

    def synset(member: Member) -> str:
        match = re.fullmatch(rf"{year}_{split}_(\d{{8}})\.\w+", member.name.rsplit("/", 1)[-1])
        if not match:
            raise DataError(f"{member.title} is not named as {year}_{split}_00000001.JPEG is")
        number = int(match[1])
        if not 1 <= number <= len(labels):
            raise DataError(
                f"{member.title}: the ground truth has the lines 1 to {len(labels):,} only"
            )
        return labels[number - 1]

    return _by_class(sorted(members, key=lambda member: member.name.rsplit("/", 1)[-1]), synset)


def _patch(splits: dict[str, dict[str, list[Image]]], members: list[Member]) -> str:
    """Puts the corrected images of ILSVRC-2010 in the place of those of the same name."""
    corrected = {member.name.rsplit("/", 1)[-1]: member for member in members}
    replaced = 0
    for kinds in splits.values():
        for images in kinds.values():
            for i, image in enumerate(images):
                patch = corrected.get(image.title.rsplit("/", 1)[-1])
                if patch is not None:
                    images[i], replaced = patch, replaced + 1
    return f"patch_images.tar: {replaced} of its {len(members)} images took the place of others"


# Folders and archives of classes


def _tree(root: pathlib.Path, unpacked: _Unpacked) -> Found:
    """train/CLASS/, val/CLASS/, test/CLASS/: folders, or archives of that name."""
    tree = folders.discover(root)
    splits: dict[str, dict[str, list[Image]]] = {}
    faults, used = list(tree.faults), []
    for split, kinds in tree.splits.items():
        splits[split] = {name: list(files) for name, files in kinds.items()}
        for name, path in tree.archives[split].items():
            used.append(path)
            try:
                splits[split][name] = list(_images(path, unpacked))
            except DataError as error:
                faults.append(str(error))
    return Found(
        root, "class folders", splits, {}, None, tree.notes, _stamp(used), faults, direct=not used
    )


def _split_archives(packed: dict[str, pathlib.Path], unpacked: _Unpacked) -> Found:
    """An archive for each split, with CLASS/*.jpg or SPLIT/CLASS/*.jpg."""
    splits = {}
    for split, path in packed.items():
        inside = _inside(path, _images(path, unpacked))
        if set(inside) - {None, split}:
            raise DataError(f"{path} has a folder {sorted(filter(None, inside))[0]}, not {split}")
        splits[split] = {k: v for kinds in inside.values() for k, v in kinds.items()}
    root = packed["train"].parent
    used = {path.name for path in packed.values()}
    others = [
        e.name
        for e in os.scandir(root)
        if e.name not in used and (e.is_dir() or archives.is_archive(e.name))
    ]
    notes = [f"left out {listed(sorted(others))}, as train is an archive"] if others else []
    return Found(
        root, "archives of class folders", splits, {}, None, notes, _stamp(packed.values())
    )


def _archive(path: pathlib.Path, unpacked: _Unpacked) -> Found:
    """One archive with train/CLASS/*.jpg ..., or CLASS/*.jpg; or CIFAR-10's own."""
    if not archives.is_archive(path.name):
        raise DataError(f"{path} is no archive ({' '.join(archives.SUFFIXES)}), nor a folder")
    if path.name.startswith("cifar-10"):
        return _cifar10(path, unpacked)
    inside = _inside(path, _images(path, unpacked))
    if None in inside and len(inside) > 1:
        strange = next(iter(inside[None].values()))[0]
        raise DataError(f"{strange.title} is in no folder train/CLASS, val/CLASS or test/CLASS")
    splits = {split or "train": kinds for split, kinds in inside.items()}
    if "train" not in splits:
        raise DataError(f"{path} has no folder train")
    return Found(path, "an archive of class folders", splits, {}, None, [], _stamp([path]))


def _inside(path: pathlib.Path, members: list[Member]) -> dict[str | None, dict[str, list[Image]]]:
    """Split (None where there is no folder of that name) -> class -> images. Raises DataError."""
    found: dict[str | None, dict[str, list[Image]]] = {}
    tops = {member.name.split("/")[0] for member in members}
    names: dict[str, str] = {}
    for member in members:
        folders_of = member.name.split("/")[:-1]
        if len(tops) == 1 and len(folders_of) > 1 and not split_of(folders_of[0]):
            folders_of = folders_of[1:]  # everything is in one folder
        split = split_of(folders_of[0]) if folders_of else None
        if split and names.setdefault(split, folders_of[0]) != folders_of.pop(0):
            raise DataError(
                f"{member.title}: {path} has another folder for {split}, {names[split]}"
            )
        if not folders_of:
            raise DataError(f"{member.title} is in no class folder")
        found.setdefault(split, {}).setdefault(folders_of[0], []).append(member)
    return found


def _cifar10(path: pathlib.Path, unpacked: _Unpacked) -> Found:
    """The binary version: 10,000 records of a label and 3,072 values in each of six files."""
    plain = unpacked(path)
    members = {m.name.rsplit("/", 1)[-1]: m for m in archives.members(plain, None, shown=str(path))}
    if "data_batch_1" in members:
        raise DataError(f"{path} is the Python (pickled) version; get cifar-10-binary.tar.gz")
    splits: dict[str, dict[str, list[Image]]] = {}
    for split, names in cifar10.FILES.items():
        kinds = splits[split] = {name: [] for name in cifar10.CLASSES}
        for name in names:
            if name not in members:
                raise DataError(f"{path} has no {name}: download it again")
            labels = cifar10.records(members[name].read(), f"{path}: {name}")[:, 0]
            for i, label in enumerate(labels):
                kinds[cifar10.CLASSES[label]].append(CifarRecord(members[name], i))
    return Found(path, "CIFAR-10's binary archive", splits, {}, None, [], _stamp([path]))


def _prepared(root: pathlib.Path) -> Found:
    """A set that tensorflow-datasets prepared."""
    prepared = tfds.listing(str(root))
    splits, notes = {}, list(prepared.notes)
    used: set[pathlib.Path] = set()
    for split, examples in prepared.splits.items():
        if all(label == -1 for label, _, _ in examples):
            notes.append(f"{split} was left out: it has no labels")
            continue
        kinds: dict[str, list[Image]] = {}
        for label, _, example in sorted(examples):
            if not 0 <= label < len(prepared.class_names):
                raise DataError(
                    f"{example.title} has the label {label}; there are "
                    f"{len(prepared.class_names)} classes"
                )
            kinds.setdefault(prepared.class_names[label], []).append(example)
            used.add(pathlib.Path(example.folder))
        splits[split] = kinds
    if "train" not in splits:
        raise DataError(f"{root}: {prepared.title} has no split train")
    files = sorted(path for folder in used for path in folder.iterdir())
    return Found(
        root,
        f"tensorflow-datasets {prepared.title}",
        splits,
        {},
        None,
        notes,
        _stamp(files),
        direct=True,
    )
