import importlib
import io
import typing
import zipfile

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import sources
from alexnet_jax.data.sources import arrays
from alexnet_jax.errors import DataError
from alexnet_jax.specs import DataSpec


def everything(split):
    return split.images[np.arange(len(split.images))]


def test_every_source_of_the_config_can_be_opened():
    for name in typing.get_args(typing.get_type_hints(DataSpec)["source"]):
        assert callable(importlib.import_module(f"alexnet_jax.data.sources.{name}").load)


def test_synthetic_images_are_always_the_same(data_spec):
    first, second = (sources.open_dataset(data_spec("synthetic"), seed) for seed in (0, 1))
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(everything(first.splits["train"]), everything(second.splits["train"]))
    assert [len(first.splits[name].labels) for name in ("train", "test")] == [512, 128]
    assert len(first.class_names) == 10
    assert everything(first.splits["test"]).shape == (128, 8, 8, 3)
    larger = sources.open_dataset(data_spec("synthetic", image_size=12), 0)
    assert everything(larger.splits["test"]).shape == (128, 12, 12, 3)


def test_synthetic_classes_can_be_told_apart(data_spec):
    splits = sources.open_dataset(data_spec("synthetic", image_size=16), 0).splits

    def features(split):
        images = everything(split).astype(float)
        directions = images.mean((2, 3)).std(1) - images.mean((1, 3)).std(1)
        return np.c_[images.mean((1, 2)), directions * 2]

    train, test = splits["train"], splits["test"]
    means = np.stack([features(train)[train.labels == c].mean(0) for c in range(10)])
    nearest = ((features(test)[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == test.labels).mean() > 0.95


def test_digits_are_split_a_fifth_of_each_class(data_spec):
    dataset = sources.open_dataset(data_spec("digits", image_size=32), 0)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert len(train.labels) + len(test.labels) == 1797
    share = np.bincount(test.labels) / np.bincount(np.r_[train.labels, test.labels])
    assert np.abs(share - 0.2).max() < 0.01
    assert everything(test).shape[1:] == (32, 32, 3) and everything(test).max() > 250
    assert dataset.class_names == tuple("0123456789")


def test_validation_is_drawn_from_each_class_by_seed(data_spec):
    spec = data_spec("synthetic", validation=0.25)
    first, second, other = (sources.open_dataset(spec, seed) for seed in (0, 0, 1))
    train, val = first.splits["train"], first.splits["val"]
    assert np.abs(np.bincount(val.labels) - 0.25 * 51.2).max() < 1
    assert np.array_equal(everything(val), everything(second.splits["val"]))
    assert not np.array_equal(everything(val), everything(other.splits["val"]))
    whole = everything(sources.open_dataset(data_spec("synthetic"), 0).splits["train"])
    parts = np.concatenate([everything(train), everything(val)])
    assert sorted(map(bytes, parts)) == sorted(map(bytes, whole))
    assert first.fingerprint == second.fingerprint != other.fingerprint
    with pytest.raises(DataError, match="leaves a split empty"):
        sources.open_dataset(data_spec("synthetic", validation=0.001), 0)


def test_classes_of_arrays_are_chosen_and_renumbered(data_spec):
    whole = sources.open_dataset(data_spec("synthetic"), 0)
    wanted = (whole.class_names[7], whole.class_names[2])
    some = sources.open_dataset(data_spec("synthetic", classes=wanted), 0)
    labels = whole.splits["train"].labels
    assert some.class_names == wanted
    assert np.array_equal(
        some.splits["train"].labels, np.where(labels == 7, 0, 1)[(labels == 7) | (labels == 2)]
    )
    kept = everything(whole.splits["train"])[(labels == 7) | (labels == 2)]
    assert np.array_equal(everything(some.splits["train"]), kept)


@pytest.fixture
def content():
    generator = np.random.default_rng(0)
    return dict(
        train_images=generator.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8),
        train_labels=np.array([0, 1, 2, 0, 1, 2]),
        test_images=generator.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8),
        test_labels=np.array([0, 1, 2], np.uint8),
    )


def test_arrays_are_read_as_they_are(tmp_path, data_spec, content):
    np.savez_compressed(tmp_path / "a.npz", **content)
    dataset = sources.open_dataset(data_spec("arrays", tmp_path / "a.npz"), 0)
    assert dataset.class_names == ("0", "1", "2") and set(dataset.splits) == {"train", "test"}
    assert np.array_equal(everything(dataset.splits["train"]), content["train_images"])
    assert dataset.splits["test"].labels.tolist() == [0, 1, 2]
    np.savez(tmp_path / "b.npz", class_names=np.array(["x", "y", "z"]), **content)
    named = sources.open_dataset(data_spec("arrays", tmp_path / "b.npz"), 0)
    assert named.class_names == ("x", "y", "z")


