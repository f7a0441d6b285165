import json
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import image_files, statistics
from alexnet_jax.data.prepare import command as prepare
from alexnet_jax.data.sources import store_format
from alexnet_jax.errors import DataError

pytest.importorskip("array_record")

SIZE, TRAIN, VAL = 16, 30, 6


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes, 30 + 6 pictures of noise a class, larger than what is stored."""
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for name in ("ant", "bee", "cat"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                coarse = generator.integers(0, 256, (3, 4, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((32, 24)).save(folder / f"{i:02}.png")
    return root


def prepared(pictures, out, *arguments):
    assert prepare.main(["--from", str(pictures), "--out", str(out), "--jobs", "1",
                         "--size", str(SIZE), *arguments]) == 0  # fmt: skip
    return out


@pytest.fixture(params=["jpeg", "raw"])
def stored(pictures, tmp_path, request):
    return prepared(pictures, tmp_path / "store", "--format", request.param)


def everything(split):
    return split.images[np.arange(len(split.images))]


def test_a_raw_store_is_the_folder_that_it_was_made_of(pictures, tmp_path, data_spec, monkeypatch):
    out = prepared(pictures, tmp_path / "store", "--format", "raw")
    monkeypatch.setitem(sys.modules, "array_record", None)  # not needed here
    found = sources.open_dataset(data_spec("store", out, image_size=SIZE), 0)
    plain = sources.open_dataset(data_spec("folder", pictures, image_size=SIZE), 0)
    assert found.class_names == plain.class_names and set(found.splits) == {"train", "val"}
    for name in plain.splits:
        assert np.array_equal(found.splits[name].labels, plain.splits[name].labels)
        assert np.array_equal(everything(found.splits[name]), everything(plain.splits[name]))


def test_a_store_of_jpeg_is_close_to_it(pictures, tmp_path, data_spec):
    out = prepared(pictures, tmp_path / "store", "--format", "jpeg")
    found, plain = (
        sources.open_dataset(data_spec(source, path, image_size=SIZE), 0).splits["train"]
        for source, path in (("store", out), ("folder", pictures))
    )
    assert np.abs(everything(found).astype(int) - everything(plain)).mean() < 6


def test_images_come_in_any_order_from_any_thread(stored, data_spec, monkeypatch):
    monkeypatch.setattr(image_files, "CACHE_LIMIT_BYTES", 0)  # each batch decodes its own
    split = sources.open_dataset(data_spec("store", stored, image_size=SIZE), 0).splits["train"]
    whole = everything(split)
    order = np.random.default_rng(1).permutation(3 * TRAIN)
    assert np.array_equal(split.images[order], whole[order])
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).integers(0, 3 * TRAIN, (20, 5)):
            if not np.array_equal(split.images[i], whole[i]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_another_size_is_made_from_the_stored_one(stored, data_spec):
    dataset = sources.open_dataset(data_spec("store", stored, image_size=8), 0)
    assert everything(dataset.splits["val"]).shape == (3 * VAL, 8, 8, 3)
    assert dataset.statistics is None  # those of the store are of another size


def test_statistics_are_those_of_the_whole_train_split(stored, data_spec):
    dataset = sources.open_dataset(data_spec("store", stored, image_size=SIZE), 0)
    known = statistics.load(dataset)
    for mine, found in zip(statistics.compute(dataset.splits["train"]), known, strict=True):
        assert np.array_equal(mine, found)
    for changes in ({"validation": 0.2}, {"classes": ("ant", "cat")}):
        part = sources.open_dataset(data_spec("store", stored, image_size=SIZE, **changes), 0)
        assert part.statistics is None
        train = statistics.compute(part.splits["train"])
        assert np.array_equal(statistics.load(part).mean_image, train.mean_image)
        assert not np.array_equal(train.mean_image, known.mean_image)


def test_the_fingerprint_follows_what_training_sees(stored, pictures, tmp_path):
    index = store_format.read_index(stored)
    assert store_format.fingerprint(index) == index.fingerprint
    other = prepared(pictures, tmp_path / "other", "--format", index.format, "--classes", "ant", "bee")  # fmt: skip
    assert store_format.read_index(other).fingerprint != index.fingerprint


def test_what_is_missing_or_damaged_is_named(stored, data_spec):
    def fault():
        with pytest.raises(DataError) as caught:
            everything(
                sources.open_dataset(data_spec("store", stored, image_size=SIZE), 0).splits["train"]
            )
        assert "\n" not in str(caught.value)
        return str(caught.value)

    index = json.loads((stored / "index.json").read_text())
    shard = stored / index["splits"]["train"]["shards"][0]["file"]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    assert str(shard) in fault() and "copy it again" in fault()
    shard.unlink()
    assert str(shard) in fault()
    shard.write_bytes(b"\xff" * len(whole))
    assert str(shard) in fault() and "prepare it again" in fault()
    shard.write_bytes(whole)
    labels = stored / "train-labels.npy"
    kept = np.load(labels)
    kept[5] = 3
    np.save(labels, kept)
    assert "labels from 0 to 3, but there are 3 classes" in fault()
    for damaged, message in (
        ("{", "index.json: it is not JSON: Expecting"),
        ("[]", "index.json: it is [], not an object"),
        ("[" * 9000, "levels deep"),
        (json.dumps(index | {"schema": 2}), "schema 2"),
        (json.dumps(index | {"format": "bmp"}), "format is 'bmp', not one of jpeg, raw"),
        (json.dumps(index | {"size": float("inf")}), "size is inf, not an integer"),
        (json.dumps(index | {"size": 10**400}), "a number of more than 63 bits"),
        (json.dumps(index | {"classes": ["ant"]}), "is damaged"),
        (json.dumps(index | {"class_names": [1, 2, 3]}), "class_names[0] is 1, not a string"),
        (json.dumps(index | {"files": {"../x": {"size": 1, "sha256": ""}}}), "must be the name of a file"),
        (json.dumps(index | {"splits": {"train": {"shards": [{"file": "/etc/passwd", "count": 1}]}}}),
         "must be the name of a file"),
    ):  # fmt: skip
        (stored / "index.json").write_text(damaged)
        assert message in fault() and "prepare it again" in fault()
    (stored / "index.json").unlink()
    assert "is not a store" in fault() and "alexnet prepare" in fault()


def test_without_array_record_a_line_says_how_to_install_it(
    pictures, tmp_path, data_spec, monkeypatch
):
    out = prepared(pictures, tmp_path / "store", "--format", "jpeg")
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    with pytest.raises(DataError, match=r"array_record: pip install -e \".\[store\]\""):
        sources.open_dataset(data_spec("store", out, image_size=SIZE), 0)
    with pytest.raises(DataError, match="format raw does not"):
        prepared(pictures, tmp_path / "another", "--format", "jpeg")
    assert not (tmp_path / "another.preparing").exists()
