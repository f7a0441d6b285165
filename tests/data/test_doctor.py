import json
import shutil

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.pipeline import pillow
from alexnet_jax.data.prepare import checks, doctor, ilsvrc, sheet
from alexnet_jax.data.prepare import command as prepare
from alexnet_jax.data.sources import store, store_format
from alexnet_jax.errors import ConfigError, DataError, StorageError
from tests.data import imagenet_tars
from tests.data.test_prepare import SIZE, SYNSETS, TRAIN, VAL, WORDS, noise

pytest.importorskip("array_record")


@pytest.fixture
def tars(tmp_path):
    imagenet_tars.pack(tmp_path / "tars", TRAIN, VAL, WORDS)
    return tmp_path / "tars"


@pytest.fixture
def stored(tars, tmp_path):
    prepare.main(["--from", str(tars), "--out", str(tmp_path / "store"), "--subset",
                  "--size", str(SIZE), "--jobs", "1"])  # fmt: skip
    return tmp_path / "store"


@pytest.fixture
def examine(tmp_path, capsys, monkeypatch):
    """(exit code, lines) of the doctor; pictures of noise have the colors that they have."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checks, "TOLERANCE", 1000)

    def run(path, *arguments):
        capsys.readouterr()
        try:
            code = doctor.main([str(path), "--jobs", "1", *arguments])
        except DataError as error:
            code = error.exit_code
            assert str(path) in str(error) and "to fix" in str(error)
        lines = capsys.readouterr().out.splitlines()
        assert all(line.startswith(("FIX   ", "NOTE  ", "ok    ")) for line in lines)
        assert (code == 3) == any(line.startswith("FIX") for line in lines)
        return code, lines

    return run


def to_fix(lines):
    return [line.removeprefix("FIX   ") for line in lines if line.startswith("FIX")]


def test_a_good_store_passes_and_is_shown(stored, examine, tmp_path):
    code, lines = examine(stored, "--sheet", "sheet.png")
    assert code == 0
    text = "\n".join(lines)
    assert "all SHA-256 sums match" in text and "train: all 15 images can be read" in text
    assert "labels are in the order of sorted synsets; class 0 is n01440764, tench" in text
    assert "a subset of ILSVRC2012 (3 of 1,000 classes, 15 of 1,281,167 train images" in text
    assert "ILSVRC-2012 are 19.7, 37.1, 121.8" in text
    with Image.open(tmp_path / "sheet.png") as drawn:
        pixels = np.asarray(drawn)
    first = pixels[16:112, :96].reshape(-1, 3).std()
    assert pixels.shape == (16 + 116, 3 * 200, 3) and first > 10  # pictures, not an empty frame


def test_the_sheet_shows_each_class_beside_its_name(stored):
    """Pictures of train on the left, of val on the right, in the order of labels."""
    index = store_format.read_index(stored)
    contents = doctor._of_store(stored, index, False, 1)
    sheet.draw_sheet(contents, stored.parent / "sheet.png")
    with Image.open(stored.parent / "sheet.png") as drawn:
        pixels = np.asarray(drawn).astype(int)
    for label in range(3):
        for i, name in enumerate(("train", "val")):
            split = contents.splits[name]
            place = np.flatnonzero(split.labels == label)[:1]
            image = Image.fromarray(split.images[place][0]).resize((96, 96))
            left = label * 200 + i * 96
            assert np.array_equal(pixels[16:112, left : left + 96], np.asarray(image))


@pytest.mark.fault("F30")
@pytest.mark.parametrize("name", ["train-00000.array_record", "val-labels.npy", "statistics.npz"])
def test_a_flipped_bit_of_a_store_is_found(stored, examine, name):
    content = bytearray((stored / name).read_bytes())
    content[len(content) // 2] ^= 1
    (stored / name).write_bytes(content)
    code, lines = examine(stored)
    assert code == 3 and len(to_fix(lines)) == 1
    assert (
        f"{stored / name}: its SHA-256" in to_fix(lines)[0] and "copy it again" in to_fix(lines)[0]
    )
    (stored / name).unlink()
    assert f"{stored / name}: No such file" in to_fix(examine(stored)[1])[0]


def test_tars_are_examined_before_they_are_prepared(tars, examine):
    code, lines = examine(tars, "--subset")
    assert code == 0 and "contains ILSVRC2012 archives" in lines[0]
    code, lines = examine(tars)
    assert code == 3 and "train has 3 classes, not 1,000" in to_fix(lines)[0]


@pytest.mark.fault("F22")
def test_every_unreadable_file_is_listed(examine, tmp_path):
    imagenet_tars.folders(tmp_path / "source", TRAIN, VAL)
    bad = sorted((tmp_path / "source" / "train" / SYNSETS[2]).iterdir())[1:3]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(b"no picture")
    code, lines = examine(tmp_path / "source", "--subset")
    assert code == 3
    assert to_fix(lines) == [
        f"{bad[0]} is empty; remove or replace it",
        f"{bad[1]} is not an image ({', '.join(pillow.FORMATS)}); remove or replace it",
    ]


def test_numbers_for_classes_are_told(examine, tmp_path):
    """Training takes them as names, as they come; prepare does not, whose stores are compared with others."""
    for i in range(12):
        (tmp_path / "source" / "train" / str(i)).mkdir(parents=True)
        (tmp_path / "source" / "train" / str(i) / "a.jpg").write_bytes(noise(i))
    code, lines = examine(tmp_path / "source")
    (told,) = [line for line in lines if "are numbers (0, 1, 10 and 9 more)" in line]
    assert code == 0 and told.startswith("NOTE")
    assert "rename them to synsets (n01440764) or names; prepare refuses them" in told
    shutil.rmtree(tmp_path / "source" / "train" / "0")
    (tmp_path / "source" / "train" / "0.tar").write_bytes(imagenet_tars.tar([("a.jpg", noise(0))]))
    code, lines = examine(tmp_path / "source")
    assert code == 3 and "rename them to synsets" in to_fix(lines)[0]


def test_a_class_that_a_split_lacks_is_named(examine, tmp_path):
    val = [picture for picture in VAL if picture.synset != SYNSETS[1]]
    imagenet_tars.folders(tmp_path / "source", TRAIN, val)
    code, lines = examine(tmp_path / "source")
    assert code == 3 and any(
        f"train has {SYNSETS[1]}, which val does not have" in line for line in to_fix(lines)
    )


def test_labels_in_the_order_of_the_devkit_are_found(stored, examine):
    """Names that do not fit their synsets, as a label map in another order gives them."""
    content = json.loads((stored / "index.json").read_text())
    content["class_names"].reverse()
    (stored / "index.json").write_text(json.dumps(content))
    code, lines = examine(stored)
    assert code == 3
    assert "class 0, n01440764, is called 'white shark' and should be 'tench'" in to_fix(lines)[0]


def test_other_classes_than_the_thousand_are_found(stored, examine, monkeypatch):
    monkeypatch.setattr(ilsvrc, "NUM_CLASSES", 3)
    monkeypatch.setattr(ilsvrc, "COUNTS", {"ILSVRC2012": {"train": 15, "val": 9}})
    monkeypatch.setattr(ilsvrc, "KNOWN_CLASSES", {0: ("n01440764", "tench"), 2: ("n00000001", "x")})
    code, lines = examine(stored)
    assert code == 3 and "class 2 is n01484850 and should be n00000001 (x)" in to_fix(lines)[0]
    assert any("the counts are exactly those of ILSVRC2012" in line for line in lines)


@pytest.mark.parametrize(
    "factor, mean, message",
    [(0.2, (3, 2, 1), "too different for photographs"), (1, (1, 2, 3), "channels swapped")],
)
def test_strange_colors_are_found(factor, mean, message, stored, monkeypatch):
    monkeypatch.setattr(checks, "TOLERANCE", 1.5)
    index = store_format.read_index(stored)
    contents = doctor._of_store(stored, index, True, 1)
    known = contents.statistics._replace(
        stds=np.array(ilsvrc.STDS, np.float32) * factor, channel_mean=np.array(mean, np.float32)
    )
    (finding,) = checks.colors(contents._replace(statistics=known))
    assert finding.is_fault and message in finding.text
    good = known._replace(stds=np.array(ilsvrc.STDS), channel_mean=np.array((124, 116, 104)))
    (finding,) = checks.colors(contents._replace(statistics=good))
    assert not finding.is_fault


def test_duplicates_and_refusals_are_told(examine, tmp_path):
    imagenet_tars.folders(tmp_path / "source", TRAIN, TRAIN[:3])
    (tmp_path / "source" / "train" / SYNSETS[2] / "z.JPEG").write_bytes(b"")
    prepare.main(["--from", str(tmp_path / "source"), "--out", str(tmp_path / "store"),
                  "--subset", "--size", "8", "--jobs", "1", "--max-bad-share", "0.1"])  # fmt: skip
    code, lines = examine(tmp_path / "store")
    assert code == 0
    assert any("3 files are in two splits" in line for line in lines)
    assert any("train: 1 images were refused, see refused.jsonl" in line for line in lines)


def test_a_record_that_is_no_image_is_found(stored):
    """Behind sums that fit: a store that a program with a fault has written."""
    index = store_format.read_index(stored)
    writer = store.array_record().ArrayRecordWriter(
        str(stored / "val-00000.array_record"), "group_size:1,uncompressed"
    )
    for i in range(9):
        writer.write(b"GIF89a" if i == 4 else noise(i, SIZE, SIZE))
    writer.close()
    findings = list(doctor._records(doctor._of_store(stored, index, False, 1)))
    assert [finding.is_fault for finding in findings] == [False, True]
    assert "image 4 of val" in findings[1].text


def test_what_cannot_be_examined_is_named(stored, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no folder or archive .*absent"):
        doctor.main([str(tmp_path / "absent")])
    imagenet_tars.folders(tmp_path / "source", TRAIN, VAL)
    link = tmp_path / "source" / "train" / SYNSETS[0] / "gone.jpg"
    link.symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError, match="to fix"):
        doctor.main([str(tmp_path / "source"), "--subset"])
    assert f"FIX   cannot read {link}: No such file" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--jobs 0"):
        doctor.main([str(stored), "--jobs", "0"])
    with pytest.raises(StorageError, match=r"cannot write .*choose another --sheet"):
        doctor.main([str(stored), "--sheet", str(tmp_path / "absent" / "sheet.png")])
    (stored / "index.json").write_text("{")
    with pytest.raises(DataError, match="it is not JSON"):
        doctor.main([str(stored)])