def test_gray_arrays_and_other_sizes_are_fitted(tmp_path, data_spec, content):
    for name in ("train", "test"):
        content[f"{name}_images"] = content[f"{name}_images"][..., 0]
    np.savez(tmp_path / "a.npz", **content)
    images = everything(
        sources.open_dataset(data_spec("arrays", tmp_path / "a.npz"), 0).splits["train"]
    )
    assert np.array_equal(images, np.repeat(content["train_images"][..., None], 3, -1))
    spec = data_spec("arrays", tmp_path / "a.npz", image_size=4)
    reduced = everything(sources.open_dataset(spec, 0).splits["train"])[..., 0]
    means = content["train_images"].reshape(6, 4, 2, 4, 2).mean((2, 4))
    assert np.array_equal(reduced, np.rint(means))


@pytest.mark.fault("F21")
@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (dict(train_labels=None), "has no train_labels; it contains"),
        (dict(train_images=None), "has no train_images"),
        (dict(test_labels=None), "has no test_labels"),
        (
            dict(train_labels=np.array([0, 1, 2, 0, 1])),
            r"train_labels is int64 \[5\], not integers \[6\]",
        ),
        (dict(train_labels=np.array([0, 1, 2, 0, 1, -1])), "labels count from 0"),
        (dict(train_labels=np.zeros(6)), "train_labels is float64"),
        (
            dict(test_labels=np.array([0, 1, 3])),
            "a label is 3, but train_labels has the classes 0 to 2",
        ),
        (
            dict(class_names=np.array(["x", "y"])),
            "a label is 2, but class_names has the classes 0 to 1",
        ),
        (dict(train_images=np.zeros((6, 8, 8, 3))), "train_images is float64"),
        (dict(train_images=np.zeros((6, 8, 8, 4), np.uint8)), r"uint8 \[6, 8, 8, 4\], not uint8"),
        (dict(train_labels=np.array([None] * 6)), "Python objects are not loaded"),
        (dict(train_images=np.zeros((6, 0, 8, 3), np.uint8)), r"uint8 \[6, 0, 8, 3\], not uint8"),
        (dict(class_names=np.array("x")), r"class_names has the shape \[\]"),
        (
            dict(test_images=np.zeros((0, 8, 8, 3), np.uint8), test_labels=np.zeros(0, int)),
            "no images",
        ),
    ],
)
def test_faults_of_arrays_are_named(tmp_path, data_spec, content, changes, fault):
    content = {key: value for key, value in (content | changes).items() if value is not None}
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(DataError, match=fault) as caught:
        sources.open_dataset(data_spec("arrays", tmp_path / "a.npz"), 0)
    assert "a.npz" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.fault("F29")
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("label", [-1, 3, 3 + 5])
def test_a_label_that_no_class_has_is_refused(tmp_path, data_spec, content, split, label):
    content[f"{split}_labels"] = np.array([*content[f"{split}_labels"][:-1], label])
    np.savez(tmp_path / "a.npz", class_names=np.array(["x", "y", "z"]), **content)
    with pytest.raises(DataError, match=rf"a\.npz: .*{label}") as caught:
        sources.open_dataset(data_spec("arrays", tmp_path / "a.npz"), 0)
    assert caught.value.exit_code == 3


def write_images(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path, "PNG")


