"""From every layout to a store; what is converted, refused and continued."""

import gzip
import hashlib
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import images
from alexnet_jax.data.prepare import command as prepare
from alexnet_jax.data.prepare import selection, shards
from alexnet_jax.data.prepare.convert import Options, convert
from alexnet_jax.data.sources import store_format
from alexnet_jax.errors import ConfigError, DataError, StorageError, WorkdirError
from tests.data import imagenet_tars
from tests.data.imagenet_tars import Picture

pytest.importorskip("array_record")

ROOT = Path(__file__).resolve().parent.parent.parent
SYNSETS = ("n01440764", "n01443537", "n01484850")
WORDS = {"n01440764": "tench, Tinca tinca", "n01443537": "goldfish", "n01484850": "white shark"}
SIZE = 16


def encoded(pixels, kind="JPEG", **options) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def noise(seed, width=40, height=30, **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels).resize((width, height)), **options)


def pictures(count: int, first: int = 0) -> list[Picture]:
    """`count` of each class, of different shapes."""
    return [
        Picture(synset, f"{synset}_{i}.JPEG", noise((first, label, i), 24 + 5 * i, 20 + 3 * label))
        for label, synset in enumerate(SYNSETS)
        for i in range(count)
    ]


TRAIN, VAL = pictures(5), imagenet_tars.shuffled(pictures(3, first=100))


def run(source, out, *arguments):
    return prepare.main(["--from", str(source), "--out", str(out), "--size", str(SIZE),
                         "--jobs", "1", *arguments])  # fmt: skip


