"""The copies of ImageNet that people have, and other sets in these forms: recognized, read alike, and refused."""

import contextlib
import csv
import errno
import io
import json
import os
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import identity
from alexnet_jax.data.prepare import command as prepare
from alexnet_jax.data.prepare import discovery, doctor
from alexnet_jax.data.sources import folder, forms, huggingface, listing, store_format
from alexnet_jax.errors import ConfigError, DataError, StorageError
from tests.data import copies, imagenet_tars
from tests.data.copies import COPIES, WORDS, write
from tests.data.imagenet_tars import Picture, tar

SYNSETS = tuple(WORDS)
NEED_PYARROW = ("parquet", "saved")


def jpeg(*seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9 + seed[-1], 12, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


def pictures(count: int, first: int) -> list[Picture]:
    """Their numbers have one or two digits, so that a suffix to the name would change the order."""
    return [
        Picture(synset, f"{synset}_{i + 8}.JPEG", jpeg(first, label, i))
        for label, synset in enumerate(SYNSETS)
        for i in range(count)
    ]


TRAIN, VAL = pictures(4, 0), imagenet_tars.shuffled(pictures(2, 100))


def make(name: str, root: Path) -> Path:
    if name in NEED_PYARROW:
        pytest.importorskip("pyarrow")
    return COPIES[name](root, TRAIN, VAL)


def run(source: Path, out: Path, *arguments: str) -> int:
    return prepare.main(["--from", str(source), "--out", str(out), "--format", "raw", "--size", "8",
                         "--jobs", "1", *arguments])  # fmt: skip


@contextlib.contextmanager
def refused(*faults: str):
    """Expects a DataError that names all of `faults`."""
    with pytest.raises(DataError) as caught:
        yield caught
    for fault in faults:
        assert fault in str(caught.value)


def content(store: Path) -> dict[str, bytes]:
    lists = ("index.json", "duplicates.jsonl", "refused.jsonl")
    return {path.name: path.read_bytes() for path in store.iterdir() if path.name not in lists}


def pixels(dataset) -> dict[str, np.ndarray]:
    return {
        name: split.images[np.arange(len(split.labels))] for name, split in dataset.splits.items()
    }


@pytest.fixture(scope="module")
def from_tars(tmp_path_factory):
    root = tmp_path_factory.mktemp("tars")
    imagenet_tars.pack(root / "source", TRAIN, VAL, WORDS)
    run(root / "source", root / "store", "--subset")
    return root / "store"


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    imagenet_tars.folders(root, TRAIN, VAL)
    return root


@pytest.mark.parametrize("name", COPIES)
def test_every_copy_makes_the_store_of_the_official_archives(name, from_tars, tmp_path):
    source = make(name, tmp_path / "source")
    assert run(source, tmp_path / "store", "--subset") == 0
    assert content(tmp_path / "store") == content(from_tars)
    made, official = (store_format.read_index(store) for store in (tmp_path / "store", from_tars))
    assert made.fingerprint == official.fingerprint and made.classes == SYNSETS
    if name not in ("webdataset", "labels-csv"):  # which know no words
        assert made.words == official.words == tuple(WORDS.values())


@pytest.mark.parametrize("name", COPIES)
def test_every_copy_is_trained_on_as_class_folders_are(name, class_folders, tmp_path, data_spec):
    source = make(name, tmp_path / "source")
    expected = sources.open_dataset(data_spec("folder", class_folders), 0)
    found = sources.open_dataset(data_spec("folder", source), 0)
    assert found.fingerprint == expected.fingerprint and found.class_names == SYNSETS
    assert all(
        np.array_equal(pixels(found)[name], pixels(expected)[name]) for name in ("train", "val")
    )
    held_out = sources.open_dataset(data_spec("folder", source, validation=0.25), 0)
    same = sources.open_dataset(data_spec("folder", class_folders, validation=0.25), 0)
    assert held_out.fingerprint == same.fingerprint and len(held_out.splits["val"].labels) == 3
    assert folder.count_training_images(data_spec("folder", source, validation=0.25)) == 9
    module = {"labels-csv": "labels_csv", "parquet": "huggingface", "saved": "huggingface"}
    by_name = data_spec(module.get(name, name.split("-")[0]), source)
    assert sources.open_dataset(by_name, 0).fingerprint == expected.fingerprint


@pytest.mark.parametrize("name", COPIES)
def test_a_run_does_not_continue_with_another_image(name, tmp_path, data_spec):
    source = make(name, tmp_path / "source")
    before = sources.open_dataset(data_spec("folder", source), 0)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / identity.RECORD).write_bytes(identity.record(before))
    other = [TRAIN[0]._replace(content=jpeg(9, 9)), *TRAIN[1:]]
    changed = sources.open_dataset(
        data_spec("folder", COPIES[name](tmp_path / "other", other, VAL)), 0
    )
    with pytest.raises(ConfigError, match=r"1 of 12 training images \(8.33 %\) were replaced"):
        identity.compare(tmp_path / "run", before.fingerprint, changed)


