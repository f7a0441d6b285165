"""Features in one file, also after an interruption."""

import errno
import json
import os

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import files
from alexnet_jax.analysis import features
from alexnet_jax.errors import ConfigError, DataError, StorageError, WorkdirError


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(features, "PART_BYTES", 1)  # as many images as a batch has


@pytest.fixture
def command(weights_file, tmp_path):
    return ["--workdir", str(weights_file), "--out", str(tmp_path / "F.npz")]


SPLIT = ["--split", "test", "--layer", "fc6", "--layer", "conv1/lrn"]


def test_every_image_of_a_split_is_there(net, splits, answers, command, tmp_path):
    features.main([*command, *SPLIT])
    assert [path.name for path in tmp_path.iterdir()] == ["F.npz"]
    with np.load(tmp_path / "F.npz", allow_pickle=False) as content:
        for layer in ("fc6", "conv1/lrn"):
            assert content[layer].dtype == np.float32
            np.testing.assert_allclose(content[layer], answers[layer], rtol=1e-4, atol=1e-5)
        assert np.array_equal(content["labels"], splits["test"].labels)
        assert np.array_equal(content["indices"], np.arange(128))
        assert tuple(content["class_names"]) == net.class_names and content["step"] == 7
        assert json.loads(str(content["request"]))["layers"] == ["fc6", "conv1/lrn"]


def test_a_stopped_command_continues_with_the_same_bytes(command, tmp_path, monkeypatch):
    path = tmp_path / "F.npz"
    features.main([*command, *SPLIT])
    whole = path.read_bytes()
    features.main([*command, *SPLIT])  # nothing to do
    path.unlink()

    write, written = files.write_atomically, []

    def full(file, content):
        if len(written) == 3:
            (file.with_name(file.name + ".tmp")).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(file)
        write(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_atomically", full)
        with pytest.raises(StorageError, match=r"No space left.*run the same command again"):
            features.main([*command, *SPLIT])
    assert not path.exists() and len(list(tmp_path.glob("F.npz.parts/*.npy"))) == 2
    with pytest.raises(ConfigError, match=r"F\.npz\.parts has parts for another network"):
        features.main([*command, "--split", "test", "--layer", "fc6"])

    monkeypatch.setattr(files, "write_atomically", lambda *a: (written.append(a[0]), write(*a)))
    features.main([*command, *SPLIT])
    assert len(written) == 3 + 2 and path.read_bytes() == whole
    assert not list(tmp_path.glob("*.parts"))


def test_another_file_is_not_replaced(command, tmp_path):
    (tmp_path / "F.npz").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="exists with other content; remove it or choose another"):
        features.main([*command, *SPLIT])
    assert (tmp_path / "F.npz").read_bytes() == b"mine" and len(list(tmp_path.iterdir())) == 1


def test_images_that_were_replaced_are_others(command, tmp_path, pixels):
    path = tmp_path / "a.bmp"
    command = [*command, "--images", str(path), "--layer", "fc7"]
    for image in pixels[:2]:
        Image.fromarray(image).save(path)
        os.utime(path, (1e9, 1e9))
        if not (tmp_path / "F.npz").exists():
            features.main(command)
    with pytest.raises(ConfigError, match="exists with other content"):
        features.main(command)
    Image.fromarray(pixels[0]).save(path)
    features.main(command)  # nothing to do


def test_two_commands_do_not_write_the_same_file(command, tmp_path):
    (tmp_path / "F.npz.parts").mkdir()
    with features._locked(tmp_path / "F.npz.parts"), pytest.raises(WorkdirError, match="in use"):
        features.main([*command, *SPLIT])


def test_files_keep_their_names(answers, command, tmp_path, pixels):
    folder = tmp_path / "pictures" / "deep"
    folder.mkdir(parents=True)
    for name, image in zip("ba", pixels, strict=False):
        Image.fromarray(image).save(folder / f"{name}.png")
    features.main([*command, "--images", str(tmp_path / "pictures"), "--layer", "fc7"])
    with np.load(tmp_path / "F.npz") as content:
        assert content["files"].tolist() == [str(folder / "a.png"), str(folder / "b.png")]
        np.testing.assert_allclose(content["fc7"], answers["fc7"][[1, 0]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["--split", "test", "--layer", "fc9"], ConfigError, "no features 'fc9'; it has conv1/"),
        (["--images", "none.jpg", "--layer", "fc7"], DataError, "there is no file none.jpg"),
    ],
)
def test_bad_input_is_said(command, arguments, error, said):
    with pytest.raises(error, match=said):
        features.main([*command, *arguments])
