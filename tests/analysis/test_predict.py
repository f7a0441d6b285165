"""The output of the command, as text and JSON."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.analysis import predict
from alexnet_jax.errors import ConfigError, DataError, StorageError


@pytest.fixture(autouse=True)
def loaded_once():
    """Undo the fixture of conftest.py: the command loads its net."""


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in ("one", "two")]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return list(map(str, paths))


def said(capsys, *arguments) -> str:
    predict.main(list(map(str, arguments)))
    return capsys.readouterr().out


def test_the_most_probable_classes_are_named_with_percent_and_a_bar(
    net, weights_file, pictures, capsys
):  # fmt: skip
    text = said(capsys, *pictures, "--workdir", weights_file, "--top", 3)
    blocks = [block.splitlines() for block in text.strip().split("\n\n")]
    assert [block[0] for block in blocks] == pictures
    for block, best in zip(blocks, net.top(pictures, 3), strict=True):
        assert len(block) == 4
        for line, (name, probability) in zip(block[1:], best, strict=True):
            assert line.split()[:3] == [name, f"{100 * probability:.1f}", "%"]
            assert line.count("█") == round(24 * probability)


def test_json_has_the_probabilities_of_the_chosen_views(net, weights_file, pictures, capsys):
    text = said(capsys, pictures[0], "--workdir", weights_file, "--views", "ten", "--json")
    report = json.loads(text)
    assert (report["schema"], report["step"], report["views"]) == (1, 7, "ten")
    [image] = report["images"]
    assert image["image"] == pictures[0] and len(image["top"]) == 5
    expected = -np.sort(-net.predict(pictures[0], "ten")[0])[:5]
    np.testing.assert_allclose([one["probability"] for one in image["top"]], expected, atol=1e-6)


def test_what_cannot_be_answered_is_refused_in_one_line(weights_file, pictures, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    (tmp_path / "empty").mkdir()
    for error, words, arguments in (
        (ConfigError, "give one or more images, or --serve", []),
        (ConfigError, "give one or more images, or --serve", [*pictures, "--serve"]),
        (ConfigError, "--top=0", [*pictures, "--top", "0"]),
        (
            ConfigError,
            "--port: '70000' is not a number from 0 to 65535",
            ["--serve", "--port", "70000"],
        ),
        (DataError, f"no image in {tmp_path / 'empty'}", [str(tmp_path / "empty")]),
        (DataError, r"no image matches .*\*\.gif", [str(tmp_path / "*.gif")]),
        (DataError, "no image matches .* its 1 matches are no image", [str(tmp_path / "*.txt")]),
        (DataError, "there is no file a.jpg; there is no file b.jpg", ["a.jpg", "b.jpg"]),
        (DataError, "there is no file none.jpg", ["none.jpg"]),
        (DataError, f"{text} is not an image", [pictures[0], str(text)]),
    ):
        with pytest.raises(error, match=words):
            predict.main([*arguments, "--workdir", str(weights_file)])
    with pytest.raises(StorageError, match="is not a run folder") as raised:
        predict.main([*pictures, "--workdir", str(tmp_path)])
    assert raised.value.exit_code == 5 and DataError.exit_code == 3


@pytest.fixture
def folder(tmp_path):
    """Two images, one two levels down; a file that is none; a damaged image in a folder of its own."""
    folder = tmp_path / "photos"
    for name in ("b.png", "deep/er/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), "teal").save(folder / name)
    (folder / "notes.txt").write_text("no image")
    for name in ("c.jpg", "d.jpg"):
        (tmp_path / name).write_bytes(b"\xff\xd8 cut")
    return folder


def test_folders_and_patterns_stand_for_their_images(folder, weights_file, pictures, capsys):
    both = [str(folder / "b.png"), str(folder / "deep/er/a.png")]
    for arguments, expected in (
        ([folder], both),
        ([f"{folder}/**/*.png"], both),
        ([f"{folder}/**"], both),
        ([f"{folder}/*.png", pictures[0], folder / "deep"], [both[0], pictures[0], both[1]]),
    ):
        text = said(capsys, *arguments, "--workdir", weights_file, "--json")
        assert [image["image"] for image in json.loads(text)["images"]] == expected


def test_a_name_with_the_characters_of_a_pattern_is_a_name(pictures, weights_file, capsys):
    path = Path(pictures[0]).rename(Path(pictures[0]).with_name("one[1].png"))
    assert str(path) in said(capsys, path, "--workdir", weights_file)


def test_many_images_are_predicted_in_batches(net, folder, weights_file, capsys, monkeypatch):
    monkeypatch.setattr(predict, "BATCH", 1)
    text = said(capsys, folder, folder, "--workdir", weights_file, "--json")
    images = json.loads(text)["images"]
    assert len(images) == 4 and images[0]["top"] == images[2]["top"]
    name, probability = net.top(folder / "b.png", 1)[0][0]
    assert images[0]["top"][0] == {"class": name, "probability": round(probability, 6)}


def test_unreadable_images_are_named_at_the_end(folder, weights_file, capsys):
    broken = [str(folder.parent / "c.jpg"), str(folder.parent / "d.jpg")]
    with pytest.raises(DataError, match=r"c\.jpg"):
        predict.main([broken[0], str(folder), "--workdir", str(weights_file)])
    out, err = capsys.readouterr()
    assert out.count("%") == 10 and not err
    with pytest.raises(DataError, match="2 of 4 images cannot be read"):
        predict.main([*broken, str(folder), "--workdir", str(weights_file), "--json"])
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert [image["image"] for image in report["unreadable"]] == broken
    assert len(report["images"]) == 2
    assert all(name in line for name, line in zip(broken, err.splitlines(), strict=True))
    with pytest.raises(DataError, match="2 of 2 images"):
        predict.main([*broken, "--workdir", str(weights_file), "--json"])
    assert not capsys.readouterr().out


def test_names_reach_the_terminal_without_its_commands():
    text = predict._text("a\x1b[2J.png", [("\x1b]0;title\x07cat\n", 0.5), ("naïve 猫", 0.25)])
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert len(text.splitlines()) == 3 and "naïve 猫" in text
