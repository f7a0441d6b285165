"""Odd trees of class folders: training, prepare and doctor see the same images, and say what they leave out."""

import errno
import io
import json
import os
import stat
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import config
from alexnet_jax.analysis import pictures
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import image_files, splits
from alexnet_jax.data.prepare import command as prepare
from alexnet_jax.data.prepare import discovery, doctor, selection
from alexnet_jax.errors import ConfigError, DataError, listed, printable
from tests.data import imagenet_tars


def image(name: str, kind="PNG", size=9) -> bytes:
    """Other pixels for another name."""
    pixels = np.random.default_rng(zlib.crc32(os.fsencode(name))).integers(0, 256, (size, size, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind)
    return file.getvalue()


class Link(str):
    """A link to this place, relative to the folder of the tree."""


PLAIN = [f"{split}/{kind}/{i}.png" for split in ("train", "val") for kind in "ab" for i in (0, 1)]


def build(root: Path, changes: dict) -> Path:
    """PLAIN with `changes`: name -> bytes, a Link, a kind of file, "" for an image, or None for nothing."""
    files = dict.fromkeys(PLAIN, "") | changes
    for name, content in files.items():
        path = root / name
        if content is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            path.symlink_to(root / content)
        elif content == "fifo":
            os.mkfifo(path)
        elif content == "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        elif content == "folder":
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(content if isinstance(content, bytes) else image(name))
    return root


def without(*prefixes: str) -> dict:
    return {name: None for name in PLAIN if name.startswith(prefixes)}


def trained(root, data_spec, **changes):
    spec = data_spec("folder", root, **changes)
    dataset = sources.open_dataset(spec, 0)
    sources.check(dataset, spec)
    return dataset


def counts(dataset) -> dict[str, list[int]]:
    number = len(dataset.class_names)
    return {
        name: np.bincount(split.labels, minlength=number).tolist()
        for name, split in dataset.splits.items()
    }


def examined(root, *, subset=False) -> tuple[str, str]:
    """(lines with FIX, the others) of the doctor."""
    lines = [str(one) for one in doctor.examine(root, subset=subset, sheet=None, jobs=1)]
    to_fix = [line for line in lines if line.startswith("FIX")]
    return "\n".join(to_fix), "\n".join(line for line in lines if line not in to_fix)


SAME = {"train": [2, 2], "val": [2, 2]}
MORE = {"train": [3, 2], "val": [2, 2]}
FIVE = {f"out/{i}.png": "" for i in range(5)}
LONG = "n" * 200
# What is odd: (changes of the tree, images of each class or None where it is refused, what is said of it)
TREES: dict[str, tuple[dict, dict | None, list[str]]] = {
    "plain": ({}, SAME, []),
    "linked subfolder": (
        FIVE | {"train/a/more": Link("out")},
        {"train": [7, 2], "val": [2, 2]},
        ["folders that are not splits: 1 (out)"],
    ),
    "linked image": ({"train/a/x.png": Link("out/0.png"), "out/0.png": ""}, MORE, ["not splits: 1 (out)"]),
    "linked class folder": (
        FIVE | without("train/b") | {"train/b": Link("out")},
        {"train": [2, 5], "val": [2, 2]},
        ["not splits: 1 (out)"],
    ),
    "linked split": (without("val") | {"val": Link("held"), "held/a/0.png": "", "held/b/0.png": ""},
                     {"train": [2, 2], "val": [1, 1]}, ["not splits: 1 (held)"]),
    "link to a link": ({"train/a/x": Link("l"), "l": Link("out"), "out/0.png": ""}, MORE, ["not splits: 2 (l, out)"]),
    "link to the folder that it is in": ({"train/a/self": Link("train/a")}, SAME, ["read already: 1 (train/a/self)"]),
    "link to the whole tree": ({"train/a/up/top": Link(".")}, SAME, ["read already: 1 (train/a/up/top)"]),
    "two links to each other's folders": (
        {"train/a/p/q": Link("train/a/r"), "train/a/r/p": Link("train/a/p"), "train/a/r/0.png": ""},
        MORE,
        ["read already: 2"],
    ),
    "two links to one folder": (
        {"train/a/p": Link("out"), "train/a/q": Link("out"), "out/0.png": ""}, MORE, ["read already: 1 (train/a/q)"],
    ),
    "link beside what it leads to": (
        {"train/a/a": Link("train/a/z"), "train/a/z/0.png": ""}, MORE, ["read already: 1 (train/a/a)"],
    ),
    "link to itself": ({"train/a/x": Link("train/a/x")}, None, ["dangling links: 1"]),
    "dangling class folder": ({"train/c": Link("gone")}, None, ["dangling links: 1", "train/c"]),
    "dangling split": (without("val") | {"val": Link("gone")}, None, ["dangling links: 1", "/val"]),
    "dangling train": (without("train") | {"train": Link("gone")}, None, ["dangling links: 1", "/train"]),
    "dangling subfolder": ({"train/a/more": Link("gone")}, None, ["dangling links: 1", "train/a/more"]),
    "dangling image": ({"train/a/x.png": Link("gone.png")}, None, ["train/a/x.png: No such file"]),
    "train as a file": (without("train") | {"train": b"x"}, None, ["files in the place of folders: 1"]),
    "val as a file": (without("val") | {"val": b"x"}, None, ["files in the place of folders: 1"]),
    "valid": (without("val") | {"valid/a/0.png": "", "valid/b/0.png": ""}, {"train": [2, 2], "val": [1, 1]}, []),
    "validation": (
        without("val") | {"validation/a/0.png": "", "validation/b/0.png": ""}, {"train": [2, 2], "val": [1, 1]}, [],
    ),
    "Valid": (without("val") | {"Valid/a/0.png": "", "Valid/b/0.png": ""}, {"train": [2, 2], "val": [1, 1]}, []),
    "testing": ({"testing/a/0.png": "", "testing/b/0.png": ""}, SAME | {"test": [1, 1]}, []),
    "val and valid": ({"valid/a/0.png": "", "valid/b/0.png": ""}, None, ["two folders for val", "/valid"]),
    "train and Train": ({"Train/a/0.png": ""}, None, ["two folders for train"]),
    "dev beside train": ({"dev/a/0.png": "", "README": b"x"}, SAME, ["folders that are not splits: 1 (dev)"]),
    "images beside train": ({"0.png": ""}, SAME, ["images outside of the splits: 1 (0.png)"]),
    "val.tar beside train": ({"val.tar": b"x"}, SAME, ["archives beside the folder of train: 1 (val.tar)"]),
    "images in no class": ({"train/0.png": "", "train/1.png": ""}, SAME, ["not in a class folder: 2 (train/0.png"]),
    "flat test": ({"test/0.png": "", "test/1.png": ""}, None, ["class folders (2 images are not in any"]),
    "empty val": (without("val") | {"val": "folder"}, None, ["splits without class folders: 1"]),
    "empty class in val": (without("val/b") | {"val/b": "folder"}, None, ["class folders without images: 1", "val/b"]),
    "class of hidden images": (
        without("train/b") | {"train/b/.0.png": "", "train/b/.1.png": ""}, None, ["class folders without images"],
    ),
    "class that val lacks": (without("val/b"), None, ["train has b, which val does not have"]),
    "class in another case": (
        without("val/b") | {"val/B/0.png": ""}, None, ["val has B, which train does not", "train has b, which val"],
    ),
    "classes that differ in case": (
        {"train/A/0.png": "", "val/A/0.png": ""}, {"train": [1, 2, 2], "val": [1, 2, 2]}, [],
    ),
    "nested": ({"train/a/p/q/r/0.PNG": ""}, MORE, []),
    "double suffixes": (
        {"train/a/x.txt.png": "", "train/a/x.png.part": b"x", "train/a/y.png~": b"x"},
        MORE,
        ["left out 2 files that are not images: 1 .part, 1 .png~"],
    ),
    "files of systems": (
        {"train/a/.DS_Store": b"x", "train/a/Thumbs.db": b"x", "train/a/._0.png": b"x", "train/.DS_Store": b"x"},
        SAME, [],
    ),
    "hidden": ({"train/a/.x.png": "", "train/.git/x": b"x"}, SAME, ["not images: 2 hidden"]),
    "many others": (
        {f"train/a/{i}.txt": b"x" for i in range(3000)} | {"train/b/x": b"", "val/a/x.xml": b""},
        SAME,
        ["left out 3,002 files that are not images: 3,000 .txt, 1 without a suffix, 1 .xml"],
    ),
    "HEIC": (
        {"train/a/x.NEF": b"x", "val/b/y.nef": b"x"}, SAME,
        [".nef files, which are not read (convert them to JPEG or PNG): 2 (train/a/x.NEF, val/b/y.nef)"],
    ),
    "pipe": ({"train/a/z.jpg": "fifo"}, SAME, ["pipes, sockets or devices named as images: 1 (train/a/z.jpg)"]),
    "socket": ({"train/a/z.jpg": "socket"}, SAME, ["named as images: 1 (train/a/z.jpg)"]),
    "pipe as a class": ({"train/z": "fifo"}, SAME, ["1 without a suffix"]),
    "folder named as an image": ({"train/a/x.png/0.png": ""}, MORE, []),
    "empty file": ({"train/a/x.png": b""}, None, ["train/a/x.png is empty"]),
    "every format": (
        {f"train/a/x.{kind}": image(kind, kind) for kind in ("gif", "bmp", "tiff", "webp", "ppm", "jpeg")},
        {"train": [8, 2], "val": [2, 2]}, [],
    ),
    "suffix of another format": ({"train/a/x.jpg": image("x", "gif")}, MORE, []),
    "line break in a file": ({"train/a/x\ny.png": ""}, MORE, []),
    "no UTF-8 in a file": ({os.fsdecode(b"train/a/\xff.png"): ""}, MORE, []),
    "line break in a class": (
        {"train/x\ny/0.png": "", "val/x\ny/0.png": ""}, None, ["names cannot be printed", "x\\ny"],
    ),
    "joiners and wide spaces in a class": (
        {f"{split}/\u0645\u06cc\u200c\u062e\u3000\u72ac/0.png": "" for split in ("train", "val")},
        {"train": [2, 2, 1], "val": [2, 2, 1]}, [],
    ),
    "no UTF-8 in a class": (
        {os.fsdecode(b"train/\xff/0.png"): "", os.fsdecode(b"val/\xff/0.png"): ""},
        None, ["names cannot be printed", "udcff"],
    ),
    "a long name": ({f"train/a/{LONG}.png": ""}, MORE, []),
    "archive as a class": ({"train/c.zip": b"x"}, None, ["c.zip"]),
    "numbers": (
        without("train", "val") | {f"train/{i:03}/0.png": "" for i in range(3)},
        {"train": [1, 1, 1]}, ["the classes are numbers (000, 001, 002)"],
    ),
}  # fmt: skip


@pytest.mark.fault("F21")
@pytest.mark.fault("F28")
@pytest.mark.parametrize("case", TREES)
def test_training_prepare_and_doctor_agree(case, tmp_path, data_spec, monkeypatch):
    changes, expected, said = TREES[case]
    root = build(tmp_path / "tree", changes)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setattr(doctor, "_SIZE", 16)
    to_fix, told = examined(root)
    assert bool(to_fix) == (expected is None), to_fix
    assert not os.listdir()
    if expected is None:
        with pytest.raises(DataError) as caught:
            trained(root, data_spec)
        line = caught.value.line()
        assert "\n" not in line and caught.value.exit_code == 3
        assert all(text in line and text in to_fix for text in said)
        return
    dataset = trained(root, data_spec)
    assert counts(dataset) == expected
    assert all(len(split.images[np.arange(len(split.labels))]) for split in dataset.splits.values())
    assert all(text in told for text in said)
    if case != "numbers":
        assert all(text in "\n".join(dataset.notes) for text in said)
        assert bool(said) == bool(dataset.notes)
    found = discovery.find(root, tmp_path)
    if case == "numbers":
        with pytest.raises(DataError, match="are numbers"):
            selection.select(found, subset=False)
        return
    listing = selection.select(found, subset=False)
    assert listing.classes == dataset.class_names
    assert {
        name: np.bincount([i for i, _ in chosen]).tolist()
        for name, chosen in listing.splits.items()
    } == expected
    assert not dataset.notes or all(
        any(note in one for one in dataset.notes) for note in listing.notes
    )
    for name, split in dataset.splits.items():
        assert f"{name}: all {len(split.labels):,} images can be read" in told


@pytest.mark.fault("F22")
def test_all_faults_are_told_at_once(tmp_path, data_spec):
    changes = without("val/b") | {
        "val/c/0.png": "",
        "train/d": Link("gone"),
        "train/a/gone.png": Link("gone"),
    }
    bad = {f"train/a/bad{i}.png": b"x" for i in range(3)} | {"val/a/bad.jpg": b""}
    root = build(tmp_path, changes | bad)
    with pytest.raises(DataError) as caught:
        trained(root, data_spec)
    line = str(caught.value)
    assert "has 4 kinds of faults: (1) dangling links: 1" in line
    assert (
        "val has c, which train does not have" in line
        and "train has b, which val does not have" in line
    )
    assert "(4) 5 of 11 images cannot be read" in line and "gone.png: No such file" in line
    to_fix, _ = examined(root)
    assert to_fix.count("\n") + 1 == 3 + 5
    for name in bad:
        assert name in to_fix


def unreadable(root):
    return build(
        root,
        {f"train/a/bad{i}.png": b"x" for i in range(7)}
        | {"val/b/bad.png": b"", "val/b/gone.png": Link("x")},
    )


@pytest.mark.fault("F22")
def test_unreadable_images_of_all_splits_are_counted_and_named(tmp_path, data_spec, cache_folder):
    root = unreadable(tmp_path)
    (root / "val/b/gone.png").unlink()
    with pytest.raises(DataError) as caught:
        trained(root, data_spec)
    line = str(caught.value)
    assert (
        line.startswith(f"{root}: 8 of 16 images cannot be read: ")
        and "bad4.png" in line
        and "and 3 more" in line
    )
    assert "--config.data.skip_unreadable=True" in line and not list(cache_folder.iterdir())
    # Held out from train, the faults of one file are told once.
    with pytest.raises(DataError, match=r": 7 of 11 images"):
        dataset = sources.open_dataset(data_spec("folder", root, validation=0.3), 0)
        del dataset.splits["test"]
        sources.check(dataset, data_spec("folder", root, validation=0.3))


def test_unreadable_images_can_be_skipped(tmp_path, data_spec):
    """The set is then that of the other images, and the run knows of the skipped ones."""
    root = unreadable(tmp_path)
    for validation in (0.0, 0.5):
        skipping = trained(root, data_spec, skip_unreadable=True, validation=validation)
        assert len(skipping.skipped) == 9 and "bad.png is empty" in "".join(skipping.skipped)
        (note,) = skipping.notes
        assert "skipped: 9 of 17 images cannot be read" in note
        assert splits.summary(skipping)["skipped"] == list(skipping.skipped)
    again = trained(root, data_spec, skip_unreadable=True)
    for path in (*root.glob("*/*/bad*"), root / "val/b/gone.png"):
        path.unlink()
    clean = trained(root, data_spec)
    for dataset in (again, trained(root, data_spec, skip_unreadable=True)):
        assert counts(dataset) == SAME and dataset.fingerprint == clean.fingerprint
        for name, split in clean.splits.items():
            every = np.arange(len(split.labels))
            assert np.array_equal(dataset.splits[name].images[every], split.images[every])


def test_an_image_that_can_be_read_again_is_not_skipped(tmp_path, data_spec, monkeypatch):
    """Where neither size nor time of the file has changed: permissions, or a disk that was away."""
    root = build(tmp_path, {"train/a/x.png": ""})
    decode = image_files.images.decode

    def failing(source, *arguments, **options):
        if os.fspath(source).endswith("x.png"):
            raise DataError(f"cannot read {source}: Input/output error")
        return decode(source, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(image_files.images, "decode", failing)
        for _ in range(2):
            assert counts(trained(root, data_spec, skip_unreadable=True)) == SAME
    assert counts(trained(root, data_spec, skip_unreadable=True)) == MORE


def test_unreadable_images_are_skipped_without_a_cache_folder(tmp_path, data_spec, monkeypatch):
    monkeypatch.setenv("ALEXNET_JAX_CACHE_GIB", "0")
    root = unreadable(tmp_path)
    skipping = trained(root, data_spec, skip_unreadable=True)
    assert len(skipping.skipped) == 9 and counts(skipping) == SAME
    for split in skipping.splits.values():
        assert split.images[np.arange(len(split.labels))].any()


@pytest.mark.parametrize("case", ["made meanwhile", "cannot be deleted"])
def test_images_that_another_process_keeps_are_not_taken_for_readable(
    tmp_path, data_spec, monkeypatch, case
):
    """Where what it could not read is not, or not yet, written beside them."""
    root = unreadable(tmp_path)
    first = trained(root, data_spec, skip_unreadable=True)

    def refuse(*_, **__):
        if case == "cannot be deleted":
            raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(image_files.pathlib.Path, "unlink", refuse)
    monkeypatch.setattr(image_files, "_read_faults", lambda _: None)
    again = trained(root, data_spec, skip_unreadable=True)
    assert again.skipped == first.skipped and counts(again) == SAME
    assert again.fingerprint == first.fingerprint


def test_where_skipping_is_refused(tmp_path, data_spec, monkeypatch):
    root = build(tmp_path, without("train/a") | {"train/a/0.png": b"x"})
    with pytest.raises(DataError, match="train has no image of 1 of 2 classes: a"):
        trained(root, data_spec, skip_unreadable=True)
    monkeypatch.setattr(image_files, "CACHE_LIMIT_BYTES", 100)
    with pytest.raises(DataError, match="prepare a store from them, with --max-bad-share"):
        trained(root, data_spec, skip_unreadable=True)
    overrides = ["--config.data.source=digits", "--config.data.skip_unreadable=True"]
    with pytest.raises(ConfigError, match=r"is for the sources folder, .* not 'digits'"):
        config.parse(config.load("tests/tiny.py", overrides))


def test_of_a_large_set_dangling_links_are_found_at_the_start(tmp_path, data_spec, monkeypatch):
    monkeypatch.setattr(image_files, "CACHE_LIMIT_BYTES", 100)
    root = build(
        tmp_path, {"train/a/2.png": Link("x"), "val/a/2.png": Link("y"), "val/b/2.png": b"x"}
    )
    with pytest.raises(
        DataError, match=r"2 of 11 images cannot be read: .*train/a/2.png.*val/a/2.png"
    ):
        trained(root, data_spec)


@pytest.mark.parametrize(
    "validation, fault", [(0.2, None), (0.9, "train has no image of 1 of 2 classes: b")]
)
def test_a_class_too_small_to_be_held_out(validation, fault, tmp_path, data_spec):
    root = build(tmp_path, without("val") | {f"train/a/{i}.png": "" for i in range(60)})
    if fault:
        with pytest.raises(
            DataError, match=f"{fault} .2 in val.; hold out less than config.data.validation=0.9"
        ):
            trained(root, data_spec, validation=validation)
        return
    dataset = trained(root, data_spec, validation=validation)
    assert counts(dataset) == {"train": [48, 2], "val": [12, 0]}
    assert dataset.notes == ("val has no image of 1 of 2 classes: b (2 in train)",)


def test_classes_of_arrays_without_images(tmp_path, data_spec):
    def of(**arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        spec = data_spec("arrays", tmp_path / "a.npz")
        dataset = sources.open_dataset(spec, 0)
        sources.check(dataset, spec)
        return dataset

    pixels = np.zeros((6, 8, 8, 3), np.uint8)
    with pytest.raises(
        DataError, match="train has no image of 1 of 4 classes: 0; labels count from 0"
    ):
        of(train_images=pixels, train_labels=np.array([1, 2, 3] * 2))
    whole = {"train_images": pixels, "train_labels": np.array([0, 1, 2] * 2)}
    found = of(
        **whole,
        validation_images=pixels[:2],
        validation_labels=np.array([0, 2]),
        weights=np.ones(3),
    )
    assert counts(found)["val"] == [1, 0, 1]
    assert "left out 1 arrays with other names: weights" in found.notes[0]
    assert found.notes[1] == "val has no image of 1 of 3 classes: 1 (2 in train)"
    with pytest.raises(DataError, match="has val_images twice"):
        of(
            **whole,
            val_images=pixels,
            val_labels=np.zeros(6, int),
            valid_images=pixels,
            valid_labels=np.zeros(6, int),
        )


def test_doctor_and_prepare_read_archives_beside_folders(tmp_path, data_spec):
    root = build(tmp_path / "tree", without("train/b"))
    (root / "train" / "b.tar").write_bytes(imagenet_tars.tar([("0.gif", image("x", "GIF"))]))
    with pytest.raises(DataError, match=r"1 classes are archives .*b.tar.: prepare a store"):
        trained(root, data_spec)
    to_fix, told = examined(root)
    assert not to_fix and "train: all 3 images can be read" in told
    assert [
        label
        for label, _ in selection.select(discovery.find(root, tmp_path), subset=False).splits[
            "train"
        ]
    ] == [0, 0, 1]


def test_doctor_goes_on_behind_every_fault(tmp_path):
    changes = without("val") | {
        "val/c/0.png": "",
        "test/a/0.png": b"x",
        "test/b/0.png": b"",
        "train/b/1.png": b"x",
    }
    to_fix, told = examined(build(tmp_path, changes))
    assert to_fix.count("FIX") == 2 + 3 and "train: 3 images, 1 to 2 a class" in told
    assert "NOTE  test: 2 of 2 images cannot be read" in told
    to_fix, told = examined(build(tmp_path / "none", {name: b"x" for name in PLAIN}))
    assert to_fix.count("FIX") == 8 and "train: 4 of 4 images cannot be read" in told


@pytest.mark.parametrize("name", ["valid", "validation", "Val"])
def test_archives_have_the_same_names_of_splits(name, tmp_path):
    files = [
        (f"{split}/{kind}/0.png", image(split + kind)) for split in ("train", name) for kind in "ab"
    ]
    (tmp_path / "all.tar").write_bytes(imagenet_tars.tar(files))
    assert set(discovery.find(tmp_path / "all.tar", tmp_path).splits) == {"train", "val"}
    root = tmp_path / "splits"
    root.mkdir()
    for split in ("train", name):
        inside = [
            (file.split("/", 1)[1], content) for file, content in files if file.startswith(split)
        ]
        (root / f"{split}.tar").write_bytes(imagenet_tars.tar(inside))
    (root / "more").mkdir()
    found = discovery.find(root, tmp_path)
    assert set(found.splits) == {"train", "val"} and found.notes == [
        "left out more, as train is an archive"
    ]
    (root / "val.zip").write_bytes(b"")
    with pytest.raises(DataError, match="are both val; remove one"):
        discovery.find(root, tmp_path)
    other = "valid" if name == "Val" else "val"
    doubled = [*files, (f"{other}/a/1.png", image("y"))]
    (tmp_path / "two.tar").write_bytes(imagenet_tars.tar(doubled))
    with pytest.raises(DataError, match="another folder for val"):
        discovery.find(tmp_path / "two.tar", tmp_path)


def test_equal_images_in_two_splits_or_classes_are_told(tmp_path, data_spec):
    same = image("same")
    root = build(
        tmp_path,
        {"train/a/x.png": same, "val/a/x.png": same, "train/b/y.png": same, "train/a/z.png": same},
    )
    notes = "".join(trained(root, data_spec).notes)
    assert "3 files are in two splits" in notes and "1 files are under two classes" in notes
    to_fix, told = examined(root)
    assert not to_fix
    assert "NOTE  3 files are in two splits, byte for byte" in told and "val/a/x.png = " in told
    assert "NOTE  1 files are under two classes, byte for byte" in told and "train/b/y.png" in told


def test_a_store_has_what_its_folder_had(tmp_path, data_spec, capsys):
    """Images and counts, what was left out, and what is there twice."""
    pytest.importorskip("array_record")
    same = image("same", "GIF")
    held = without("val") | {f"valid/{kind}/0.png": "" for kind in "ab"}
    twice = {
        "train/a/x.gif": same,
        "train/b/x.gif": same,
        "valid/a/x.gif": same,
        "train/a/x.txt": b"",
    }
    root = build(tmp_path / "tree", held | twice)
    prepare.main(
        ["--from", str(root), "--out", str(tmp_path / "store"), "--size", "8", "--jobs", "1"]
    )
    said = capsys.readouterr().out
    assert "note: left out 1 files that are not images: 1 .txt" in said
    assert (
        "2 files are in two splits, byte for byte" in said
        and "1 files are under two classes" in said
    )
    dataset = sources.open_dataset(data_spec("store", tmp_path / "store"), 0)
    assert counts(dataset) == counts(trained(root, data_spec)) == {"train": [3, 3], "val": [2, 1]}
    to_fix, told = examined(tmp_path / "store")
    assert not to_fix and "NOTE  left out 1 files" in told
    assert (
        "NOTE  2 files are in two splits" in told and "NOTE  1 files are under two classes" in told
    )
    index = json.loads((tmp_path / "store" / "index.json").read_text())
    del index["report"]["two_classes"]
    (tmp_path / "store" / "index.json").write_text(json.dumps(index))
    assert "did not count the files under two classes" in examined(tmp_path / "store")[1]


def test_duplicates_by_digest():
    digests = {"train": [b"a", b"b", None, b"a"], "test": [b"a", b"c"], "val": [b"c", None]}
    labels = {"train": [0, 1, 1, 1], "test": [0, 1], "val": [1, 1]}
    found = splits.duplicates(digests, labels)
    assert found.splits == [
        (("test", 1), ("val", 0)), (("test", 0), ("train", 0)), (("test", 0), ("train", 3)),
    ]  # fmt: skip
    assert found.classes == [(("test", 0), ("train", 3))]


def test_a_folder_without_permission_is_told(tmp_path, data_spec):
    root = build(tmp_path, {"train/a/more/0.png": ""})
    (root / "train/a/more").chmod(0)
    try:
        if os.access(root / "train/a/more", os.R_OK):
            pytest.skip("root reads everything")
        with pytest.raises(DataError, match="cannot read: Permission denied: 1"):
            trained(root, data_spec)
    finally:
        (root / "train/a/more").chmod(0o700)


def test_only_chosen_classes_count(tmp_path, data_spec):
    """The faults of others do not keep a run from them."""
    root = build(tmp_path, {"train/c": "folder", "train/d/x.png": b"x", "val/d/0.png": ""})
    assert counts(trained(root, data_spec, classes=("b", "a"))) == SAME
    with pytest.raises(DataError, match="without images"):
        trained(root, data_spec, classes=("c", "a"))


def test_folders_of_pictures_are_read_alike(tmp_path, caplog):
    """What predict and the figures are given."""
    root = build(
        tmp_path,
        {"train/a/x": Link("out"), "out/0.png": "", "train/a/z.jpg": "fifo", "train/a/.x.png": ""},
    )
    found = pictures.list_files([root / "train/b/0.png", root / "train/a"])
    assert [str(path.relative_to(root)) for path in found] == [
        "train/b/0.png", "train/a/0.png", "train/a/1.png", "train/a/x/0.png",
    ]  # fmt: skip
    assert (
        "pipes, sockets or devices named as images: 1 (z.jpg)" in caplog.text
        and "1 hidden" in caplog.text
    )
    (root / "train/a/y").symlink_to("gone")
    with pytest.raises(DataError, match="dangling links: 1"):
        pictures.list_files([root / "train/a"])


def test_names_in_messages():
    assert printable("a\nb\udcff\u2028\x1b[0m\u200c") == r"a\nb\udcff\u2028\x1b[0m" + "\u200c"

    assert listed("ab") == "a, b" and listed("abc", 1) == "a and 2 more"
