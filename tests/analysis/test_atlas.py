"""The atlas: complete with images, without them, small, escaped, and in a browser."""

import re

import numpy as np
import pytest

from alexnet_jax.analysis import atlas, atlas_pages, deconvnet, tuning
from alexnet_jax.analysis.maximization import Recipe
from alexnet_jax.errors import ConfigError, DataError
from alexnet_jax.inference.network import Network
from tests.browser import browser

HOSTILE = "<script>alert(1)</script>"
FEW = Recipe(steps=2)


@pytest.fixture(scope="module")
def folder(net, splits, tmp_path_factory):
    """An atlas of the tiny net with images, one class of which has a hostile name."""
    folder = tmp_path_factory.mktemp("atlas")
    names = (HOSTILE, *net.class_names[1:])
    named = Network(net.trained._replace(class_names=names))
    layers = atlas.choose(named, None, 4)
    atlas.write(named, layers, folder, FEW, ("test", splits["test"]), 100)
    return folder


def cards(page: str) -> dict[str, str]:
    """Title -> content of the cards of the maps."""
    found = re.findall(r'<article class="card"><h2>(.*?)</h2>(.*?)</article>', page, re.DOTALL)
    return {re.sub("<.*", "", title): body for title, body in found}


def test_every_layer_has_a_page_and_the_index_links_to_it(folder):
    names = ["conv1", "conv2", "fc6", "fc7"]
    assert {path.stem for path in folder.iterdir()} == {"index", *names}
    index = (folder / "index.html").read_text()
    assert [one for one in re.findall(r'href="(\w+)\.html"', index)] == names
    assert "100 random images of test" in index and "Not shown" not in index
    for path in folder.iterdir():
        page = path.read_text()
        assert path.stat().st_size < 5e6 and "default-src 'none'" in page
        links = [one for one in re.findall(r'(?:src|href)="([^"]*)"', page) if ".html" not in one]
        assert links and all(link.startswith("data:") for link in links)
        assert not re.search(r"https?://|@import|url\(", page)


def test_a_card_has_everything_about_its_map(folder):
    found = cards((folder / "conv1.html").read_text())
    assert list(found) == ["Map 1", "Map 3", "Map 5", "Map 7"]
    for body in found.values():
        assert body.count("<img") == 1 + 9 + 1  # optimized, patches, kernel
        assert "Prefers bars at" in body and body.count("<svg") == 1
        assert body.count("<li") == len(tuning.COLORS) + atlas_pages.TOP
        assert "class selectivity 0." in body
    assert "color index" in (folder / "conv1.html").read_text()
    assert "Prefers" not in (folder / "conv2.html").read_text()


def test_the_last_layer_has_the_names_of_the_classes(folder):
    page = (folder / "fc7.html").read_text()
    assert "columns-1" in cards(page)
    assert "<script" not in page and "class selectivity" not in page  # logits can be negative


def test_hostile_names_stay_text(folder):
    text = "".join(path.read_text() for path in folder.iterdir())
    assert "<script" not in text and "&lt;script&gt;" in text


def test_the_strongest_images_are_those_of_deconvnet(net, splits):
    layers = atlas.choose(net, ["conv2", "fc6"], 3)
    found = atlas.search(net, layers, "test", splits["test"], 30, seed=1)
    assert found.pixels.shape == (30, 16, 16, 3) and len(found.labels) == 30
    for layer in layers:
        values = net.features(found.pixels, layer.feature)[..., layer.maps].reshape(30, -1, 3)
        np.testing.assert_allclose(
            found.strengths[layer.feature][..., 0], values.max(axis=1), rtol=1e-4, atol=1e-4
        )
    strengths = deconvnet.strengths(net, found.pixels, "conv2/act", layers[0].maps)
    np.testing.assert_array_equal(found.strengths["conv2/act"][..., 1:], strengths[..., 1:])


def test_maps_are_evenly_spaced_over_the_towers(net):
    [conv1, fc7] = atlas.choose(net, ["conv1", "fc7"], 4)
    assert conv1.maps == [1, 3, 5, 7] and (conv1.count, conv1.towers) == (8, 2)
    assert conv1.feature == "conv1/act" and conv1.field == 5
    assert fc7.maps == [1, 3, 6, 8] and fc7.towers == 1
    assert (conv1.kind, fc7.kind) == ("maps", "classes")
    assert atlas.choose(net, None, 100)[0].maps == list(range(8))


