"""The output of the command, as text and JSON."""

import json

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
    for error, words, arguments in (
        (ConfigError, "give one or more images, or --serve", []),
        (ConfigError, "give one or more images, or --serve", [*pictures, "--serve"]),
        (ConfigError, "--top=0", [*pictures, "--top", "0"]),
        (ConfigError, "--port=70000", ["--serve", "--port", "70000"]),
        (DataError, f"{tmp_path} is a folder, not an image", [str(tmp_path)]),
        (DataError, "there is no file none.jpg", ["none.jpg"]),
        (DataError, f"{text} is not an image", [pictures[0], str(text)]),
    ):
        with pytest.raises(error, match=words):
            predict.main([*arguments, "--workdir", str(weights_file)])
    with pytest.raises(StorageError, match="is not a run folder") as raised:
        predict.main([*pictures, "--workdir", str(tmp_path)])
    assert raised.value.exit_code == 5 and DataError.exit_code == 3


def test_names_reach_the_terminal_without_its_commands():
    text = predict._text("a\x1b[2J.png", [("\x1b]0;title\x07cat\n", 0.5), ("naïve 猫", 0.25)])
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert len(text.splitlines()) == 3 and "naïve 猫" in text