@pytest.mark.parametrize("name", COPIES)
def test_an_unreadable_image_is_named_and_can_be_skipped(name, tmp_path, data_spec, capsys):
    broken = [TRAIN[0]._replace(content=b"no image"), *TRAIN[1:]]
    make(name, tmp_path / "whole")
    source = COPIES[name](tmp_path / "source", broken, VAL)
    dataset = sources.open_dataset(data_spec("folder", source), 0)
    with pytest.raises(DataError, match=r"n01440764_8.* is not an image"):
        sources.check(dataset, data_spec("folder", source))
    skipping = sources.open_dataset(data_spec("folder", source, skip_unreadable=True), 0)
    assert len(skipping.splits["train"].labels) == 11 and len(skipping.skipped) == 1
    with pytest.raises(DataError, match="1 images of train cannot be used"):
        run(source, tmp_path / "store", "--subset")
    with pytest.raises(DataError, match=r"thing to fix|things to fix"):
        doctor.main([str(source), "--subset", "--jobs", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("FIX") and "n01440764_8" in line for line in lines) == 1


@pytest.mark.parametrize("name", ["kaggle-tar-gz", "parquet"])
def test_what_must_be_unpacked_is_kept_in_the_cache_within_its_limit(
    name, tmp_path, data_spec, cache_folder, monkeypatch
):
    source = make(name, tmp_path / "source")
    sources.open_dataset(data_spec("folder", source), 0)
    kept = {path.stat().st_ino for path in cache_folder.glob("unpacked-*")}
    sources.open_dataset(data_spec("folder", source), 0)
    assert kept == {path.stat().st_ino for path in cache_folder.glob("unpacked-*")}
    assert len(kept) == (5 if name == "parquet" else 1)  # without test, which has no labels
    monkeypatch.setenv("ALEXNET_JAX_CACHE_GIB", "1e-6")
    with pytest.raises(DataError, match=r"ALEXNET_JAX_CACHE.* alexnet prepare --from"):
        sources.open_dataset(data_spec("folder", source), 0)


def test_what_was_unpacked_is_found_without_reading_the_source_until_that_changes(
    tmp_path, cache_folder, monkeypatch
):
    (source,) = make("kaggle-tar-gz", tmp_path / "source").glob("*.tar.gz")
    forms.find(source, listing.CacheUnpack())
    (kept,) = cache_folder.glob("unpacked-*")
    status = source.stat()
    with monkeypatch.context() as patch:
        patch.setattr("alexnet_jax.files.sha256_of", None)
        patch.setattr("alexnet_jax.data.sources.archives.gunzip", None)
        forms.find(source, listing.CacheUnpack())
    assert list(cache_folder.glob("unpacked-*")) == [kept]
    source.write_bytes(source.read_bytes())  # the same size and, then, the same time
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    forms.find(source, listing.CacheUnpack())
    assert len(list(cache_folder.glob("unpacked-*"))) == 2


def test_room_for_what_must_be_unpacked_is_checked_first(tmp_path, monkeypatch):
    source = make("parquet", tmp_path / "source")
    usage = types.SimpleNamespace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(StorageError, match=r"unpacking takes [0-9,]+ bytes, and 1,000 are free"):
        run(source, tmp_path / "store", "--subset")
    assert not list(tmp_path.glob("store*"))


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    source = make("parquet", tmp_path / "source")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r'need pyarrow: pip install -e "\.\[parquet\]"'):
        discovery.find(source, tmp_path)


def test_class_folders_remain_class_folders(tmp_path, data_spec):
    """Also with a table of labels or annotations beside them."""
    imagenet_tars.folders(tmp_path / "split", TRAIN, VAL)
    write(tmp_path / "split" / "labels.csv", f"image,label\n{TRAIN[0].name},cat\n")
    for name in ("cat", "dog"):
        for i in range(2):
            write(tmp_path / "flat" / name / f"{name}{i}.jpg", jpeg(i))
    write(
        tmp_path / "flat" / "sizes.csv",
        "image,width,height\ncat/cat0.jpg,12,9\ndog/dog0.jpg,12,9\n",
    )
    write(tmp_path / "flat" / "more.csv", "image,label\ncat/cat0.jpg,one\ndog/dog0.jpg,two\n")
    for name, classes in (("split", SYNSETS), ("flat", ("cat", "dog"))):
        assert forms.find(tmp_path / name, listing.CacheUnpack()) is None
        found = sources.open_dataset(data_spec("folder", tmp_path / name), 0)
        assert found.class_names == classes


