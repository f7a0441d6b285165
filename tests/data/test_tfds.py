import io
import json
import os
import shutil
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import digests, statistics
from alexnet_jax.data.sources import tfds
from alexnet_jax.errors import DataError

library = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")

TRAIN, VALIDATION = 8, 4


class Info(library.core.DatasetInfo):
    def initialize_from_bucket(self):
        """Look for no description in the network, which would leave a folder in that of temporary files."""


class TinyStripes(library.core.GeneratorBasedBuilder):
    """Made without TensorFlow; image i of a split has the gray level 10 * i + SHIFT and the class i % 2."""

    SHIFT = 0
    VERSION = library.core.Version("1.0.0")
    pkg_dir_path = None

    def _info(self):
        features = library.features.FeaturesDict(
            {
                "image": library.features.Image(encoding_format="png"),
                "label": library.features.ClassLabel(names=["even", "odd"]),
            }
        )
        return Info(builder=self, features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(TRAIN),
            "validation": self._generate_examples(VALIDATION),
            "extra": self._generate_examples(1),
        }

    def _generate_examples(self, count):
        for i in range(count):
            file = io.BytesIO()
            pixels = np.full((8, 10, 3), 10 * i + self.SHIFT, np.uint8)
            Image.fromarray(pixels).save(file, "PNG", compress_level=0)
            file.seek(0)
            yield i, {"image": file, "label": i % 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    TinyStripes(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root


def check(dataset):
    assert dataset.class_names == ("even", "odd") and set(dataset.splits) == {"train", "val"}
    (note,) = dataset.notes
    assert note.endswith("left out the splits extra (1 images)")
    for name, count in (("train", TRAIN), ("val", VALIDATION)):
        split = dataset.splits[name]
        levels = split.images[np.arange(count)][:, 0, 0, 0] // 10
        assert sorted(levels) == list(range(count))
        assert np.array_equal(split.labels, levels % 2)


@pytest.mark.parametrize("below", ["", "tiny_stripes", "tiny_stripes/1.0.0"])
def test_a_prepared_set_is_read_without_tensorflow(prepared, data_spec, below):
    check(sources.open_dataset(data_spec("tfds", prepared / below), 0))
    assert "tensorflow" not in sys.modules


def test_a_prepared_set_is_found_by_name(prepared, data_spec):
    first = sources.open_dataset(data_spec("tfds", prepared, name="tiny_stripes"), 0)
    check(first)
    again = sources.open_dataset(data_spec("tfds", prepared, name="tiny_stripes"), 0)
    assert first.fingerprint == again.fingerprint  # the second time with labels from the cache


@pytest.fixture
def tfrecords(prepared, tmp_path):
    return as_tfrecords(prepared, tmp_path)


def as_tfrecords(prepared, folder):
    """The same set as TFRecord files, as the usual TensorFlow user has it."""
    from array_record.python.array_record_module import ArrayRecordReader

    source = prepared / "tiny_stripes" / "1.0.0"
    target = folder / "tiny_stripes" / "1.0.0"
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if "array_record" not in path.name:
            (target / path.name).write_bytes(path.read_bytes())
            continue
        reader = ArrayRecordReader(str(path))
        records = reader.read_all()
        reader.close()
        with open(target / path.name.replace("array_record", "tfrecord"), "wb") as file:
            for record in records:
                file.write(struct.pack("<QI", len(record), 0) + record + bytes(4))
    info = json.loads((target / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (target / "dataset_info.json").write_text(json.dumps(info))
    return target


@pytest.fixture(scope="module")
def brighter(tmp_path_factory):
    """A set of the same name and the same sizes, with other pixels."""
    root = tmp_path_factory.mktemp("brighter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TinyStripes, "SHIFT", 5)
        TinyStripes(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root


def age(path):
    for file in path.rglob("*.*"):
        os.utime(file, (1e9, 1e9))
    return path


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
@pytest.mark.parametrize("large", [False, True])
def test_another_set_of_the_same_name_and_sizes_is_another_one(
    prepared, brighter, tmp_path, data_spec, kind, large, monkeypatch
):
    if large:
        monkeypatch.setattr(digests, "WHOLE_BYTES", 1000)

    def put(source, folder):
        if kind == "tfrecord":
            as_tfrecords(source, folder)
        else:
            shutil.copytree(source, folder, dirs_exist_ok=True)
        return age(folder)

    def look(path):
        dataset = sources.open_dataset(data_spec("tfds", path), 0)
        check(dataset)
        pixels = dataset.splits["train"].images[np.arange(TRAIN)]
        return dataset.fingerprint, set(pixels.ravel().tolist()), statistics.load(dataset)

    first, second = look(put(prepared, tmp_path / "one")), look(put(brighter, tmp_path / "two"))
    assert first[0] != second[0]
    assert first[1] == {10 * i for i in range(TRAIN)} == {level - 5 for level in second[1]}
    assert np.allclose(second[2].mean_image - first[2].mean_image, 5)
    put(brighter, tmp_path / "one")
    replaced = look(tmp_path / "one")
    assert replaced[0] == second[0] and replaced[1] == second[1]
    put(prepared, tmp_path / "one")
    assert look(tmp_path / "one")[:2] == first[:2]


def test_tfrecord_copies_hold_the_same_images(prepared, tfrecords, data_spec):
    one, other = (
        sources.open_dataset(data_spec("tfds", path), 0) for path in (prepared, tfrecords)
    )
    assert one.fingerprint == other.fingerprint


def test_tfrecord_copies_are_read_without_tensorflow(tfrecords, data_spec):
    check(sources.open_dataset(data_spec("tfds", tfrecords), 0))
    assert "tensorflow" not in sys.modules


def test_damaged_tfrecords_are_named(tfrecords, data_spec):
    (path,) = tfrecords.glob("*train*")
    whole = path.read_bytes()
    first = struct.unpack("<Q", whole[:8])[0] + 16
    for damaged, fault in (
        (whole[:-3], "cut off"),
        (whole + b"123", "cut off"),
        (b"junk" * 100, "cut off"),
        (whole[first:], f"{TRAIN - 1} examples in train, not {TRAIN}"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=fault):
            sources.open_dataset(data_spec("tfds", tfrecords), 0)


def test_what_is_missing_is_named(prepared, tmp_path, data_spec, monkeypatch):
    def fault(**changes):
        with pytest.raises(DataError) as caught:
            sources.open_dataset(data_spec("tfds", tmp_path, **changes), 0)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "config.data.name says which" in fault()
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = fault(name="cifar10")
    assert "cifar10 is not prepared" in message and tfds.INSTALL_TF in message
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert tfds.INSTALL in fault(name="cifar10")
