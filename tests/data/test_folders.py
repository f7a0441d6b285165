import errno
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import sources
from alexnet_jax.data.sources import folder
from alexnet_jax.errors import DataError

COUNTS = {"train": 3, "val": 2, "test": 1}


@pytest.fixture
def root(tmp_path):
    """Three classes whose images are all of one gray level: 10 * (class + 1), plus the number."""
    for split, count in COUNTS.items():
        for number, name in enumerate(("ant", "bee", "cat")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.full((8, 8, 3), 10 * (number + 1) + i, np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path


def levels(split):
    return split.images[np.arange(len(split.images))][:, 0, 0, 0].tolist()


def test_classes_and_files_come_sorted(root, data_spec):
    dataset = sources.open_dataset(data_spec("folder", root), 0)
    assert dataset.class_names == ("ant", "bee", "cat")
    assert set(dataset.splits) == set(COUNTS)
    assert dataset.splits["train"].labels.dtype == np.int32
    assert dataset.splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert levels(dataset.splits["train"]) == [10, 11, 12, 20, 21, 22, 30, 31, 32]
    assert levels(dataset.splits["test"]) == [10, 20, 30]


def test_only_train_is_needed(root, data_spec):
    shutil.rmtree(root / "val")
    shutil.rmtree(root / "test")
    assert set(sources.open_dataset(data_spec("folder", root), 0).splits) == {"train"}


def test_class_folders_alone_are_the_training_images(root, data_spec):
    whole = sources.open_dataset(data_spec("folder", root / "train"), 0)
    assert set(whole.splits) == {"train"} and whole.class_names == ("ant", "bee", "cat")
    assert levels(whole.splits["train"]) == [10, 11, 12, 20, 21, 22, 30, 31, 32]
    assert any("its folders are the classes ant, bee, cat" in note for note in whole.notes)
    split = sources.open_dataset(data_spec("folder", root / "train", validation=1 / 3), 0)
    assert {name: len(one.labels) for name, one in split.splits.items()} == {"train": 6, "val": 3}


@pytest.mark.parametrize("place", ["", "train"])
@pytest.mark.parametrize("changes", [{}, {"validation": 1 / 3}, {"classes": ("ant", "cat")}])
def test_images_are_counted_as_training_will_have_them(root, data_spec, place, changes):
    spec = data_spec("folder", root / place, **changes)
    if place == "" and changes.get("validation"):
        shutil.rmtree(root / "val")
    expected = len(sources.open_dataset(spec, 0).splits["train"].labels)
    assert folder.count_training_images(spec) == expected


def test_what_cannot_be_counted_is_left_to_the_error_of_loading(tmp_path, data_spec):
    for path in (tmp_path, tmp_path / "none"):
        assert folder.count_training_images(data_spec("folder", path)) is None


@pytest.mark.fault("F28")
def test_hidden_and_foreign_files_do_not_count(root, data_spec):
    before = sources.open_dataset(data_spec("folder", root), 0)
    (root / "train" / ".git").mkdir()
    (root / "train" / "ant" / ".cache").mkdir()
    (root / "train" / "ant" / "._0.png").write_bytes(b"")
    (root / "train" / "ant" / ".cache" / "0.png").write_bytes(b"")
    (root / "train" / "ant" / "boxes.txt").write_text("0 0 8 8")
    after = sources.open_dataset(data_spec("folder", root), 0)
    assert after.fingerprint == before.fingerprint
    (note,) = (note for note in after.notes if "left out" in note)
    assert "left out 3 files that are not images: 2 hidden, 1 .txt" in note


def test_nested_folders_and_upper_case_suffixes_are_read(root, data_spec):
    (root / "train" / "ant" / "images").mkdir()
    (root / "train" / "ant" / "0.png").rename(root / "train" / "ant" / "images" / "0.PNG")
    assert levels(sources.open_dataset(data_spec("folder", root), 0).splits["train"])[:3] == [
        11,
        12,
        10,
    ]


def test_the_fingerprint_follows_the_content(root, data_spec):
    def fingerprint(**changes):
        return sources.open_dataset(data_spec("folder", root, **changes), 0).fingerprint

    first = fingerprint()
    assert fingerprint(threads=1) == first
    assert fingerprint(image_size=4) != first
    (root / "test" / "cat" / "0.png").rename(root / "test" / "cat" / "1.png")
    assert fingerprint() == first  # the same images in the same order
    (root / "train" / "cat" / "0.png").rename(root / "train" / "cat" / "9.png")
    assert fingerprint() != first


def test_classes_are_chosen_and_numbered_in_order(root, data_spec):
    dataset = sources.open_dataset(data_spec("folder", root, classes=("cat", "ant")), 0)
    assert dataset.class_names == ("cat", "ant")
    assert levels(dataset.splits["train"]) == [30, 31, 32, 10, 11, 12]
    assert dataset.splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(DataError, match=r"no class 'cta' in the data; did you mean \"cat\""):
        sources.open_dataset(data_spec("folder", root, classes=("cta", "ant")), 0)
    with pytest.raises(DataError, match="the classes are ant, bee, cat"):
        sources.open_dataset(data_spec("folder", root, classes=("zzzzz", "ant")), 0)
    with pytest.raises(DataError, match="twice"):
        sources.open_dataset(data_spec("folder", root, classes=("cat", "cat")), 0)
    with pytest.raises(DataError, match="two are needed"):
        sources.open_dataset(data_spec("folder", root, classes=("cat",)), 0)


@pytest.mark.fault("F21")
@pytest.mark.fault("F28")
def test_what_is_missing_is_named(root, data_spec):
    def fault(path=root):
        with pytest.raises(DataError) as caught:
            sources.open_dataset(data_spec("folder", path), 0)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no folder" in fault(root / "absent") and "PATH/train/CLASS" in fault(root / "absent")
    assert "absent" in fault(root / "absent")
    assert "it contains 0.png, 1.png, 2.png" in fault(root / "train" / "ant")
    for image in (root / "train" / "bee").iterdir():
        image.rename(image.with_suffix(".txt"))
    assert "without images" in fault() and "train/bee" in fault()
    shutil.rmtree(root / "train" / "bee")
    assert "val has bee, which train does not have" in fault()
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    assert "splits without class folders" in fault()


@pytest.mark.fault("F21")
def test_archives_and_stores_in_the_place_of_folders_say_what_to_do(tmp_path, data_spec):
    (tmp_path / "ILSVRC2012_img_train.tar").touch()
    with pytest.raises(DataError, match=f"alexnet prepare --from {tmp_path} --out STORE"):
        sources.open_dataset(data_spec("folder", tmp_path), 0)
    (tmp_path / "index.json").touch()
    with pytest.raises(DataError, match=r"set --config\.data\.source=store"):
        sources.open_dataset(data_spec("folder", tmp_path), 0)


@pytest.mark.fault("F28")
def test_class_folders_that_a_split_lacks_are_named(root, data_spec):
    shutil.rmtree(root / "test" / "ant")
    with pytest.raises(DataError, match="train has ant, which test does not have"):
        sources.open_dataset(data_spec("folder", root), 0)


def test_a_changed_image_is_decoded_again(root, data_spec):
    spec = data_spec("folder", root)
    assert levels(sources.open_dataset(spec, 0).splits["test"])[0] == 10
    Image.fromarray(np.full((9, 9, 3), 99, np.uint8)).save(root / "test" / "ant" / "0.png")
    assert levels(sources.open_dataset(spec, 0).splits["test"])[0] == 99


def test_a_val_folder_becomes_test_where_val_is_carved(root, data_spec):
    spec = data_spec("folder", root, validation=1 / 3)
    with pytest.raises(DataError, match="would replace the val split"):
        sources.open_dataset(spec, 0)
    shutil.rmtree(root / "test")
    dataset = sources.open_dataset(spec, 0)
    assert levels(dataset.splits["test"]) == [10, 11, 20, 21, 30, 31]
    assert dataset.splits["val"].labels.tolist() == [0, 1, 2]
    both = levels(dataset.splits["train"]) + levels(dataset.splits["val"])
    assert sorted(both) == [10, 11, 12, 20, 21, 22, 30, 31, 32]


@pytest.mark.fault("F21")
def test_a_folder_that_cannot_be_read_is_not_left_out(root, data_spec, monkeypatch):
    (root / "train" / "bee" / "more").mkdir()
    scandir = os.scandir

    def refusing(path):
        if os.fspath(path).endswith("more"):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"cannot read: Permission denied: 1 \(.*train/bee/more\)"):
        sources.open_dataset(data_spec("folder", root), 0)