def test_the_images_of_the_chosen_form_are_counted(tmp_path, data_spec):
    root = make("kaggle", tmp_path / "root")
    files = [(f"{i}.{end}", content) for i in range(5) for end, content in
             (("jpg", TRAIN[i].content), ("cls", b"%d" % (i % 2)))]  # fmt: skip
    write(root / "train-0.tar", tar(files))
    expected = {"folder": 12, "kaggle": 12, "webdataset": 5, "labels_csv": None}
    for source, count in expected.items():
        assert folder.count_training_images(data_spec(source, root)) == count


def test_archives_of_classes_are_no_shards(tmp_path):
    for synset in SYNSETS:
        members = [(p.name, p.content) for p in TRAIN if p.synset == synset]
        write(tmp_path / "train" / f"{synset}.tar", tar(members))
    assert discovery.find(tmp_path, tmp_path).kind == "class folders"


# Kaggle


def test_inner_folders_of_kaggle_are_known_and_a_sorted_val_is_read(tmp_path, data_spec):
    root = make("kaggle", tmp_path / "root")
    for path in (root / "ILSVRC", root / "ILSVRC/Data/CLS-LOC"):
        assert discovery.find(path, tmp_path).kind == "Kaggle's copy of ILSVRC2012"
    inner = root / "ILSVRC/Data/CLS-LOC"
    for picture in copies.numbered(VAL):
        (inner / "val" / picture.synset).mkdir(exist_ok=True)
        (inner / "val" / picture.name).rename(inner / "val" / picture.synset / picture.name)
    (root / "LOC_val_solution.csv").unlink()
    found = discovery.find(root, tmp_path)
    assert not found.missing and sorted(map(len, found.splits["val"].values())) == [2, 2, 2]


def test_the_counts_of_kaggle_must_be_the_official_ones(tmp_path):
    with pytest.raises(
        DataError,
        match="ILSVRC2012 train has 3 classes, not 1,000; if this is intended, give --subset",
    ):
        run(make("kaggle", tmp_path / "source"), tmp_path / "store")


def break_kaggle(root: Path) -> None:
    images = root / "ILSVRC/Data/CLS-LOC"
    (images / "train" / SYNSETS[0] / f"{SYNSETS[1]}_7.JPEG").write_bytes(TRAIN[0].content)
    (images / "train" / "n99999999").mkdir()
    (images / "train" / "n99999999" / "n99999999_1.JPEG").write_bytes(TRAIN[0].content)
    (images / "val" / "ILSVRC2012_val_00000099.JPEG").write_bytes(TRAIN[0].content)
    truth = (root / "LOC_val_solution.csv").read_text()
    (root / "LOC_val_solution.csv").write_text(truth + "ILSVRC2012_val_00000050,tench 1 2\n")
    mapping = (root / "LOC_synset_mapping.txt").read_text()
    (root / "LOC_synset_mapping.txt").write_text(mapping + "what?\n")


def test_all_faults_of_kaggle_are_told_at_once(tmp_path, data_spec):
    root = make("kaggle", tmp_path / "source")
    break_kaggle(root)
    for read in (
        lambda: run(root, tmp_path / "store", "--subset"),
        lambda: sources.open_dataset(data_spec("folder", root), 0),
    ):
        with refused(
            "images whose names and labels have different synsets; correct the labels: 1",
            "images of train whose class is not in LOC_synset_mapping.txt: 1",
            "images of val without a label: 1",
            "rows of LOC_val_solution.csv without a synset: 1 (line 8)",
            "lines of LOC_synset_mapping.txt that name no synset: 1 (line 4)",
        ):
            read()


def test_missing_pieces_of_kaggle_are_named(tmp_path, data_spec):
    root = make("kaggle", tmp_path / "source")
    (root / "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG").unlink()
    write(
        root / "LOC_synset_mapping.txt",
        (root / "LOC_synset_mapping.txt").read_text() + "n02123045 tabby\n",
    )
    with pytest.raises(DataError) as caught:
        sources.open_dataset(data_spec("folder", root), 0)
    assert "1 images of LOC_val_solution.csv are not in val: ILSVRC2012_val_00000001" in str(
        caught.value
    )
    assert "1 classes of LOC_synset_mapping.txt have no images in train: n02123045" in str(
        caught.value
    )
    assert "or prepare a store with --subset" in str(caught.value)
    assert run(root, tmp_path / "store", "--subset") == 0
    (root / "LOC_val_solution.csv").unlink()
    with pytest.raises(
        DataError, match=r"no LOC_val_solution.csv with the labels of val .*: add it"
    ):
        sources.open_dataset(data_spec("folder", root), 0)


def test_a_damaged_list_of_validation_labels_is_a_fault(tmp_path):
    root = make("kaggle", tmp_path / "source")
    write(root / "LOC_val_solution.csv", b"<html>")
    with pytest.raises(DataError, match=r"LOC_val_solution.csv has no row with a synset: download"):
        run(root, tmp_path / "store", "--subset")


