"""Find the images of each class and split in a folder or archive, without decoding any."""

import errno
import hashlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Sequence

from alexnet_jax.data.pipeline.splits import split_of
from alexnet_jax.data.prepare import ilsvrc
from alexnet_jax.data.prepare.selection import CifarRecord, Found, Image
from alexnet_jax.data.sources import archives, cifar10, forms, listing, tfds, tree
from alexnet_jax.data.sources.archives import Member
from alexnet_jax.data.sources.labels import is_synset
from alexnet_jax.data.sources.listing import Write
from alexnet_jax.errors import DataError, listed

LAYOUTS = (
    "the official tars ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
    "ILSVRC2012_devkit_t12.tar.gz (or those of ILSVRC2010)",
    "train/CLASS/*.jpg and the same below val/ and test/; CLASS.tar or CLASS.zip instead of CLASS/",
    "CLASS/*.jpg alone",
    "train.tar or train.zip, val.tar ..., with CLASS/*.jpg inside",
    "cifar-10-binary.tar.gz",
    "a folder that tensorflow-datasets prepared (dataset_info.json)",
    *forms.LAYOUTS,
)


def find(source: str | os.PathLike, scratch: str | os.PathLike) -> Found:
    """Find the images of `source`, which has one of LAYOUTS.

    Compressed tars and Parquet files are unpacked into the folder `scratch`.
    Raises DataError that names the known layouts and what is there instead.
    """
    root = pathlib.Path(source).expanduser()
    unpacked = _Unpacked(pathlib.Path(scratch))
    if root.is_file():
        return _form(root, unpacked) or _archive(root, unpacked)
    if not root.is_dir():
        raise DataError(f"no folder or archive {root}; known layouts: {'; '.join(LAYOUTS)}")
    names = sorted(os.listdir(root))
    for year, parts in _OFFICIAL.items():
        if any(name in names for name in (parts["train"], parts["val"])):
            return _official(root, year, parts, unpacked)
    for name in ("cifar-10-binary.tar.gz", "cifar-10-binary.tar"):
        if name in names:
            return _archive(root / name, unpacked)
    if found := _form(root, unpacked):
        return found
    if tree.has_train(root):
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
    raise DataError(f"{root} has {seen or 'nothing'}; known layouts: {'; '.join(LAYOUTS)}")


class _Unpacked:
    """Unpacks files that have no random access into a folder."""

    def __init__(self, folder: pathlib.Path):
        self._folder, self._count = folder, 0

    def reserve(self, paths: Sequence[pathlib.Path]) -> None:
        needed, free = (
            sum(path.stat().st_size for path in paths),
            shutil.disk_usage(self._folder).free,
        )
        if needed > free:
            text = f"unpacking takes {needed:,} bytes, and {free:,} are free"
            raise OSError(errno.ENOSPC, text, str(self._folder))

    def __call__(self, path: pathlib.Path, suffix: str, write: Write) -> str:
        target = self._folder / f"unpacked-{self._count}{suffix}"
        self._count += 1
        write(path, target, archives.MAX_TOTAL_BYTES)
        return str(target)


def _form(root: pathlib.Path, unpacked: _Unpacked) -> Found | None:
    """List a source that has one of the other forms; None for any other."""
    found = forms.find(root, unpacked)
    if found is None:
        return None
    return Found(
        found.root,
        found.kind,
        found.splits,
        dict(found.words),
        found.official,
        list(found.notes),
        _stamp(found.holders),
        found.faults,
        direct=True,
        missing=found.missing,
        layout=found.layout,
    )


def _images(path: pathlib.Path, unpacked: _Unpacked, *, nested: bool = False) -> list[Member]:
    """The images of an archive, sorted by name. Raises DataError, also if there are none."""
    plain = listing.plain(path, unpacked)
    found = archives.members(plain, tree.SUFFIXES, nested=nested, shown=str(path))
    if not found:
        raise DataError(f"{path} has no images")
    return sorted(found, key=lambda member: member.name)