def tree(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def same_but_for_names(one: Path, other: Path) -> bool:
    """Whether two stores hold the same; their reports name other files."""
    told = ("index.json", "refused.jsonl", "duplicates.jsonl")
    first, second = ({k: v for k, v in tree(x).items() if k not in told} for x in (one, other))
    fingerprints = {store_format.read_index(x).fingerprint for x in (one, other)}
    return first == second and len(fingerprints) == 1


# The same pictures in every layout


def as_tars(root):
    imagenet_tars.pack(root, TRAIN, VAL, WORDS)


def as_folders(root):
    imagenet_tars.folders(root, TRAIN, VAL)


def as_tfds(root):
    pytest.importorskip("tensorflow_datasets")
    imagenet_tars.prepared(root, TRAIN, VAL)


def in_folders(split: str, prefix: str = "") -> list[tuple[str, bytes]]:
    if split == "train":
        return [(f"{prefix}{p.synset}/{p.name}", p.content) for p in TRAIN]
    named = enumerate(VAL, 1)
    return [(f"{prefix}{p.synset}/{imagenet_tars.val_name(i)}", p.content) for i, p in named]


def zip_file(path: Path, files: list[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(name, content)


def as_archives_of_splits(root):
    root.mkdir()
    zip_file(root / "train.zip", in_folders("train", "train/"))
    (root / "val.tar.gz").write_bytes(imagenet_tars.tar(in_folders("val"), "w:gz"))


def as_archives_of_classes(root):
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for synset in SYNSETS:
            files = [(n.split("/")[1], c) for n, c in in_folders(split) if n.startswith(synset)]
            if split == "train":
                (root / split / f"{synset}.tar").write_bytes(imagenet_tars.tar(files))
            else:
                zip_file(root / split / f"{synset}.zip", files)


def as_one_archive(root):
    root.mkdir()
    files = in_folders("train", "sample/train/") + in_folders("val", "sample/val/")
    (root / "all.tgz").write_bytes(imagenet_tars.tar(files, "w:gz"))
    return root / "all.tgz"


@pytest.fixture(scope="module")
def from_tars(tmp_path_factory):
    root = tmp_path_factory.mktemp("tars")
    as_tars(root / "source")
    run(root / "source", root / "store", "--subset")
    return root / "store"


@pytest.mark.parametrize(
    "make",
    [as_folders, as_tfds, as_archives_of_splits, as_archives_of_classes, as_one_archive],
)
def test_the_same_pictures_make_the_same_store(make, from_tars, tmp_path):
    source = make(tmp_path / "source") or tmp_path / "source"
    run(source, tmp_path / "store")
    assert same_but_for_names(tmp_path / "store", from_tars)
    assert not (tmp_path / "store.preparing").exists()
    assert str(tmp_path) not in (tmp_path / "store" / "index.json").read_text()


def test_labels_are_places_of_sorted_synsets(from_tars, data_spec):
    """The devkit's own numbers, here in reverse, never become labels."""
    index = store_format.read_index(from_tars)
    assert index.classes == SYNSETS and index.words == tuple(WORDS[name] for name in SYNSETS)
    dataset = sources.open_dataset(data_spec("store", from_tars, image_size=SIZE), 0)
    assert dataset.splits["train"].labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert dataset.splits["val"].labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    found = dataset.splits["val"].images[np.arange(9)].astype(int)
    ordered = [picture for synset in SYNSETS for picture in VAL if picture.synset == synset]
    for pixels, picture in zip(found, ordered, strict=True):
        assert np.abs(pixels - images.decode(picture.content, SIZE)).mean() < 8


def test_ilsvrc2010_has_a_test_split_and_patches(tmp_path):
    source = tmp_path / "source"
    imagenet_tars.pack(source, TRAIN, VAL, WORDS, "ILSVRC2010")
    test = [(f"test/ILSVRC2010_test_{i:08}.JPEG", p.content) for i, p in enumerate(VAL, 1)]
    test[0] = test[0][0], gzip.compress(test[0][1])  # as some of the originals are
    (source / "ILSVRC2010_images_test.tar").write_bytes(imagenet_tars.tar(test))
    run(source, tmp_path / "without", "--subset")
    index = store_format.read_index(tmp_path / "without")
    assert (
        set(index.splits) == {"train", "val"} and "no ILSVRC2010_test" in index.report["notes"][0]
    )
    numbers = imagenet_tars.ids(list(SYNSETS))
    truth = "".join(f"{numbers[picture.synset]}\n" for picture in VAL)
    (source / "ILSVRC2010_test_ground_truth.txt").write_text(truth)
    patch = [(f"patch_images/train/{TRAIN[0].name}", noise(7))]
    (source / "patch_images.tar").write_bytes(imagenet_tars.tar(patch))
    run(source, tmp_path / "with", "--subset")
    index = store_format.read_index(tmp_path / "with")
    assert index.report["per_class"]["test"] == [3, 3, 3]
    assert index.report["converted"]["test"]["gzipped"]["count"] == 1
    assert "1 of its 1 images" in index.report["notes"][0]
    assert (tmp_path / "with" / "val-00000.array_record").read_bytes() == (
        tmp_path / "without" / "val-00000.array_record"
    ).read_bytes()


def cifar_files(records: int = 4) -> list[tuple[str, bytes]]:
    generator, files = np.random.default_rng(3), []
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        content = generator.integers(0, 256, (records, 3073), dtype=np.uint8)
        content[:, 0] = np.arange(records) + int(name == "data_batch_2.bin")
        files.append((f"cifar-10-batches-bin/{name}", content.tobytes()))
    return [*files, ("cifar-10-batches-bin/readme.html", b"<html>")]


def test_cifar10_keeps_its_size_and_pixels(tmp_path, data_spec):
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(imagenet_tars.tar(cifar_files(), "w:gz"))
    for source, out in ((path, "one"), (tmp_path, "two")):
        assert (
            prepare.main(["--from", str(source), "--out", str(tmp_path / out), "--jobs", "1"]) == 0
        )
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    dataset = sources.open_dataset(data_spec("store", tmp_path / "one", image_size=32), 0)
    assert (
        store_format.read_index(tmp_path / "one").format == "raw"
        and dataset.class_names[0] == "airplane"
    )
    assert [len(split.labels) for split in dataset.splits.values()] == [20, 4]
    first = np.frombuffer(cifar_files()[0][1], np.uint8)[1:3073].reshape(3, 32, 32)
    pixels = dataset.splits["train"].images[np.arange(1)][0]
    assert np.array_equal(pixels, first.transpose(1, 2, 0))


# Parts, options


def test_a_part_of_the_classes_and_images(from_tars, tmp_path):
    as_folders(tmp_path / "source")
    chosen = ["--classes", SYNSETS[2], SYNSETS[0], "--max-per-class", "2"]
    run(tmp_path / "source", tmp_path / "store", *chosen)
    index = store_format.read_index(tmp_path / "store")
    assert index.classes == (SYNSETS[0], SYNSETS[2])
    assert index.report["per_class"] == {"train": [2, 2], "val": [2, 2]}


def test_a_declared_subset_leaves_out_what_train_has_not(tmp_path):
    as_tars(tmp_path / "source")
    train = [picture for picture in TRAIN if picture.synset != SYNSETS[1]]
    inner = [(f"{s}.tar", imagenet_tars.tar([(p.name, p.content) for p in train if p.synset == s]))
             for s in (SYNSETS[0], SYNSETS[2])]  # fmt: skip
    (tmp_path / "source" / "ILSVRC2012_img_train.tar").write_bytes(imagenet_tars.tar(inner))
    run(tmp_path / "source", tmp_path / "store", "--subset")
    index = store_format.read_index(tmp_path / "store")
    assert index.report["per_class"] == {"train": [5, 5], "val": [3, 3]}
    assert "3 images of val have classes that train does not have" in index.report["notes"]


@pytest.mark.parametrize("kind", ["jpeg", pytest.param("raw", marks=pytest.mark.full)])
def test_bytes_depend_on_neither_jobs_nor_time(kind, tmp_path):
    imagenet_tars.folders(tmp_path / "source", pictures(60), VAL)  # 180: two shards
    for jobs in ("1", "2"):
        run(tmp_path / "source", tmp_path / jobs, "--format", kind, "--jobs", jobs)
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


def test_a_jpeg_of_the_right_size_keeps_its_bytes(tmp_path):
    original = noise(5, SIZE, SIZE, quality=40)
    assert convert(original, Options("jpeg", SIZE, 95), "x.jpg")[1] == original


def test_what_is_there_already_is_not_prepared_again(from_tars, tmp_path, capsys):
    as_folders(tmp_path / "source")
    run(tmp_path / "source", tmp_path / "store")
    before = tree(tmp_path / "store")
    capsys.readouterr()
    run(tmp_path / "source", tmp_path / "store")
    assert "already prepared" in capsys.readouterr().out and tree(tmp_path / "store") == before
    with pytest.raises(ConfigError, match="was prepared with format jpeg, not raw"):
        run(tmp_path / "source", tmp_path / "store", "--format", "raw")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="exists and is not a store"):
        run(tmp_path / "source", tmp_path / "mine")
    assert tree(tmp_path / "store") == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--size", "0"], "--size 0 is not 1 to 8192"),
        (["--quality", "101"], "--quality 101"),
        (["--jobs", "0"], "--jobs 0"),
        (["--max-bad-share", "2"], "--max-bad-share 2.0 is not 0 to 1"),
        (["--format", "png"], "invalid choice"),
        (["--max-per-class", "0"], "--max-per-class 0 is not 1 or more"),
    ],
)
def test_wrong_options_are_usage_errors(arguments, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        prepare.main(["--from", str(tmp_path), "--out", str(tmp_path / "x"), *arguments])
    assert not list(tmp_path.iterdir())


def test_space_is_checked_before_anything_is_decoded(tmp_path, monkeypatch):
    as_folders(tmp_path / "source")
    monkeypatch.setattr(prepare, "SPARE_BYTES", 10**9)

    class Usage:
        free = 10**6

    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(StorageError, match=r"bytes more, and .* has 1,000,000 free") as caught:
        run(tmp_path / "source", tmp_path / "store")
    assert caught.value.exit_code == 5
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_two_commands_do_not_write_one_store(tmp_path):
    import fcntl

    as_folders(tmp_path / "source")
    (tmp_path / "store.preparing").mkdir()
    with open(tmp_path / "store.preparing" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(WorkdirError, match="another process"):
            run(tmp_path / "source", tmp_path / "store")


# Images


def with_adobe_inversion() -> bytes:
    return encoded(Image.fromarray(np.full((20, 20, 4), (0, 255, 255, 0), np.uint8), "CMYK"))


def gray16(kind=np.uint16) -> bytes:
    return encoded(Image.fromarray(np.full((20, 20), 40_000, kind)), "PNG")


def rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return noise(1, exif=exif)


def broken_exif() -> bytes:
    plain = noise(1)
    return plain[:2] + b"\xff\xe1\x00\x10Exif\0\0MM\0*junk" + plain[2:]


def png_header(width, height) -> bytes:
    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", checksum)

    header = chunk(b"IHDR", struct.pack(">2L5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99)))


def jpeg_header_of(width, height) -> bytes:
    """A small picture whose header tells of a large one."""
    content = bytearray(noise(1))
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">2H", height, width)
    return bytes(content)


BAD_IMAGES = {
    "empty": (b"", "is empty"),
    "text": (b"not found", "is not an image"),
    "web page": (b"<!DOCTYPE html><p>404", "but HTML or XML text"),
    "GIF of no frame": (b"GIF89a", "is not an image"),
    "JPEG cut off": (noise(2)[:-200], "cannot decode"),
    "JPEG cut off at half": (noise(2)[: len(noise(2)) // 2], "x.jpg"),
    "JPEG cut off in its header": (noise(2)[:30], "x.jpg"),
    "PNG cut off": (noise(2, kind="PNG")[:-60], "cannot decode"),
    "PNG with a flipped bit": (
        noise(2, kind="PNG")[:60] + b"\xff" + noise(2, kind="PNG")[61:],
        "cannot decode",
    ),
    "PNG bomb": (png_header(30_000, 30_000), "has more than 89,478,485 pixels"),
    "JPEG header that lies": (jpeg_header_of(60_000, 60_000), "has more than 89,478,485 pixels"),
    "JPEG of no height": (jpeg_header_of(40, 0), "is not an image"),
    "gzip of text": (gzip.compress(b"text"), "is not an image"),
    "gzip cut off": (gzip.compress(noise(2))[:-9], "gzipped, and is truncated"),
}


@pytest.mark.fault("F22")
@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_is_refused_with_its_name_and_fault(case):
    content, message = BAD_IMAGES[case]
    with pytest.raises(DataError) as caught:
        convert(content, Options("jpeg", SIZE, 95), "train/cat/x.jpg")
    assert "train/cat/x.jpg" in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)


ODD_IMAGES = {
    "CMYK": (with_adobe_inversion(), "x.jpg", ["CMYK, now RGB"]),
    "PNG named JPEG": (noise(1, kind="PNG"), "x.JPEG", ["PNG under the name of a JPEG"]),
    "JPEG named PNG": (noise(1), "x.png", ["JPEG under the name of a PNG"]),
    "gray": (encoded(np.zeros((20, 20), np.uint8)), "x.jpg", ["gray, now RGB"]),
    "16-bit gray": (gray16(), "x.png", ["gray, now RGB", "16-bit, now 8-bit"]),
    "palette": (
        encoded(Image.fromarray(np.zeros((20, 20, 3), np.uint8)).quantize(8), "PNG"),
        "x.png",
        ["with a palette, now RGB"],
    ),
    "transparent": (
        encoded(np.zeros((20, 20, 4), np.uint8), "PNG"),
        "x.png",
        ["transparent, now on white"],
    ),
    "bits": (encoded(Image.new("1", (20, 20)), "PNG"), "x.png", ["gray, now RGB"]),
    "broken EXIF": (broken_exif(), "x.jpg", []),
    "one pixel": (noise(1, 1, 1), "x.jpg", ["enlarged to 16 pixels"]),
    "a line": (noise(1, 500, 1), "x.jpg", ["enlarged to 16 pixels"]),
    "GIF": (noise(1, kind="GIF"), "x.gif", ["with a palette, now RGB"]),
    "WebP named JPEG": (noise(1, kind="WEBP"), "x.jpg", ["WEBP under the name of a JPEG"]),
    "BMP": (noise(1, kind="BMP"), "x.bmp", []),
    "TIFF": (noise(1, kind="TIFF"), "x.tiff", []),
    "PPM": (noise(1, kind="PPM"), "x.ppm", []),
    "plain": (noise(1), "x.jpg", []),
} | {
    f"EXIF {i}": (rotated(i), "x.jpg", ["with an EXIF orientation, which is ignored"])
    for i in range(2, 9)
}


@pytest.mark.parametrize("case", ODD_IMAGES)
def test_an_odd_image_is_converted_and_reported(case):
    content, name, expected = ODD_IMAGES[case]
    pixels, record, changes = convert(content, Options("jpeg", SIZE, 95), name)
    assert changes == expected and pixels.shape == (SIZE, SIZE, 3)
    assert np.abs(images.decode(record, SIZE).astype(int) - pixels).mean() < 8


@pytest.mark.fault("F27")
def test_orientation_changes_no_pixel():
    options = Options("raw", SIZE, 95)
    upright = convert(rotated(1), options, "x.jpg")[0]
    for content in (*(rotated(i) for i in range(2, 9)), broken_exif()):
        assert np.array_equal(convert(content, options, "x.jpg")[0], upright)


def test_orientation_is_applied_on_request(tmp_path):
    """Once: the store has upright pixels, also of a JPEG that has the right size and would keep its bytes."""
    exif = Image.Exif()
    exif[0x0112] = 3
    photo = noise(1, SIZE, SIZE, exif=exif)
    folder = tmp_path / "source" / "train"
    for name in "ab":
        (folder / name).mkdir(parents=True)
        (folder / name / "x.jpg").write_bytes(photo)
    run(tmp_path / "source", tmp_path / "store", "--exif", "apply", "--format", "raw")
    shard = np.load(tmp_path / "store" / "train-00000.npy")
    assert np.array_equal(shard[0], images.decode(photo, SIZE)[::-1, ::-1])
    index = store_format.read_index(tmp_path / "store")
    assert index.report["converted"]["train"]["turned as EXIF says"]["count"] == 2
    with pytest.raises(ConfigError, match="was prepared with exif apply, not ignore"):
        run(tmp_path / "source", tmp_path / "store", "--format", "raw")
    options = Options("jpeg", SIZE, 95, "apply")
    assert convert(photo, options, "x.jpg")[1] != photo
    assert convert(photo, options._replace(exif="ignore"), "x.jpg")[1] == photo


@pytest.mark.fault("F23")
def test_adobe_cmyk_has_the_right_colors():
    pixels = convert(with_adobe_inversion(), Options("raw", SIZE, 95), "x.jpg")[0]
    assert np.abs(pixels.astype(int) - (255, 0, 0)).mean() <= 4


def test_names_that_are_no_utf8_are_reported_in_ascii(tmp_path):
    as_folders(tmp_path / "source")
    name = os.fsencode(tmp_path / "source" / "train" / SYNSETS[0]) + b"/\xff.png"
    Path(os.fsdecode(name)).write_bytes(noise(8))
    run(tmp_path / "source", tmp_path / "store")
    converted = store_format.read_index(tmp_path / "store").report["converted"]["train"]
    first = converted["JPEG under the name of a PNG"]["first"]
    assert first == [f"train/{SYNSETS[0]}/\\udcff.png"]
    os.rename(
        os.fsencode(tmp_path / "source" / "train" / SYNSETS[0]),
        os.fsencode(tmp_path / "source" / "train") + b"/\xff",
    )
    with pytest.raises(DataError, match="names cannot be printed"):
        run(tmp_path / "source", tmp_path / "another", "--subset")


@pytest.mark.fault("F31")
def test_duplicates_across_splits_are_counted_and_listed(tmp_path):
    train, val = pictures(5), pictures(3)  # the same contents
    imagenet_tars.folders(tmp_path / "source", train, val[:2])
    run(tmp_path / "source", tmp_path / "store", "--subset")
    assert store_format.read_index(tmp_path / "store").report["duplicates"]["count"] == 2
    listed = [
        json.loads(s) for s in (tmp_path / "store" / "duplicates.jsonl").read_text().splitlines()
    ]
    assert listed[0]["train"] == f"train/{SYNSETS[0]}/{SYNSETS[0]}_0.JPEG"
    assert listed[0]["val"] == f"val/{SYNSETS[0]}/ILSVRC2012_val_00000001.JPEG"


@pytest.mark.fault("F22")
def test_a_few_bad_images_of_train_are_skipped_and_listed(tmp_path):
    as_folders(tmp_path / "source")
    bad = tmp_path / "source" / "train" / SYNSETS[1] / f"{SYNSETS[1]}_2.JPEG"
    bad.write_bytes(b"")
    with pytest.raises(DataError, match=r"1 images of train .*allows 0 of 15.*is empty; remove"):
        run(tmp_path / "source", tmp_path / "store")
    listed = tmp_path / "store.preparing" / "refused.jsonl"
    assert json.loads(listed.read_text())["image"] == f"train/{SYNSETS[1]}/{SYNSETS[1]}_2.JPEG"
    run(tmp_path / "source", tmp_path / "store", "--max-bad-share", "0.07")
    index = store_format.read_index(tmp_path / "store")
    assert index.report["per_class"]["train"] == [5, 4, 5]
    assert index.report["refused"]["train"]["count"] == 1
    assert (tmp_path / "store" / "refused.jsonl").read_text().count("\n") == 1
    labels = np.load(tmp_path / "store" / "train-labels.npy")
    assert labels.tolist() == [0] * 5 + [1] * 4 + [2] * 5


@pytest.mark.fault("F22")
def test_the_bad_images_of_all_splits_are_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SMALLEST_SHARD", 2)
    as_folders(tmp_path / "source")
    for split, synset in (("train", 0), ("train", 2), ("val", 1)):
        sorted((tmp_path / "source" / split / SYNSETS[synset]).iterdir())[0].write_bytes(b"")
    with pytest.raises(
        DataError, match=r"2 images of train .*; 1 images of val .*all are in"
    ) as told:
        run(tmp_path / "source", tmp_path / "store")
    assert str(told.value).count("is empty") == 3
    listed = tmp_path / "store.preparing" / "refused.jsonl"
    assert listed.read_text().count("\n") == 3
    monkeypatch.setattr(prepare, "_FAR_TOO_MANY", 0)
    monkeypatch.setattr(shards, "VERSION", 0)
    with pytest.raises(DataError, match=r"^1 images of val .*all so far are in"):
        run(tmp_path / "source", tmp_path / "store")


@pytest.mark.fault("F22")
def test_no_bad_image_of_val_is_skipped_and_mending_it_continues(tmp_path):
    as_folders(tmp_path / "source")
    bad = sorted((tmp_path / "source" / "val" / SYNSETS[0]).iterdir())[:2]
    kept = [path.read_bytes() for path in bad]
    for path in bad:
        path.write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"2 images of val cannot be used \(none is allowed"):
        run(tmp_path / "source", tmp_path / "store", "--max-bad-share", "1")
    for path, content in zip(bad, kept, strict=True):
        path.write_bytes(content)
    run(tmp_path / "source", tmp_path / "store")
    as_tars(tmp_path / "tars")
    run(tmp_path / "tars", tmp_path / "other", "--subset")
    assert same_but_for_names(tmp_path / "store", tmp_path / "other")


# Layouts


def without(*names):
    def change(root):
        as_tars(root)
        for name in names:
            (root / name).unlink()

    return change


def devkit(files: dict[str, bytes]):
    def change(root):
        as_tars(root)
        inside = [(f"ILSVRC2012_devkit_t12/data/{name}", c) for name, c in files.items()]
        path = root / "ILSVRC2012_devkit_t12.tar.gz"
        path.write_bytes(imagenet_tars.tar(inside, "w:gz"))

    return change


def tar_of(name: str, files: list[tuple[str, bytes]]):
    def change(root):
        as_tars(root)
        (root / name).write_bytes(imagenet_tars.tar(files))

    return change


def folder_of(**files):
    """`a__b=content`: the file a/b; '' is an empty folder."""

    def change(root):
        for name, content in files.items():
            path = root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if content == "" else path.write_bytes(content)

    return change


def one_file(name, content):
    def change(root):
        root.mkdir()
        (root / name).write_bytes(content)
        return root / name

    return change


def changed_tfds(change_info):
    def change(root):
        as_tfds(root)
        (path,) = root.rglob("dataset_info.json")
        path.write_text(change_info(path.read_text()))

    return change


def cut_shard(root):
    as_tfds(root)
    (path,) = root.rglob("*train.array_record*")
    path.write_bytes(path.read_bytes()[:-70_000])


META = imagenet_tars.meta(list(SYNSETS), WORDS)
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
INNER = imagenet_tars.tar([(TRAIN[0].name, TRAIN[0].content)])
PLAIN = noise(1)
CIFAR = "cifar-10-binary.tar.gz"


def cifar(files):
    return one_file(CIFAR, imagenet_tars.tar(files, "w:gz"))


# what is wrong: (how it comes about, what the message names, whether a subset is declared)
MALFORMED = {
    "nothing there": (lambda root: None, "no folder or archive", False),
    "empty folder": (lambda root: root.mkdir(), "has nothing; known layouts", False),
    "something else": (folder_of(notes=b"x", more=b"y"), "has more, notes; known layouts", False),
    "no train": (folder_of(val__cat__x=PLAIN), "has val; known layouts", False),
    "train without classes": (folder_of(train=""), "splits without class folders: 1", False),
    "flat train": (folder_of(**{"train__a.jpg": PLAIN}), "1 images are not in any", False),
    "flat val": (
        folder_of(**{"train__cat__a.jpg": PLAIN, "val__b.jpg": PLAIN}),
        "splits without class folders (1 images are not in any",
        False,
    ),
    "empty class": (
        folder_of(**{"train__cat__a.jpg": PLAIN, "train__dog": ""}),
        "class folders without images: 1",
        False,
    ),
    "class without images": (
        folder_of(**{"train__cat__a.txt": b"x"}),
        "class folders without images (their files end in none of",
        False,
    ),
    "numbers for classes": (
        folder_of(**{f"train__{i}__a.jpg": PLAIN for i in range(12)}),
        "are numbers (0, 1, 10 and 9 more)",
        False,
    ),
    "padded numbers": (
        folder_of(**{f"train__{i:03}__a.jpg": PLAIN for i in range(3)}),
        "rename them to synsets",
        True,
    ),
    "class of val only": (
        folder_of(**{"train__cat__a.jpg": PLAIN, "val__dog__a.jpg": PLAIN}),
        "val has dog, which train does not have",
        False,
    ),
    "class of train only": (
        folder_of(
            **{"train__cat__a.jpg": PLAIN, "train__dog__a.jpg": PLAIN, "val__cat__a.jpg": PLAIN}
        ),
        "train has dog, which val does not have",
        False,
    ),
    "class as folder and archive": (
        folder_of(**{"train__cat__a.jpg": PLAIN, "train__cat.tar": INNER}),
        "classes that occur twice: 1",
        False,
    ),
    "no train tar": (without(TRAIN_TAR), f"has no {TRAIN_TAR}", True),
    "no val tar": (without(VAL_TAR), f"has no {VAL_TAR}", True),
    "no devkit": (without("ILSVRC2012_devkit_t12.tar.gz"), "has no ILSVRC2012_devkit_t12", True),
    "not the official classes": (
        as_tars,
        "train has 3 classes, not 1,000; if this is intended",
        False,
    ),
    "devkit without meta.mat": (devkit({TRUTH: b"1\n"}), "devkit_t12.tar.gz has no meta.mat", True),
    "devkit without truth": (devkit({"meta.mat": META}), f"has no {TRUTH}", True),
    "meta.mat that is none": (
        devkit({"meta.mat": b"junk" * 99, TRUTH: b"1"}),
        "cannot read the synsets of meta.mat",
        True,
    ),
    "meta.mat of another year": (
        devkit({"meta.mat": imagenet_tars.meta(list(SYNSETS), {}, "ILSVRC2010"), TRUTH: b"1"}),
        "cannot read the synsets of meta.mat",
        True,
    ),
    "meta.mat of no synsets": (
        devkit({"meta.mat": imagenet_tars.meta(["cat", "dog"], {}), TRUTH: b"1"}),
        "does not list synsets",
        True,
    ),
    "truth that is no number": (
        devkit({"meta.mat": META, TRUTH: b"1\nn01440764\n"}),
        "line 2 of ILSVRC2012_validation_ground_truth.txt is 'n01440764'",
        True,
    ),
    "truth out of range": (devkit({"meta.mat": META, TRUTH: b"1\n4\n"}), "line 2 of", True),
    "truth of zero": (devkit({"meta.mat": META, TRUTH: b"0\n"}), "line 1 of", True),
    "truth too short": (
        devkit({"meta.mat": META, TRUTH: b"1\n2\n"}),
        "the ground truth has the lines 1 to 2 only",
        True,
    ),
    "val under another name": (
        tar_of(VAL_TAR, [("ILSVRC2010_val_00000001.JPEG", PLAIN)]),
        "is not named like ILSVRC2012_val_00000001.JPEG",
        True,
    ),
    "val with number 0": (
        tar_of(VAL_TAR, [("ILSVRC2012_val_00000000.JPEG", PLAIN)]),
        "ILSVRC2012_val_00000000.JPEG: the ground truth has",
        True,
    ),
    "val without images": (tar_of(VAL_TAR, []), f"{VAL_TAR} has no images", True),
    "train as a flat tar": (
        tar_of(TRAIN_TAR, [("n01440764/a.JPEG", PLAIN)]),
        "n01440764/a.JPEG is not a .tar",
        True,
    ),
    "inner tar without a synset": (
        tar_of(TRAIN_TAR, [("tench.tar", INNER)]),
        "named after a synset, such as n01440764.tar",
        True,
    ),
    "inner tar of an unknown synset": (
        tar_of(TRAIN_TAR, [("n00000001.tar", INNER)]),
        "n00000001.tar is not a class of the devkit",
        True,
    ),
    "image of another class": (
        tar_of(TRAIN_TAR, [("n01443537.tar", INNER)]),
        "n01443537.tar/n01440764_0.JPEG is named as an image of class n01440764",
        True,
    ),
    "inner tar that is no tar": (
        tar_of(TRAIN_TAR, [("n01440764.tar", PLAIN.ljust(1024, b"x"))]),
        "n01440764.tar is not a tar archive",
        True,
    ),
    "CIFAR-10 with a batch less": (cifar(cifar_files()[1:]), "has no data_batch_1.bin", False),
    "CIFAR-10 with a short batch": (
        cifar([(n, c[:-1] if "batch_3" in n else c) for n, c in cifar_files()]),
        "data_batch_3.bin has 12291 bytes, but there should be",
        False,
    ),
    "CIFAR-10 with a label too high": (
        cifar([(n, b"\x0a" + c[1:]) for n, c in cifar_files()]),
        "data_batch_1.bin has the label 10",
        False,
    ),
    "CIFAR-10 in pickles": (
        one_file(CIFAR, imagenet_tars.tar([("x/data_batch_1", pickle.dumps(0))], "w:gz")),
        "is the Python (pickled) version",
        False,
    ),
    "CIFAR-10 in unpacked pickles": (
        folder_of(data_batch_1=pickle.dumps(0)),
        "Python (pickled) version",
        False,
    ),
    "tfds: damaged description": (changed_tfds(lambda text: text[:90]), "cannot read", False),
    "tfds: another number of examples": (
        changed_tfds(lambda text: text.replace('"15"', '"16"')),
        "example 15 of train: index 15 out of bound",
        False,
    ),
    "tfds: shard cut off": (cut_shard, "example 0 of train: ArrayRecord file", False),
    "a picture": (one_file("cat.jpg", PLAIN), "cat.jpg is neither a folder nor an archive", False),
    "archive of pictures alone": (
        one_file("x.tar", imagenet_tars.tar([("a.jpg", PLAIN), ("b/c.jpg", PLAIN)])),
        "a.jpg is not in a class folder",
        False,
    ),
    "archive with a stray class": (
        one_file("x.tar", imagenet_tars.tar([("train/a/b.jpg", PLAIN), ("a/b.jpg", PLAIN)])),
        "a/b.jpg is not in a folder train/CLASS",
        False,
    ),
    "archive of val alone": (
        one_file("x.tar", imagenet_tars.tar([("val/a/b.jpg", PLAIN)])),
        "has no folder train",
        False,
    ),
    "train.tar with val inside": (
        folder_of(**{"train.tar": imagenet_tars.tar([("val/a/b.jpg", PLAIN)])}),
        "train.tar has a folder val, not train",
        False,
    ),
    "empty archive": (one_file("x.tar", imagenet_tars.tar([])), "x.tar has no images", False),
}


@pytest.mark.fault("F21")
@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_source_is_named_with_what_is_wrong(case, tmp_path):
    make, message, subset = MALFORMED[case]
    source = make(tmp_path / "source") or tmp_path / "source"
    with pytest.raises(DataError) as caught:
        run(source, tmp_path / "store", *["--subset"] * subset)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(tmp_path / "source") in str(caught.value)
    assert caught.value.exit_code == 3
    assert {path.name for path in tmp_path.iterdir()} <= {"source"}


@pytest.mark.fault("F29")
def test_counts_are_compared_with_the_official_ones(tmp_path, monkeypatch):
    as_tars(tmp_path / "source")
    monkeypatch.setattr("alexnet_jax.data.prepare.ilsvrc.NUM_CLASSES", 3)
    with pytest.raises(DataError, match="ILSVRC2012 train has 15 images, not 1,281,167"):
        run(tmp_path / "source", tmp_path / "store")
    monkeypatch.setattr(
        "alexnet_jax.data.prepare.ilsvrc.COUNTS", {"ILSVRC2012": {"train": 15, "val": 9}}
    )
    run(tmp_path / "source", tmp_path / "store")


def test_ten_digits_may_be_classes():
    assert not selection.numbered("0123456789")
    assert selection.numbered(map(str, range(11)))


# Kills


def start(source, out, jobs):
    command = [
        sys.executable,
        "-m",
        "alexnet_jax",
        "prepare",
        "--from",
        source,
        "--out",
        out,
    ]
    return subprocess.Popen([*map(str, command), "--size", "48", "--jobs", str(jobs)], cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder with `source`, 900 pictures that make 8 shards, and with `golden`, their store."""
    root = tmp_path_factory.mktemp("many")
    train = [
        Picture(synset, f"{synset}_{i}.JPEG", noise((label, i), 90, 70))
        for label, synset in enumerate(SYNSETS)
        for i in range(280)
    ]
    imagenet_tars.folders(root / "source", train, imagenet_tars.shuffled(pictures(20, 900)))
    prepare.main(["--from", str(root / "source"), "--out", str(root / "golden"),
                  "--size", "48", "--jobs", "1"])  # fmt: skip
    return root


@pytest.mark.full
@pytest.mark.fault("F1")
def test_killed_again_and_again_the_store_is_the_same(many, tmp_path):
    out = tmp_path / "store"
    for finished, jobs in ((1, 2), (3, 1), (5, 2)):  # shards there when the blow falls
        process = start(many / "source", out, jobs)
        done = tmp_path / "store.preparing" / "done"
        while process.poll() is None and len(list(done.glob("[!p]*.json"))) < finished:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not out.exists()
    kept = {path: path.stat().st_mtime_ns for path in done.glob("[!p]*.json")}
    (tmp_path / "store.preparing" / "store" / "part-1.train-00007.array_record").write_bytes(b"x")
    damaged = tmp_path / "store.preparing" / "store" / "val-00000.array_record"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    process = start(many / "source", out, 1)
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "is complete after" in said and len(kept) >= 5
    assert tree(out) == tree(many / "golden")
    assert not (tmp_path / "store.preparing").exists()


STOPPED = "stopped; the same command continues where it stopped\n"


@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 75, marks=pytest.mark.full)],
)
@pytest.mark.usefixtures("without_xla_flags")
def test_a_signal_ends_it_with_one_line_and_it_continues(many, tmp_path, number, code):
    process = start(many / "source", tmp_path / "store", 2)
    done = tmp_path / "store.preparing" / "done"
    while process.poll() is None and not list(done.glob("[!p]*.json")):
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code
    assert errors == STOPPED
    assert list(done.glob("[!p]*.json"))


def test_sigterm_has_an_exit_code_of_its_own(tmp_path, monkeypatch, capsys):
    as_folders(tmp_path / "source")

    def terminate(tasks, results, *_):
        if results:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(prepare, "_check_refused", terminate)
    assert run(tmp_path / "source", tmp_path / "store") == 75
    assert capsys.readouterr().err == STOPPED
    assert list((tmp_path / "store.preparing" / "done").glob("[!p]*.json"))


@pytest.mark.fault("F34")
@pytest.mark.usefixtures("without_xla_flags")
def test_a_worker_that_is_killed_is_said_and_it_continues(many, tmp_path):
    process = start(many / "source", tmp_path / "store", 2)
    done = tmp_path / "store.preparing" / "done"
    while process.poll() is None and not list(done.glob("[!p]*.json")):
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(pid) for pid in children
               if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]  # fmt: skip
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 7 and len(errors.splitlines()) == 1
    assert "run the same command again with a lower --jobs" in errors
    assert list(done.glob("[!p]*.json"))
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


# Real files


def test_real_images_make_one_store_from_tars_and_folders(tmp_path):
    if "ALEXNET_JAX_DATA" not in os.environ:
        pytest.skip("ALEXNET_JAX_DATA does not say where imagenet-samples/n01440764_*.JPEG ... are")
    folder = Path(os.environ["ALEXNET_JAX_DATA"]) / "imagenet-samples"
    found, words = imagenet_tars.read(folder)
    assert len(found) == 300, f"{folder} is not complete"
    val = imagenet_tars.shuffled(found)
    imagenet_tars.pack(tmp_path / "tars", found, val, words)
    imagenet_tars.folders(tmp_path / "folders", found, val)
    for kind in ("tars", "folders"):
        arguments = ["--from", str(tmp_path / kind), "--out", str(tmp_path / f"{kind}-store")]
        prepare.main([*arguments, "--subset"])
    assert same_but_for_names(tmp_path / "tars-store", tmp_path / "folders-store")
    index = store_format.read_index(tmp_path / "tars-store")
    assert index.words[0] == "tench" and len(index.classes) == 300
    assert index.report["duplicates"]["count"] == 300  # val is train here
    assert np.array_equal(np.load(tmp_path / "tars-store" / "val-labels.npy"), np.arange(300))
    assert index.report["converted"]["train"]["gray, now RGB"]["count"] == 6
