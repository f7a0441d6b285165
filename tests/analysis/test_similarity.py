"""The command similarity: what it reports, against the features themselves, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from scipy.spatial import distance

from alexnet_jax.analysis import encoding, similarity, similarity_inputs, similarity_measures
from alexnet_jax.errors import ConfigError, DataError, StorageError
from alexnet_jax.inference import network
from alexnet_jax.inference.network import Network

QUICK = ["--resamples", "20", "--permutations", "19"]
LAYERS = ["conv1", "conv2", "fc6", "fc7"]


@pytest.fixture(scope="module")
def nets(two_nets):
    return [network.load(path) for path in two_nets]


@pytest.fixture(autouse=True)
def loaded_once(nets, two_nets, monkeypatch):
    """The command loads `nets`, so that nothing is compiled twice; anything else as usual."""
    load, known = similarity_inputs.load, dict(zip(map(str, two_nets), nets, strict=True))
    monkeypatch.setattr(
        similarity_inputs, "load", lambda path, step: known.get(path) or load(path, step)
    )


@pytest.fixture(scope="module")
def features(nets, splits):
    """Features [net][layer] of all images of 'test', flattened."""
    images = splits["test"].images
    return [
        {name: net.features(images, name).reshape(len(images), -1) for name in LAYERS}
        for net in nets
    ]


def report_of(folder):
    return json.loads((folder / "similarity.json").read_text())


def debiased(x, y, batches):
    """CKA by U-centering written out, the mean over batches."""

    def hsic(a, b):
        total = 0
        for batch in batches:
            centered = []
            for one in (a[batch].astype(float), b[batch].astype(float)):
                k, n = one @ one.T, len(batch)
                np.fill_diagonal(k, 0)
                k -= k.sum(0) / (n - 2) + k.sum(1)[:, None] / (n - 2) - k.sum() / (n - 1) / (n - 2)
                np.fill_diagonal(k, 0)
                centered.append(k)
            total += (centered[0] * centered[1]).sum() / (n * (n - 3))
        return total

    return hsic(x, y) / (hsic(x, x) * hsic(y, y)) ** 0.5


def test_two_nets_layer_by_layer(two_nets, features, tmp_path, capsys):
    """In batches, and with few features at a time; the layers of one net among themselves are in the matrices."""
    named = list(map(str, two_nets))
    similarity.main(
        ["--nets", *named, "--split", "test", "--batch", "50", "--out", str(tmp_path), *QUICK]
    )
    said = capsys.readouterr().out
    assert (
        "128 images of test of synthetic. CKA: debiased, linear, of all images, in 3 random" in said
    )
    report = report_of(tmp_path)
    assert report["images"] == {
        "from": "test of synthetic", "count": 128, "batches": 3, "batch": 43, "seed": 0,
    }  # fmt: skip
    assert [one["layer"] for one in report["layers"]] == 2 * LAYERS
    assert len(report["pairs"]) == 16 and report["settling"] == []
    with np.load(tmp_path / "similarity.npz") as arrays:
        cka, rdm, first = arrays["cka"], arrays["rdm"], arrays["rdm_images"]
        assert arrays["nets"].tolist() == [named[0]] * 4 + [named[1]] * 4
        assert np.array_equal(arrays["images"], np.arange(128)) and len(first) == 43
        assert "rdms" not in arrays
    order = np.random.default_rng(0).permutation(128)
    batches = [np.sort(part) for part in np.array_split(order, 3)]
    assert np.array_equal(first, batches[0])
    flat = [features[net][name] for net in (0, 1) for name in LAYERS]
    expected = [[debiased(x, y, batches) for y in flat] for x in flat]
    np.testing.assert_allclose(cka, expected, atol=1e-4)
    np.testing.assert_allclose(np.diag(cka), 1, atol=1e-6)
    dissimilar = [distance.pdist(one[first], "correlation") for one in flat]
    np.testing.assert_allclose(rdm, stats.spearmanr(dissimilar, axis=1).statistic, atol=1e-3)
    for pair in report["pairs"]:
        a = LAYERS.index(pair["first"]["layer"])
        b = 4 + LAYERS.index(pair["second"]["layer"])
        assert (pair["first"]["net"], pair["second"]["net"]) == tuple(named)
        for key, matrix in (("cka", cka), ("rdm", rdm)):
            assert pair[key]["value"] == pytest.approx(matrix[a, b])
            assert pair[key]["low"] < pair[key]["high"]
            assert 0.05 <= pair[key]["p"] <= 1
    assert (tmp_path / "similarity.png").stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {
        "similarity.json", "similarity.png", "similarity.npz",
    }  # fmt: skip


def test_a_net_is_like_itself(two_nets, tmp_path):
    """Under another name: similarity 1, with intervals of no length and the smallest p."""
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(two_nets[0].read_bytes())
    similarity.main(["--nets", str(two_nets[0]), str(copy), "--layers", "fc6", "conv1/linear",
                     "--count", "40", "--out", str(tmp_path), *QUICK])  # fmt: skip
    for pair in report_of(tmp_path)["pairs"]:
        if pair["first"]["layer"] == pair["second"]["layer"]:
            for value in (pair["cka"], pair["rdm"]):
                assert [value[key] for key in ("value", "low", "high")] == pytest.approx(
                    [1] * 3, abs=1e-5
                )
                assert value["p"] == 0.05


@pytest.mark.parametrize("block_bytes", [1, 4000, 2**20])
def test_features_may_come_in_parts(nets, features, splits, block_bytes):
    """A few features at a time, several layers at a time, or all at once."""
    images, sizes = splits["test"].images[:40], {n: features[0][n].shape[1] for n in LAYERS}
    found = dict(similarity_measures.grams(nets[0], images, sizes, block_bytes))
    assert list(found) == LAYERS
    for name, gram in found.items():
        x = features[0][name][:40].astype(float)
        x -= x.mean(axis=0)
        np.testing.assert_allclose(
            gram.products, x @ x.T, rtol=1e-3, atol=1e-4 * np.square(x).sum() / 40
        )


def test_brain_and_behavior(two_nets, features, tmp_path, capsys):
    """An RDM and responses made from a layer are most like that layer; all images are in one batch."""
    net, out, random = str(two_nets[0]), tmp_path / "out", np.random.default_rng(0)
    source = features[0]["conv2"]
    rdm = distance.squareform(distance.pdist(source, "correlation"))
    responses = source @ random.normal(size=(source.shape[1], 6)) / 100
    responses = np.concatenate([responses, np.full((128, 1), 2.0)], axis=1)
    np.save(tmp_path / "rdm.npy", rdm.astype(np.float32))
    np.save(tmp_path / "responses.npy", responses)
    similarity.main(["--nets", net, "--rdm", str(tmp_path / "rdm.npy"), "--responses",
                     str(tmp_path / "responses.npy"), "--save-rdms", "--out", str(out), *QUICK])  # fmt: skip
    report, said = report_of(out), capsys.readouterr().out
    assert report["images"]["batch"] == 128 and report["pairs"] == []
    values = {one["layer"]: one for one in report["rdm"]["layers"]}
    assert values["conv2"]["value"] == pytest.approx(1, abs=1e-4) and values["conv2"]["p"] == 0.05
    x = distance.pdist(features[0]["fc6"], "correlation")
    expected = stats.spearmanr(x, distance.squareform(rdm)).statistic
    assert values["fc6"]["value"] == pytest.approx(expected, abs=1e-3)
    assert values["fc6"]["low"] < values["fc6"]["value"] < values["fc6"]["high"] < 1
    encoded = {one["layer"]: one for one in report["encoding"]["layers"]}
    assert encoded["conv2"]["known"] == 6
    assert max(encoded, key=lambda name: encoded[name]["correlation"]["value"]) == "conv2"
    x = features[0]["fc6"].astype(float)
    tests = encoding.folds(128, 5, np.random.default_rng(0))
    found = encoding.encode(x @ x.T, responses, tests)
    with np.load(out / "similarity.npz") as arrays:
        row = arrays["layers"].tolist().index("fc6")
        np.testing.assert_allclose(arrays["r2"][row], found.r2, atol=0.01)
        assert arrays["correlation"].shape == (4, 7) and arrays["rdms"].shape == (4, 128 * 127 // 2)
    assert "responses.npy, predicted by ridge regression, 5 folds" in said
    assert "with the RDM in" in said


def test_the_order_of_an_rdm_is_that_of_all_images(two_nets, features, tmp_path):
    """With --count, the rows of the images that were drawn are used."""
    rdm = distance.squareform(distance.pdist(features[0]["conv2"], "correlation"))
    np.save(tmp_path / "rdm.npy", rdm)
    similarity.main(["--nets", str(two_nets[0]), "--rdm", str(tmp_path / "rdm.npy"), "--count", "30",
                     "--layers", "conv2", "--out", str(tmp_path), *QUICK])  # fmt: skip
    [found] = report_of(tmp_path)["rdm"]["layers"]
    assert found["value"] == pytest.approx(1, abs=1e-4)


def test_image_files(two_nets, features, splits, tmp_path):
    """In the order of the list; nets of other classes or image sizes could be compared on them."""
    for i, image in enumerate(splits["test"].images[:12]):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    similarity.main(["--nets", *map(str, two_nets), "--images", str(tmp_path), "--layers", "fc6",
                     "--out", str(tmp_path / "out"), *QUICK])  # fmt: skip
    x, y = (features[net]["fc6"][:12] for net in (0, 1))
    with np.load(tmp_path / "out" / "similarity.npz") as arrays:
        assert arrays["cka"][0, 1] == pytest.approx(debiased(x, y, [np.arange(12)]), abs=1e-4)
        assert arrays["files"].tolist() == [str(tmp_path / f"{i:02}.png") for i in range(12)]


def test_a_dead_layer_has_no_values(two_nets, nets, tmp_path, capsys, monkeypatch):
    """One layer whose outputs are all zero does not end the command."""
    model = nets[0].trained
    kernel, bias = model.params["fc6"]["kernel"], model.params["fc6"]["bias"]
    dead = {"kernel": 0 * kernel, "bias": 0 * bias - 1}
    net = Network(model._replace(params=model.params | {"fc6": dead}))
    monkeypatch.setattr(similarity_inputs, "load", lambda path, step: net)
    similarity.main(["--nets", str(two_nets[0]), str(two_nets[1]), "--count", "30", "--out",
                     str(tmp_path), *QUICK])  # fmt: skip
    report = report_of(tmp_path)
    pairs = {(p["first"]["layer"], p["second"]["layer"]): p for p in report["pairs"]}
    nothing = {"value": None, "low": None, "high": None, "p": None}
    assert pairs["fc6", "fc6"]["cka"] == pairs["fc6", "fc6"]["rdm"] == nothing
    assert pairs["conv1", "conv1"]["cka"]["value"] == pytest.approx(1, abs=1e-5)
    assert f"fc6 of {two_nets[0]}" in capsys.readouterr().out


def test_bad_input_is_said_all_at_once(two_nets, tmp_path):
    """Before anything is computed or written."""
    rdm = np.ones((128, 128))
    np.save(tmp_path / "odd.npy", np.ones((128, 127)))
    np.save(tmp_path / "nan.npy", np.full((128, 3), np.nan))
    np.save(tmp_path / "few.npy", np.ones((100, 3)))
    np.save(tmp_path / "asymmetric.npy", np.triu(rdm, 1))
    np.save(tmp_path / "similarities.npy", rdm)
    np.save(tmp_path / "flat.npy", np.ones((128, 3)))
    out = tmp_path / "out"

    def refused(*arguments, nets=two_nets[:1], error=DataError):
        with pytest.raises(error) as caught:
            similarity.main(["--nets", *map(str, nets), *arguments, "--out", str(out)])
        assert not out.exists()
        return str(caught.value)

    def file(name):
        return str(tmp_path / f"{name}.npy")

    assert "odd.npy" in refused("--rdm", file("odd"))
    assert "not symmetric" in refused("--rdm", file("asymmetric"))
    assert "diagonal that is not 0" in refused("--rdm", file("similarities"))
    assert "is not finite" in refused("--responses", file("nan"))
    assert "100 images, but there are 128" in refused("--responses", file("few"))
    assert "no response that differs" in refused("--responses", file("flat"))
    twice = [two_nets[0], two_nets[1], two_nets[0]]
    said = refused(
        "--layers", "fc6", "fc9", "--rdm", file("asymmetric"), "--responses", file("few"), "--batch", "5",
        nets=[*twice, tmp_path / "none", f"{tmp_path}/none@all", f"{tmp_path}@last"], error=ConfigError,
    )  # fmt: skip
    for part in (
        "has no layer fc9; it has conv1/linear", "none is not a run folder", "none has no checkpoints",
        "after @ comes a step, best or all", "few.npy", "asymmetric.npy is not symmetric", "--batch must be",
    ):  # fmt: skip
        assert part in said, part
    assert "names a net twice" in refused(nets=twice, error=ConfigError)
    assert "no file" in refused("--images", str(tmp_path / "none.png"))
    assert "--count must be from 10 to 128" in refused("--count", "129", error=ConfigError)
    refused(nets=[f"{tmp_path}/none@all"], error=StorageError)


def test_one_net_alone(two_nets, tmp_path, capsys):
    """Its layers are compared in the matrices; without resamples and permutations too."""
    similarity.main(["--nets", str(two_nets[0]), "--layers", "fc6", "fc7", "--count", "20", "--resamples",
                     "0", "--permutations", "0", "--out", str(tmp_path)])  # fmt: skip
    assert "One net" in capsys.readouterr().out
    with np.load(tmp_path / "similarity.npz") as arrays:
        assert np.isfinite(arrays["cka"]).all() and arrays["cka"].shape == (2, 2)
    assert report_of(tmp_path)["pairs"] == []