def _stamp(paths: Iterable[pathlib.Path]) -> str:
    """Hash the paths, sizes and modification times of files."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(
            f"{path} {status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()


def _tree(root: pathlib.Path, unpacked: _Unpacked) -> Found:
    """Find train/CLASS/, val/CLASS/ and test/CLASS/; CLASS may be a folder or an archive."""
    found = tree.discover(root)
    splits: dict[str, dict[str, list[Image]]] = {}
    faults, used = list(found.faults), []
    for split, classes in found.splits.items():
        splits[split] = {name: list(files) for name, files in classes.items()}
        for name, path in found.archives[split].items():
            used.append(path)
            try:
                splits[split][name] = list(_images(path, unpacked))
            except DataError as error:
                faults.append(str(error))
    return Found(
        root, "class folders", splits, {}, None, found.notes, _stamp(used), faults, direct=not used
    )


def _split_archives(packed: dict[str, pathlib.Path], unpacked: _Unpacked) -> Found:
    """List one archive per split, with CLASS/*.jpg or SPLIT/CLASS/*.jpg."""
    splits = {}
    for split, path in packed.items():
        inside = _inside(path, _images(path, unpacked))
        if set(inside) - {None, split}:
            raise DataError(f"{path} has a folder {sorted(filter(None, inside))[0]}, not {split}")
        splits[split] = {k: v for classes in inside.values() for k, v in classes.items()}
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
    """List one archive with train/CLASS/*.jpg ..., or with CLASS/*.jpg, or that of CIFAR-10."""
    if not archives.is_archive(path.name):
        raise DataError(
            f"{path} is neither a folder nor an archive ({' '.join(archives.SUFFIXES)})"
        )
    if path.name.startswith("cifar-10"):
        return _cifar10(path, unpacked)
    inside = _inside(path, _images(path, unpacked))
    if None in inside and len(inside) > 1:
        other = next(iter(inside[None].values()))[0]
        raise DataError(f"{other.title} is not in a folder train/CLASS, val/CLASS or test/CLASS")
    splits = {split or "train": classes for split, classes in inside.items()}
    if "train" not in splits:
        raise DataError(f"{path} has no folder train")
    return Found(path, "an archive of class folders", splits, {}, None, [], _stamp([path]))


def _inside(path: pathlib.Path, members: list[Member]) -> dict[str | None, dict[str, list[Image]]]:
    """Group the images of an archive by split, or None where no folder names one, and class. Raises DataError."""
    found: dict[str | None, dict[str, list[Image]]] = {}
    tops = {member.name.split("/")[0] for member in members}
    names: dict[str, str] = {}
    for member in members:
        above = member.name.split("/")[:-1]
        if len(tops) == 1 and len(above) > 1 and not split_of(above[0]):
            above = above[1:]  # everything is in one folder
        split = split_of(above[0]) if above else None
        if split and names.setdefault(split, above[0]) != above.pop(0):
            raise DataError(
                f"{member.title}: {path} has another folder for {split}, {names[split]}"
            )
        if not above:
            raise DataError(f"{member.title} is not in a class folder")
        found.setdefault(split, {}).setdefault(above[0], []).append(member)
    return found


def _cifar10(path: pathlib.Path, unpacked: _Unpacked) -> Found:
    """List CIFAR-10's binary version: six files of 10,000 records, each of a label and 3,072 values."""
    plain = listing.plain(path, unpacked)
    members = {m.name.rsplit("/", 1)[-1]: m for m in archives.members(plain, None, shown=str(path))}
    if "data_batch_1" in members:
        raise DataError(f"{path} is the Python (pickled) version; get cifar-10-binary.tar.gz")
    splits: dict[str, dict[str, list[Image]]] = {}
    for split, names in cifar10.FILES.items():
        classes = splits[split] = {name: [] for name in cifar10.CLASSES}
        for name in names:
            if name not in members:
                raise DataError(f"{path} has no {name}: download it again")
            labels = cifar10.records(members[name].read(), f"{path}: {name}")[:, 0]
            for i, label in enumerate(labels):
                classes[cifar10.CLASSES[label]].append(CifarRecord(members[name], i))
    return Found(path, "CIFAR-10's binary archive", splits, {}, None, [], _stamp([path]))


def _prepared(root: pathlib.Path) -> Found:
    """List a dataset that tensorflow-datasets prepared."""
    prepared = tfds.listing(str(root))
    splits, notes = {}, list(prepared.notes)
    used: set[pathlib.Path] = set()
    for split, examples in prepared.splits.items():
        if all(label == -1 for label, _, _ in examples):
            notes.append(f"{split} was left out: it has no labels")
            continue
        classes: dict[str, list[Image]] = {}
        for label, _, example in sorted(examples):
            if not 0 <= label < len(prepared.class_names):
                raise DataError(
                    f"{example.title} has the label {label}; there are "
                    f"{len(prepared.class_names)} classes"
                )
            classes.setdefault(prepared.class_names[label], []).append(example)
            used.add(pathlib.Path(example.folder))
        splits[split] = classes
    if "train" not in splits:
        raise DataError(f"{root}: {prepared.title} has no split train")
    files = sorted(path for folder in used for path in folder.iterdir())
    kind = f"tensorflow-datasets {prepared.title}"
    return Found(root, kind, splits, {}, None, notes, _stamp(files), direct=True)


# The official archives of ImageNet

_OFFICIAL = {
    "ILSVRC2012": {
        "train": "ILSVRC2012_img_train.tar",
        "val": "ILSVRC2012_img_val.tar",
        "devkit": "ILSVRC2012_devkit_t12.tar.gz",
    },
    # File names from fuel's ilsvrc2010 converter; not tested with the archives themselves.
    "ILSVRC2010": {
        "train": "ILSVRC2010_images_train.tar",
        "val": "ILSVRC2010_images_val.tar",
        "test": "ILSVRC2010_images_test.tar",
        "devkit": "ILSVRC2010_devkit-1.0.tar.gz",
    },
}


def _official(root: pathlib.Path, year: str, parts: dict[str, str], unpacked: _Unpacked) -> Found:
    """List ImageNet's own archives: a tar of SYNSET.tar files for train; flat val and test, labeled by the devkit."""
    for part in ("train", "val", "devkit"):
        if not (root / parts[part]).is_file():
            raise DataError(f"{root} has no {parts[part]}; needed are {', '.join(parts.values())}")
    used = [root / parts[part] for part in ("train", "val", "devkit")]
    devkit = ilsvrc.read_devkit(listing.plain(used[2], unpacked), year, str(used[2]))
    train: dict[str, list[Image]] = {}
    for member in _images(used[0], unpacked, nested=True):
        train.setdefault(_synset_of_inner_tar(member), []).append(member)
    for synset, images in train.items():
        if synset not in devkit.words:
            raise DataError(f"{used[0]}: {synset}.tar is not a class of the devkit {used[2]}")
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
    if not is_synset(inner):
        raise DataError(
            f"{member.title} is not in an archive named after a synset, such as n01440764.tar"
        )
    return inner


def _check_synset(synset: str, images: list[Image]) -> None:
    """Raise DataError if the name of an image has another synset."""
    for image in images:
        match = re.match(r"(n\d{8})_", image.title.rsplit("/", 1)[-1])
        if match and match[1] != synset:
            raise DataError(f"{image.title} is named as an image of class {match[1]}, not {synset}")


def _numbered(
    members: list[Member], year: str, split: str, labels: list[str]
) -> dict[str, list[Image]]:
    """Group images by class, from the numbers in names like ILSVRC2012_val_00000001.JPEG. Raises DataError."""
    classes: dict[str, list[Image]] = {}
    for member in sorted(members, key=lambda member: member.name.rsplit("/", 1)[-1]):
        match = re.fullmatch(rf"{year}_{split}_(\d{{8}})\.\w+", member.name.rsplit("/", 1)[-1])
        if not match:
            raise DataError(f"{member.title} is not named like {year}_{split}_00000001.JPEG")
        number = int(match[1])
        if not 1 <= number <= len(labels):
            raise DataError(
                f"{member.title}: the ground truth has the lines 1 to {len(labels):,} only"
            )
        classes.setdefault(labels[number - 1], []).append(member)
    return classes


def _patch(splits: dict[str, dict[str, list[Image]]], members: list[Member]) -> str:
    """Replace images of ILSVRC-2010 by the corrected ones of the same name, and return a note."""
    corrected = {member.name.rsplit("/", 1)[-1]: member for member in members}
    replaced = 0
    for classes in splits.values():
        for images in classes.values():
            for i, image in enumerate(images):
                patch = corrected.get(image.title.rsplit("/", 1)[-1])
                if patch is not None:
                    images[i], replaced = patch, replaced + 1
    return f"patch_images.tar: {replaced} of its {len(members)} images replaced others of the same name"