def write_members(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(f"{name}.npy", member)


def array_header(*shape):
    file = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


TREE = r"train/CLASS/\*\.jpg"
BINARY = "data_batch_1.bin"
ARRAYS = "train_images, train_labels"
# What makes the layout below a folder; then the path and the expected layout that the error names.
LAYOUTS = {
    "folder: nothing there": (lambda root: None, "data", TREE),
    "folder: a file": (lambda root: (root / "data").write_text("x"), "data", TREE),
    "folder: empty": (lambda root: (root / "data").mkdir(), "data", TREE),
    "folder: no split": (lambda root: write_images(root / "data/a/1.png"), "data", TREE),
    "folder: no train": (
        lambda root: write_images(root / "data/val/a/1.png", root / "data/val/b/1.png"), "data", TREE,
    ),
    "folder: no classes": (lambda root: write_images(root / "data/train/1.png"), "train", TREE),
    "folder: an empty class": (
        lambda root: (write_images(root / "data/train/a/1.png"), (root / "data/train/b").mkdir()),
        "train/b", TREE,
    ),
    "folder: a class without images": (
        lambda root: (
            write_images(root / "data/train/a/1.png", root / "data/train/b/1.png"),
            (root / "data/train/b/1.png").rename(root / "data/train/b/1.txt"),
        ),
        "train/b", TREE,
    ),
    "folder: other classes in val": (
        lambda root: write_images(
            *(root / "data" / name for name in ("train/a/1.png", "train/b/1.png", "val/c/1.png"))
        ),
        "val has c", TREE,
    ),
    "folder: a class that only train has": (
        lambda root: write_images(
            *(root / "data" / name for name in ("train/a/1.png", "train/b/1.png", "test/a/1.png"))
        ),
        "train has b", TREE,
    ),
    "folder: one class": (lambda root: write_images(root / "data/train/a/1.png"), "data", "two"),
    "folder: a link to nothing": (
        lambda root: (
            write_images(root / "data/train/a/1.png", root / "data/train/b/1.png"),
            (root / "data/train/b/2.png").symlink_to("gone.png"),
        ),
        "train/b/2.png", "No such file",
    ),
    "cifar10: nothing there": (lambda root: None, "data", BINARY),
    "cifar10: empty": (lambda root: (root / "data").mkdir(), "data", BINARY),
    "cifar10: a file": (lambda root: (root / "data").write_text("x"), "data", BINARY),
    "cifar10: pickles": (
        lambda root: (root / "data/cifar-10-batches-py").mkdir(parents=True), "data", "binary",
    ),
    "cifar10: one file": (
        lambda root: ((root / "data").mkdir(), (root / "data" / BINARY).write_bytes(bytes(3073))),
        "data_batch_2.bin", BINARY,
    ),
    "cifar10: an empty file": (
        lambda root: ((root / "data").mkdir(), (root / "data" / BINARY).write_bytes(b"")),
        BINARY, "3,073 bytes",
    ),
    "cifar10: label 10": (
        lambda root: (
            (root / "data").mkdir(),
            (root / "data" / BINARY).write_bytes(bytes([10]) + bytes(3072)),
        ),
        BINARY, "label 10, but the classes are 0 to 9",
    ),
    "cifar10: label 255": (
        lambda root: (
            (root / "data").mkdir(),
            (root / "data" / BINARY).write_bytes(bytes([255]) + bytes(3072)),
        ),
        BINARY, "label 255",
    ),
    "arrays: nothing there": (lambda root: None, "data", ARRAYS),
    "arrays: a folder": (lambda root: (root / "data").mkdir(), "data", ARRAYS),
    "arrays: empty": (lambda root: (root / "data").write_bytes(b""), "data", ARRAYS),
    "arrays: text": (lambda root: (root / "data").write_text("a,b\n1,2"), "data", ARRAYS),
    "arrays: no array": (lambda root: write_members(root / "data"), "data", ARRAYS),
    "arrays: other names": (
        lambda root: write_members(root / "data", x=array_header(0)), "data", ARRAYS,
    ),
    "arrays: no arrays": (
        lambda root: write_members(root / "data", train_images=b"x", train_labels=b"y"),
        "data", "not uint8",
    ),
    "arrays: a header cut off": (
        lambda root: write_members(root / "data", train_images=array_header(9)[:40]), "data", ARRAYS,
    ),
    "arrays: a header of nonsense": (
        lambda root: write_members(root / "data", train_images=b"\x93NUMPY\1\0\5\0{'((("),
        "data", ARRAYS,
    ),
    "arrays: more than there is": (
        lambda root: write_members(root / "data", train_images=array_header(9) + b"12"),
        "data", ARRAYS,
    ),
    "arrays: a petabyte": (
        lambda root: write_members(root / "data", train_images=array_header(2**50) + b"12"),
        "data", ARRAYS,
    ),
}  # fmt: skip


@pytest.mark.fault("F21")
@pytest.mark.fault("F28")
@pytest.mark.fault("F29")
@pytest.mark.parametrize("case", LAYOUTS)
def test_a_broken_layout_is_named_with_the_one_expected(tmp_path, data_spec, case):
    make, place, expected = LAYOUTS[case]
    make(tmp_path)
    with pytest.raises(DataError, match=expected) as caught:
        sources.open_dataset(data_spec(case.split(":")[0], tmp_path / "data"), 0)
    assert caught.value.exit_code == 3
    assert place in str(caught.value) and str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.fault("F21")
def test_a_file_larger_than_the_memory_is_not_read(tmp_path, data_spec, content, monkeypatch):
    np.savez(tmp_path / "a.npz", **content)
    monkeypatch.setattr(arrays, "_memory_bytes", lambda: 1000)
    with pytest.raises(
        DataError, match=r"a\.npz contains [0-9,]+ bytes of arrays, more than the memory"
    ):
        sources.open_dataset(data_spec("arrays", tmp_path / "a.npz"), 0)


@pytest.mark.fault("F21")
def test_files_that_are_no_arrays_are_named(tmp_path, data_spec, content):
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match=r"no file .*a\.npz.*train_images, train_labels"):
        sources.open_dataset(data_spec("arrays", path), 0)
    np.savez(path, **content)
    for damaged in (b"", b"junk", path.read_bytes()[:800], b"PK\3\4" + bytes(500)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.npz"):
            sources.open_dataset(data_spec("arrays", path), 0)
    np.save(tmp_path / "b.npz.npy", content["train_images"])
    (tmp_path / "b.npz.npy").rename(path)
    with pytest.raises(DataError, match=r"a\.npz"):
        sources.open_dataset(data_spec("arrays", path), 0)