def test_a_folder_with_nothing_but_the_archive_of_kaggle_is_known(tmp_path, from_tars):
    path = make("kaggle-zip", tmp_path / "source")
    assert run(path.parent, tmp_path / "store", "--subset") == 0
    assert content(tmp_path / "store") == content(from_tars)


def test_a_list_beside_the_archive_of_kaggle_that_cannot_be_read_is_a_fault(tmp_path, monkeypatch):
    make("kaggle", tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in (tmp_path / "whole/ILSVRC").rglob("*.JPEG"):
            archive.write(path, path.relative_to(tmp_path / "whole"))
    for name in ("LOC_val_solution.csv", "LOC_synset_mapping.txt"):
        (tmp_path / "whole" / name).rename(tmp_path / name)
    assert not forms.find(tmp_path / "a.zip", listing.CacheUnpack()).faults
    path_open = io.open

    def refusing(path, *arguments, **options):
        if str(path).endswith("LOC_synset_mapping.txt"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return path_open(path, *arguments, **options)

    monkeypatch.setattr(io, "open", refusing)  # which pathlib calls
    monkeypatch.setattr("builtins.open", refusing)
    found = forms.find(tmp_path / "a.zip", listing.CacheUnpack())
    fault = f"cannot read {tmp_path / 'LOC_synset_mapping.txt'}: Permission denied"
    assert found.faults == [fault]


def test_hostile_archives_of_kaggle_are_refused(tmp_path):
    write(tmp_path / "a.tar.gz", tar([("ILSVRC/x", b""), ("../../evil.JPEG", b"x")], "w:gz"))
    with pytest.raises(DataError, match=r"evil.JPEG leads out of the archive"):
        discovery.find(tmp_path / "a.tar.gz", tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ILSVRC/Data/CLS-LOC/train/n01440764/a.JPEG", bytes(10**6))
    with pytest.raises(DataError, match=r"states 1,000,000 bytes, packed in .*: refused"):
        discovery.find(tmp_path / "a.zip", tmp_path)


# Hugging Face


def hub(root: Path, names=("dog", "ant", "cat"), **options) -> Path:
    """Three classes that are not in sorted order, as a hub dataset without names of files."""
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    options = {"name": lambda picture: None} | options
    for split in ("train", "test"):
        found = copies.table(TRAIN if split == "train" else VAL, list(SYNSETS), names, **options)
        (root / "plain_text").mkdir(parents=True, exist_ok=True)
        pq.write_table(found, root / "plain_text" / f"{split}-00000-of-00001.parquet")
    return root


@pytest.mark.parametrize(
    "columns", [("img", "label"), ("image", "labels"), ("picture", "fine_label")]
)
def test_classes_are_the_sorted_names_whatever_the_labels(columns, tmp_path, data_spec):
    image, label = columns
    root = hub(tmp_path, image=image, label=label)
    found = sources.open_dataset(data_spec("huggingface", root), 0)
    assert found.class_names == ("ant", "cat", "dog")
    # Labels 0, 1, 2 are dog, ant, cat; TRAIN has four of each, and images come in the order of the rows.
    assert found.splits["train"].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    expected = [identity.digests.of_bytes(p.content) for p in (*TRAIN[4:], *TRAIN[:4])]
    assert found.splits["train"].digests.tolist() == expected
    assert set(found.splits) == {"train", "test"}


CARD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': dog
          '1': ant, the insect
          '2': 'cat''s'
  splits:
  - name: train
---
# A card
"""


def test_names_come_from_the_card_or_are_numbers(tmp_path, data_spec):
    root = hub(tmp_path, names=None)
    assert sources.open_dataset(data_spec("folder", root), 0).class_names == ("0", "1", "2")
    write(root / "README.md", CARD)
    found = sources.open_dataset(data_spec("folder", root), 0)
    assert found.class_names == ("ant, the insect", "cat's", "dog")
    write(
        root / "plain_text" / "dataset_info.json", json.dumps({"features": copies.features("abc")})
    )
    assert sources.open_dataset(data_spec("folder", root), 0).class_names == ("a", "b", "c")


def test_labels_may_be_bools_but_no_lists(tmp_path, data_spec):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = [picture.content for picture in TRAIN[:2]]
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": images, "label": [True, False]}), path)
    assert sources.open_dataset(data_spec("folder", path), 0).class_names == ("0", "1")
    pq.write_table(pa.table({"image": images, "label": [[1], [0, 1]]}), path)
    with pytest.raises(DataError, match="rows whose label is neither an integer nor a name: 2"):
        sources.open_dataset(data_spec("folder", path), 0)


def test_labels_may_be_names(tmp_path, data_spec):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    found = copies.table(TRAIN, list(SYNSETS), None, name=lambda picture: None)
    found = found.set_column(1, "label", pa.array([f"the {p.synset}" for p in TRAIN]))
    pq.write_table(found, tmp_path / "train.parquet", compression="zstd")
    names = sources.open_dataset(data_spec("folder", tmp_path), 0).class_names
    assert names == tuple(f"the {synset}" for synset in SYNSETS)


def test_many_labels_without_names_sort_as_numbers(tmp_path, data_spec):
    files = []
    for i in range(12):
        files += [(f"{i}.png", TRAIN[i].content), (f"{i}.cls", b"%d" % i)]
    write(tmp_path / "train-0.tar", tar(files))
    found = sources.open_dataset(data_spec("folder", tmp_path), 0)
    assert found.class_names[:3] == ("label 00", "label 01", "label 02")
    assert found.splits["train"].labels.tolist() == list(range(12))
    assert run(tmp_path, tmp_path / "store") == 0
    assert store_format.read_index(tmp_path / "store").classes == found.class_names


def test_names_that_are_numbers_sort_as_numbers_and_none_occurs_twice(tmp_path, data_spec):
    root = hub(tmp_path / "numbers", names=("10", "9", "2"))
    found = sources.open_dataset(data_spec("folder", root), 0)
    assert found.class_names == ("label 02", "label 09", "label 10")
    root = hub(tmp_path / "twice", names=("crane", "ant", "crane"))
    with pytest.raises(DataError, match=r"classes 0 and 2 \(from 0\) have the same name 'crane'"):
        sources.open_dataset(data_spec("folder", root), 0)


def test_names_without_images_are_left_out_with_a_note(tmp_path, data_spec):
    root = hub(tmp_path, names=("dog", "ant", "cat", "eel"))
    found = sources.open_dataset(data_spec("folder", root), 0)
    assert found.class_names == ("ant", "cat", "dog")
    assert any("left out 1 of 4 classes, which have no images: eel" in note for note in found.notes)


def test_all_faults_of_labels_are_told_at_once(tmp_path, data_spec):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    found = copies.table(TRAIN, list(SYNSETS), ["a", "b", "c"], name=lambda picture: None)
    rows = found.column("image").to_pylist()
    rows[3] = {"bytes": None, "path": "somewhere/3.jpg"}
    labels = [0, 7, None, 1, *[0, 1, 2] * 2, -1, -1]
    found = pa.table({"image": rows, "label": labels}, schema=found.schema)
    pq.write_table(found, tmp_path / "train-00000-of-00003.parquet")
    write(tmp_path / "train-00001-of-00003.parquet", b"PAR1 damaged PAR1")
    with refused(
        "cannot read",
        "download it again",
        "images of train whose label is none of 0 to 2: 1",
        "images of train without a label: 3",
        "rows without the bytes of an image",
        "lacks 1 shards of train (train-00002): download them",
    ) as caught:
        sources.open_dataset(data_spec("folder", tmp_path), 0)
    assert "\n" not in str(caught.value)


def test_a_label_that_contradicts_the_synset_of_the_name_is_a_fault(tmp_path, data_spec):
    pytest.importorskip("pyarrow")
    wrong = [TRAIN[0]._replace(synset=SYNSETS[1]), *TRAIN[1:]]
    name = lambda picture: picture.name  # noqa: E731
    root = copies.parquet(tmp_path, wrong, VAL, name=name)
    with pytest.raises(
        DataError, match=r"names and labels have different synsets; correct the labels: 1 \("
    ):
        sources.open_dataset(data_spec("folder", root), 0)


def test_several_datasets_in_one_folder_are_refused(tmp_path):
    pytest.importorskip("pyarrow")
    hub(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "plain_text").rename(tmp_path / "plain_text")
    for path in (tmp_path / "plain_text").iterdir():
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(
        DataError, match=r"holds several datasets, in .*b, .*plain_text; give the folder of one"
    ):
        forms.find(tmp_path, listing.CacheUnpack())


def test_damage_in_saved_datasets_is_named(tmp_path, data_spec):
    root = make("saved", tmp_path / "source")
    state = json.loads((root / "train/state.json").read_text())
    path = root / "train" / state["_data_files"][0]["filename"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-700])
    with pytest.raises(
        DataError, match=r"cannot read .*data-00000-of-00003.arrow: .*; download it again"
    ):
        sources.open_dataset(data_spec("folder", root), 0)
    path.unlink()
    with pytest.raises(DataError, match=r"data-00000-of-00003.arrow is missing: copy it, too"):
        sources.open_dataset(data_spec("folder", root), 0)
    path.write_bytes(whole)
    write(
        root / "train/state.json", json.dumps(state | {"_indices_data_files": [{"filename": "x"}]})
    )
    with pytest.raises(DataError, match=r"selects rows: save it again after flatten_indices\(\)"):
        sources.open_dataset(data_spec("folder", root), 0)


def test_bombs_are_refused(tmp_path):
    """One image of 8 MB, 400 times, takes as much as one in a Parquet file."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = pa.array([bytes(2**20)]).take(pa.array([0] * 400))
    bomb = pa.table({"image": rows, "label": pa.array([0] * 400)})
    pq.write_table(bomb, tmp_path / "train.parquet", compression="zstd")
    with pytest.raises(
        DataError, match=r"train.parquet unpacks to more than 200 times itself: refused"
    ):
        run(tmp_path, tmp_path / "store")


def test_compressed_arrow_files_are_refused(tmp_path):
    pa = pytest.importorskip("pyarrow")
    found = copies.table(TRAIN, list(SYNSETS), None)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        pa.OSFile(str(tmp_path / "train.arrow"), "wb") as file,
        pa.ipc.new_stream(file, found.schema, options=options) as out,
    ):
        out.write_table(found)
    with pytest.raises(DataError, match="is compressed within: save it again without compression"):
        run(tmp_path, tmp_path / "store")


def test_a_dataset_saved_alone_is_train(tmp_path, data_spec):
    pytest.importorskip("pyarrow")
    copies.stream(tmp_path / "one", [TRAIN], list(SYNSETS))
    found = sources.open_dataset(data_spec("folder", tmp_path / "one"), 0)
    assert found.class_names == SYNSETS and list(found.splits) == ["train"]


def test_datasets_of_hugging_face_are_read_as_their_library_writes_them(
    tmp_path, data_spec, class_folders
):
    datasets = pytest.importorskip("datasets", reason="Hugging Face's library is not pinned here")
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=list(WORDS.values()))
    )

    def rows(pictures: list[Picture]) -> list[dict]:
        return [
            {
                "image": {"bytes": p.content, "path": copies.hub_name(p)},
                "label": SYNSETS.index(p.synset),
            }
            for p in pictures[::-1]
        ]

    found = datasets.DatasetDict(
        train=datasets.Dataset.from_list(rows(TRAIN), features=features),
        validation=datasets.Dataset.from_list(rows(copies.numbered(VAL)), features=features),
    )
    found.save_to_disk(str(tmp_path / "saved"), num_shards={"train": 3, "validation": 1})
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for split in found:
        found[split].to_parquet(str(tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet"))
    expected = sources.open_dataset(data_spec("folder", class_folders), 0).fingerprint
    for name in ("saved", "hub"):
        opened = sources.open_dataset(data_spec("folder", tmp_path / name), 0)
        assert opened.fingerprint == expected


# WebDataset


def test_shards_that_their_library_writes_are_read(tmp_path, data_spec, class_folders):
    library = pytest.importorskip("webdataset", reason="webdataset is not pinned here")
    for split, pictures in (("train", TRAIN), ("val", copies.numbered(VAL))):
        pattern = str(tmp_path / "shards" / f"{split}-%06d.tar")
        (tmp_path / "shards").mkdir(exist_ok=True)
        with library.ShardWriter(pattern, maxcount=5, verbose=0) as out:
            for picture in pictures[::-1]:
                key, label = picture.name.rpartition(".")[0], SYNSETS.index(picture.synset)
                out.write({"__key__": key, "jpg": picture.content, "cls": label})
    opened = sources.open_dataset(data_spec("folder", tmp_path / "shards"), 0)
    expected = sources.open_dataset(data_spec("folder", class_folders), 0)
    assert opened.fingerprint == expected.fingerprint


def test_labels_may_be_in_json_and_names_in_a_list(tmp_path, data_spec):
    """The layout of CLIP benchmarks: folders of splits, shards 0.tar, 1.tar, and classnames.txt."""
    for split in ("train", "test"):
        files = [
            (f"s{i:04}.{end}", content)
            for i, picture in enumerate(TRAIN)
            for end, content in (
                ("webp", picture.content),
                ("json", json.dumps({"label": SYNSETS.index(picture.synset)}).encode()),
                ("txt", b"a photo"),
            )
        ]
        write(tmp_path / split / "0.tar", tar(files))
    write(tmp_path / "classnames.txt", "dog\nant\ncat\n")
    found = sources.open_dataset(data_spec("folder", tmp_path), 0)
    assert found.class_names == ("ant", "cat", "dog") and set(found.splits) == {"train", "test"}
    assert found.splits["train"].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_all_faults_of_shards_are_told_at_once(tmp_path, data_spec):
    image = TRAIN[0].content
    files = [
        ("a.jpg", image), ("a.cls", b"0"), ("b.jpg", image), ("c.cls", b"1"),
        ("d.jpg", image), ("d.png", image), ("d.cls", b"1"), ("e.jpg", image), ("e.json", b"{]"),
    ]  # fmt: skip
    write(tmp_path / "train-0000.tar", tar(files))
    write(tmp_path / "train-0001.tar", b"x" * 1000)
    write(tmp_path / "train-0003.tar", tar(files[:2]))
    with refused(
        "train-0001.tar: it is not a tar archive",
        "samples whose label in KEY.cls or KEY.json cannot be read: 1 (",
        "images of train without a label: 1 (",
        "samples without an image: 1",
        "samples with several images; a key ends at its first dot: 1",
        "lacks 1 shards of train (train-0002): download them",
    ):
        sources.open_dataset(data_spec("folder", tmp_path), 0)


def shard(path: Path, count: int, form: str, label: bytes | None = b"0", end: str = "cls") -> None:
    """Write a tar with samples whose keys are made by `form`."""
    files = [(f"{form.format(i)}.jpg", jpeg(i)) for i in range(count)]
    if label is not None:
        files += [(f"{form.format(i)}.{end}", label) for i in range(count)]
    write(path, tar(files))


@pytest.mark.parametrize("label", [None, b"{}", b'{"label": null}'])
def test_shards_without_labels_are_left_out(label, tmp_path, data_spec):
    for i in range(2):
        shard(tmp_path / f"train-{i}.tar", 2, "{}", b"%d" % i)
    shard(tmp_path / "test-0.tar", 2, "{}", label, "json")
    found = sources.open_dataset(data_spec("folder", tmp_path), 0)
    assert set(found.splits) == {"train"}
    assert "left out test: none of its 2 images has a label" in " ".join(found.notes)


def test_shards_with_dots_in_keys_and_damaged_first_shards_are_named(tmp_path):
    shard(tmp_path / "dots" / "train-0.tar", 2, "im_0.{}")
    with pytest.raises(DataError, match="several images; a key ends at its first dot: 1"):
        run(tmp_path / "dots", tmp_path / "store")
    write(tmp_path / "first" / "train-0.tar", b"version https://git-lfs.github.com/spec/v1")
    shard(tmp_path / "first" / "train-1.tar", 2, "{}")
    with pytest.raises(DataError, match=r"train-0\.tar: it is cut off or is not a tar archive"):
        run(tmp_path / "first", tmp_path / "store")


def test_links_and_repeated_names_in_shards_are_refused(tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, kind in (
            ("a.jpg", tarfile.REGTYPE),
            ("a.cls", tarfile.REGTYPE),
            ("b.jpg", tarfile.SYMTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry, io.BytesIO())
    write(tmp_path / "train.tar", packed.getvalue())
    with pytest.raises(DataError, match=r"b\.jpg is a symbolic link"):
        run(tmp_path, tmp_path / "store")


# Tables of labels


def table(path: Path, *rows: tuple, delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def flat(root: Path, place: str = "images") -> list[tuple[str, str]]:
    """Images 0.jpg to 5.jpg of two classes in one folder; returns their rows."""
    for i in range(6):
        write(root / place / f"{i}.jpg", jpeg(i))
    return [(f"{i}.jpg", "dog" if i % 2 else "cat") for i in range(6)]


def labels_of(dataset) -> dict[str, list[int]]:
    return {name: split.labels.tolist() for name, split in dataset.splits.items()}


def test_tables_of_many_kinds_are_read(tmp_path, data_spec):
    rows = flat(tmp_path / "plain")
    table(tmp_path / "plain" / "labels.csv", *rows)  # no header
    flat(tmp_path / "ids")
    ids = [(name[:-4], "x.y", kind) for name, kind in rows]
    table(tmp_path / "ids" / "train.csv", ("image_id", "source", "Class Name"), *ids, delimiter=";")
    flat(tmp_path / "beside", ".")
    table(
        tmp_path / "beside" / "a.tsv",
        ("breed", "id"),
        *((b, a[:-4]) for a, b in rows),
        delimiter="\t",
    )
    flat(tmp_path / "paths")
    paths = [(f"/home/someone/images/{name}", kind) for name, kind in rows]
    table(tmp_path / "paths" / "list.csv", ("path", "label"), *paths)
    flat(tmp_path / "hub", "train")
    table(tmp_path / "hub" / "train" / "metadata.csv", ("file_name", "label"), *rows)
    for name in ("plain", "ids", "beside", "paths", "hub"):
        found = sources.open_dataset(data_spec("folder", tmp_path / name), 0)
        assert found.class_names == ("cat", "dog"), name
        assert labels_of(found) == {"train": [0, 0, 0, 1, 1, 1]}, name


def test_tables_that_other_programs_wrote_are_read(tmp_path, data_spec):
    rows = flat(tmp_path / "excel")
    text = "sep=;\n" + "".join(f'"{a}";"{b}"\n' for a, b in [("Image", "Label"), *rows])
    write(tmp_path / "excel" / "list.csv", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    flat(tmp_path / "suffix")
    table(tmp_path / "suffix" / "list.csv", *((a.replace("jpg", "JPG"), b) for a, b in rows))
    for i in range(6):
        write(tmp_path / "composed" / f"e\u0301{i}.jpg", jpeg(i))  # as macOS writes them
    table(tmp_path / "composed" / "list.csv", *((f"\u00e9{a}", b) for a, b in rows))
    for name in ("excel", "suffix", "composed"):
        found = sources.open_dataset(data_spec("folder", tmp_path / name), 0)
        assert found.class_names == ("cat", "dog"), name
        assert labels_of(found) == {"train": [0, 0, 0, 1, 1, 1]}, name


def test_numbers_of_classes_are_not_taken_for_names_of_images(tmp_path, data_spec):
    rows = flat(tmp_path)
    table(
        tmp_path / "list.csv", ("label", "id"), *((i // 3, a[:-4]) for i, (a, _) in enumerate(rows))
    )
    found = sources.open_dataset(data_spec("folder", tmp_path), 0)
    assert labels_of(found) == {"train": [0, 0, 0, 1, 1, 1]}


def test_splits_come_from_a_column_or_from_folders(tmp_path, data_spec):
    rows = [
        (*row, "valid" if i > 3 else "train") for i, row in enumerate(flat(tmp_path / "column"))
    ]
    table(tmp_path / "column" / "labels.csv", ("image", "label", "split"), *rows)
    places = [f"{'val' if i > 3 else 'train'}" for i in range(6)]
    for i, (place, (name, _, _)) in enumerate(zip(places, rows, strict=True)):
        write(tmp_path / "folders" / place / name, jpeg(i))
    table(tmp_path / "folders" / "labels.csv",
          *((f"{place}/{name}", kind) for place, (name, kind, _) in zip(places, rows, strict=True)))  # fmt: skip
    for name in ("column", "folders"):
        found = sources.open_dataset(data_spec("labels_csv", tmp_path / name), 0)
        assert labels_of(found) == {"train": [0, 0, 1, 1], "val": [0, 1]}


def test_a_sample_submission_and_images_without_labels_are_left_out(tmp_path, data_spec):
    rows = flat(tmp_path, "train")
    write(tmp_path / "test" / "9.jpg", jpeg(9))
    table(tmp_path / "labels.csv", ("id", "breed"), *((name[:-4], kind) for name, kind in rows))
    table(tmp_path / "sample_submission.csv", ("id", "cat"), ("9", "0.5"))
    table(tmp_path / "test.csv", ("id", "width", "height"), ("9", "12", "9"))
    found = sources.open_dataset(data_spec("folder", tmp_path), 0)
    assert labels_of(found) == {"train": [0, 0, 0, 1, 1, 1]}
    notes = " ".join(found.notes)
    assert "1 tables that do not label images: test.csv" in notes
    assert "left out 1 images that no table labels" in notes


def test_all_faults_of_a_table_are_told_at_once(tmp_path, data_spec):
    rows = flat(tmp_path)
    table(
        tmp_path / "labels.csv",
        ("image", "label"),
        *rows,
        ("0.jpg", "dog"),
        ("7.jpg", "cat"),
        ("1.jpg", "dog"),
    )
    table(tmp_path / "more.csv", ("image", "a", "b"), ("0.jpg", "1", "2"))
    write(tmp_path / "images" / "6.jpg", jpeg(6))
    table(tmp_path / "third.csv", ("image", "label"), ("6.jpg", ""))
    with refused(
        "images with two labels or in two splits: 1 (",
        "images that labels.csv names and that are not there; add them or remove their rows: 1 (7.jpg)",
        "more.csv: which column is the label? Its first row is image, a, b; call one 'label'",
        "images of train without a label: 1",
    ):
        sources.open_dataset(data_spec("folder", tmp_path), 0)


def test_rows_do_not_lead_out_of_the_folder(tmp_path, data_spec):
    write(tmp_path / "secret.jpg", jpeg(0))
    rows = flat(tmp_path / "root")
    table(tmp_path / "root" / "labels.csv", *rows, ("../secret.jpg", "cat"))
    with pytest.raises(
        DataError, match=r"not there; add them or remove their rows: 1 \(../secret.jpg\)"
    ):
        sources.open_dataset(data_spec("folder", tmp_path / "root"), 0)


def test_a_path_without_the_form_that_was_named_is_refused(tmp_path, data_spec):
    for name in ("kaggle", "huggingface", "webdataset", "labels_csv"):
        with pytest.raises(DataError, match="has no "):
            sources.open_dataset(data_spec(name, tmp_path), 0)


def test_large_datasets_are_identified_by_a_sample(tmp_path, data_spec, monkeypatch):
    monkeypatch.setattr("alexnet_jax.data.pipeline.digests.WHOLE_BYTES", 10)
    source = make("webdataset", tmp_path / "source")
    found = sources.open_dataset(data_spec("folder", source), 0)
    assert found.times and len(set(found.splits["train"].digests.tolist())) == 12
    again = sources.open_dataset(data_spec("folder", source), 0)
    assert again.fingerprint == found.fingerprint


def test_the_readme_is_no_yaml_bomb(tmp_path):
    write(tmp_path / "README.md", "- name: label\n" * 10**5)
    assert huggingface._names_in_readme("label", tmp_path / "x" / "y", tmp_path) is None