def test_the_work_is_that_of_all_passes(net):
    """conv1 has 5 * 5 * 3 * 8 * 7 * 7 multiply-adds; there are 12 * 8 * 8 * 5 gratings."""
    layers, conv1 = atlas.choose(net, ["conv1"], 4), 29_400
    passes = 3 * 100 * 4 + 50 + 3840
    expected = f"4 pictures of 100 steps and 50 images: about {passes * conv1 / 1e6:.0f} million"
    assert atlas.cost(net, layers, Recipe(steps=100), 50).startswith(expected)


def test_without_images_the_rest_is_there_and_it_is_said(
    net, weights_file, tmp_path, capsys, caplog, monkeypatch
):
    def gone(*_):
        raise DataError("there is no folder /gone")

    monkeypatch.setattr("alexnet_jax.analysis.pictures.load_split", gone)
    command = ["--workdir", str(weights_file), "--out", str(tmp_path), "--steps", "2"]
    atlas.main([*command, "--layers", "conv1", "--maps", "2"])
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "index.html")
    assert "2 pictures of 2 steps and 0 images" in said.err and "conv1: 2 of 8 maps, " in said.err
    assert "there is no folder /gone" in caplog.text
    for name in ("index", "conv1"):
        assert "Not shown: images that excite maps" in (tmp_path / f"{name}.html").read_text()
    for body in cards((tmp_path / "conv1.html").read_text()).values():
        assert body.count("<img") == 2 and "Mean activation" not in body
    with pytest.raises(DataError, match="/gone"):
        atlas.main([*command, "--split", "val"])


def test_a_silent_map_says_so(net, splits, tmp_path):
    params = dict(net.trained.params)
    params["conv1"] = {
        "kernel": np.zeros((5, 5, 3, 8), np.float32), "bias": np.full(8, -1, np.float32)
    }  # fmt: skip
    silent = Network(net.trained._replace(params=params))
    atlas.write(
        silent, atlas.choose(silent, ["conv1"], 1), tmp_path, FEW, ("test", splits["test"]), 9
    )
    [body] = cards((tmp_path / "conv1.html").read_text()).values()
    assert "No image excites it." in body and "It responds to no grating." in body


def test_the_selectivity_for_classes_is_that_of_morcos():
    assert atlas_pages.class_selectivity(np.array([0.0, 3, 0])) == 1
    assert atlas_pages.class_selectivity(np.array([1.0, 1, 1])) == 0
    assert atlas_pages.class_selectivity(np.array([3.0, 1, 1])) == 0.5
    for undefined in ([-1.0, 2], [0.0, 0], [2.0]):
        assert atlas_pages.class_selectivity(np.array(undefined)) is None


def test_pages_stay_small_with_large_pictures():
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    patch = atlas_pages._thumbnail(noise, atlas_pages.PATCH, "a")
    picture = atlas_pages._thumbnail(noise, atlas_pages.PICTURE, "b")
    assert patch["uri"].startswith("data:image/webp") and not patch["small"]
    # Noise is the worst case; photographs take a third.
    size = len(picture["uri"]) + atlas_pages.BEST * len(patch["uri"])
    assert size * atlas.MOST_MAPS < 15e6
    tile = atlas_pages._thumbnail(noise[:11, :11], atlas_pages.PICTURE, "c")
    assert tile["uri"].startswith("data:image/png") and tile["small"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--layers", "conv7", "conv1", "fc9"],
            "there is no conv7, fc9; the layers are conv1, conv2,",
        ),
        (["--maps", "0", "--steps", "0"], "--maps is from 1 to 100, not 0; --steps is at least 1"),
        (["--count", "0"], "--count is at least 1, not 0"),
    ],
)
def test_bad_input_is_said(weights_file, tmp_path, arguments, said):
    with pytest.raises(ConfigError, match=said):
        atlas.main(["--workdir", str(weights_file), "--out", str(tmp_path), *arguments])


def test_a_weights_file_needs_a_folder_for_its_pages(weights_file):
    with pytest.raises(ConfigError, match="--out DIR says which folder"):
        atlas.main(["--workdir", str(weights_file)])


def test_in_a_browser_it_fits_a_phone_and_says_nothing_on_the_console(folder):
    with browser() as window:
        for width, dark in ((390, True), (1200, False)):
            for name in ("index", "conv1", "fc7"):
                window.open((folder / f"{name}.html").as_uri(), width, dark=dark)
                assert window.too_wide() <= 0
                assert window.run("return [...document.images].every(i => i.naturalWidth > 0)")
        assert window.errors() == []
