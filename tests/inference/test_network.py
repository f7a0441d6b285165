import dataclasses
import functools
import io
import json
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax.tree_util import Partial
from PIL import Image

import alexnet_jax
from alexnet_jax import config
from alexnet_jax.analysis import features
from alexnet_jax.data.pipeline import statistics, views
from alexnet_jax.errors import CheckpointError, ConfigError, DataError, StorageError
from alexnet_jax.inference import network, predict_step, trained, weights
from alexnet_jax.inference.network import Network
from alexnet_jax.model import mesh as parallel
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.train import state

NAMES = tuple(f"class {number}" for number in range(10))


@pytest.fixture(scope="module")
def run():
    """The tiny net with random weights, large enough that its answers differ."""
    tree = config.load("tests/tiny.py", [])
    spec = config.with_classes(config.parse(tree), 10)
    made = state.create(spec, AlexNet(spec.model), 0)
    params = jax.tree.map(lambda leaf: 4 * np.asarray(leaf), made.params)
    means = statistics.zeros(16)
    means = means._replace(mean_image=np.full_like(means.mean_image, 100.0))
    tree = json.loads(config.to_json(tree))
    return trained.TrainedModel(spec, tree, 7, params, {}, means, NAMES)


@pytest.fixture(scope="module")
def path(run, tmp_path_factory):
    return trained.save(tmp_path_factory.mktemp("weights") / "tiny.safetensors", run)


@pytest.fixture(scope="module")
def net(path):
    return alexnet_jax.load(path)


def pictures(count, size=16):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_a_weights_file_holds_the_network_and_is_the_same_bytes_each_time(run, path, net, tmp_path):
    assert net.class_names == NAMES and net.trained.step == 7 and net.trained.config == run.config
    assert jax.tree.all(jax.tree.map(np.array_equal, net.trained.params, run.params))
    assert np.array_equal(net.trained.statistics.mean_image, run.statistics.mean_image)
    again = trained.save(tmp_path / "again.safetensors", net.trained)
    assert again.read_bytes() == path.read_bytes()
    assert safetensors.numpy.load_file(again).keys() == safetensors.numpy.load_file(path).keys()


@pytest.mark.parametrize("view", ["center", "ten"])
def test_predictions_are_those_of_evaluation(run, net, view):
    pixels = pictures(13)
    mesh = parallel.device_mesh(jax.devices()[:1])
    evaluate = predict_step.make_eval_step(run.config, net.model, run.statistics, mesh, view)
    expected = evaluate(run.params, {}, pixels)
    np.testing.assert_allclose(net.predict(pixels, view), expected, rtol=1e-5)
    assert net.predict(pixels).shape == (13, 10)


def test_features_are_what_the_network_computes_from_the_center_crop(run, net):
    pixels, names = pictures(3), []

    @jax.jit
    def compute(params, pixels):
        seen = views.views(pixels, run.statistics, run.config.augment, "center")[:, 0]
        _, features = net.model.apply({"params": params}, seen, train=False)
        names.extend(features)  # jax sorts them
        return features

    features = compute(run.params, pixels)
    assert list(net.shapes) == names
    assert {"conv1/lrn", "fc6", "fc7/linear"} <= set(features)
    for name in ("conv1/linear", "conv2", "fc6"):
        assert net.features(pixels, name).shape == (3, *net.shapes[name])
        np.testing.assert_allclose(net.features(pixels, name), features[name], rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="no features 'conv9'; it has conv1/linear, conv1/act"):
        net.features(pixels, "conv9")


def without(net, **kernels):
    """`net` with other kernels in some layers."""
    params = net.trained.params
    params = params | {name: params[name] | {"kernel": one} for name, one in kernels.items()}
    return Network(net.trained._replace(params=params))


def test_a_map_set_to_zero_is_one_that_the_next_layer_has_no_weights_for(net):
    """Map 5 of conv1 is the second of its tower, which has features 4 to 7 of conv2."""
    kernel, pixels = net.trained.params["conv2"]["kernel"].copy(), pictures(3)
    kernel[:, :, 1, 4:] = 0
    edit = {"conv1": lambda x: x.at[..., 5].set(0)}
    cut = without(net, conv2=kernel)
    for view in ("center", "ten"):
        found = net.predict(pixels, view, edit=edit)
        np.testing.assert_allclose(found, cut.predict(pixels, view), rtol=1e-5)
        assert not np.allclose(found, net.predict(pixels, view), rtol=1e-2)
    for name in ("conv1", "conv2", "fc7"):
        found = net.features(pixels, name, edit=edit)
        expected = cut.features(pixels, name)
        if name == "conv1":
            expected[..., 5] = 0
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    whole = net.all_features(net.variables, pixels, {"fc6": jnp.zeros_like})["fc7"]
    np.testing.assert_allclose(whole, np.tile(net.trained.params["fc7"]["bias"], (3, 1)))


def test_an_edit_is_compiled_for_its_function_and_takes_arrays_as_arguments(net):
    traced, pixels = [], pictures(2)

    def masked(mask, x):
        traced.append(mask.shape)
        return x * mask

    def all_but(number):
        return {"fc6": Partial(masked, (np.arange(16) != number).astype(np.float32))}

    found = [net.predict(pixels, edit=all_but(number)) for number in range(16)]
    assert traced == [(16,)]
    kernel = net.trained.params["fc7"]["kernel"].copy()
    kernel[3] = 0
    np.testing.assert_allclose(found[3], without(net, fc7=kernel).predict(pixels), rtol=1e-5)
    before = net.predict(pixels)
    scales = [lambda x, by=by: x * by for by in (0.0, 1.0, 2.0)]
    nothing, same, twice = (net.predict(pixels, edit={"fc6": scale}) for scale in scales)
    np.testing.assert_allclose(same, before, rtol=1e-5)
    assert np.ptp(nothing, axis=0).max() == 0 and not np.allclose(twice, same, rtol=1e-2)


def test_few_programs_with_edits_are_kept(net, monkeypatch):
    monkeypatch.setattr(network, "EDITED_PROGRAMS", 2)
    traced, pixels = [], pictures(1)

    def scale(by):
        return {"fc6": lambda x: traced.append(by) or x * by}

    edits = [scale(by) for by in (1.0, 2.0, 3.0)]
    for i in (0, 1, 0, 2, 0, 1):
        net.predict(pixels, edit=edits[i])
    assert traced == [1.0, 2.0, 3.0, 2.0]


def test_an_edit_that_is_no_function_is_refused(net):
    with pytest.raises(ConfigError, match="edit of fc6 is a function of its array, not ndarray"):
        net.predict(pictures(1), edit={"fc6": np.zeros(16)})
    with pytest.raises(ConfigError, match="edit: the network has no features fc9; it has conv1/"):
        net.features(pictures(1), "fc6", edit={"fc9": abs})


def test_images_come_as_paths_pictures_and_arrays(net, tmp_path):
    pixels = pictures(1)[0]
    file = tmp_path / "one.png"
    Image.fromarray(pixels).save(file)
    expected = net.predict(pixels[None])
    for images in (file, str(file), [file], Image.fromarray(pixels), pixels, [pixels]):
        assert np.array_equal(net.predict(images), expected)
    assert net.predict([file, pictures(1, 40)[0], pixels[..., 0]]).shape == (3, 10)
    assert net.pixels(pictures(1, 40)[0, :, :, 0]).shape == (1, 16, 16, 3)
    [[(name, probability), second]] = net.top(file, k=2)
    assert name == NAMES[expected[0].argmax()] and probability == expected.max() > second[1]


def test_every_form_of_an_image_has_the_same_answer(net, tmp_path):
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:8, :, 3] = 255
    file = tmp_path / "transparent.png"
    Image.fromarray(pixels).save(file)
    expected = net.predict([file])
    with Image.open(file) as image:
        forms = [
            image,
            pixels,
            jnp.asarray(pixels),
            file.read_bytes(),
            bytearray(file.read_bytes()),
        ]
        for form in forms:
            assert np.array_equal(net.predict(form), expected)
            assert np.array_equal(net.predict([form]), expected)
        assert np.array_equal(net.pixels(form for form in forms), net.pixels([file] * 5))
    assert (net.pixels(file)[0, 8:] == 255).all()


def test_an_array_with_one_channel_is_one_image(net):
    gray = pictures(1, 28)[0, ..., :1]
    assert net.predict(gray).shape == (1, 10)
    assert np.array_equal(net.pixels(gray), net.pixels(gray[..., 0]))
    assert net.pixels(np.stack([gray, gray])).shape == (2, 16, 16, 3)
    assert net.pixels(jnp.asarray(pictures(2))).shape == (2, 16, 16, 3)
    assert np.array_equal(net.pixels(np.array(pictures(2)[:, :, ::-1])[:, :, ::-1]), pictures(2))


def test_names_of_files_come_in_arrays_too(net, tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "one.png")
    names = np.array([str(tmp_path / "one.png")] * 2)
    assert np.array_equal(net.pixels(names), np.repeat(pictures(1), 2, axis=0))


NO_IMAGES = {
    "none": (None, "not NoneType"),
    "a number": (3, "not int"),
    "a float": (3.5, "not float"),
    "a dict": ({"cat.jpg": 1}, "not dict"),
    "a set": ({"cat.jpg"}, "not set"),
    "an open file": (io.BytesIO(b"cat"), "not BytesIO"),
    "an empty list": ([], "no images"),
    "an empty generator": ((path for path in ()), "no images"),
    "an empty batch": (np.zeros((0, 16, 16, 3), np.uint8), "no images"),
    "numbers": ([1, 2, 3], "image 0 is of the type int"),
    "lists": ([[1, 2], [3, 4]], "image 0 is of the type list"),
    "nested paths": ([["cat.jpg"]], "image 0 is of the type list"),
    "none among images": ([pictures(1)[0], None], "image 1 is of the type NoneType"),
    "no rows": (np.zeros((0, 5, 3), np.uint8), "the image: pixels must be uint8"),
    "a batch of float": (np.zeros((2, 16, 16, 3), np.float32), "image 0: pixels must be uint8"),
    "several grays without a channel": (np.zeros((9, 28, 28), np.uint8), "not uint8 [9, 28, 28]"),
    "channels first": (np.zeros((3, 16, 16), np.uint8), "channels come last"),
    "a row of numbers": (np.zeros(5, np.uint8), "image 0: pixels must be uint8"),
    "a number of NumPy": (np.uint8(5), "not uint8"),
    "five axes": (np.zeros((1, 2, 9, 9, 3), np.uint8), "image 0: pixels must be uint8"),
    "float of JAX": (
        jnp.asarray(np.zeros((16, 16, 3), np.float32)),
        "the image: pixels must be uint8",
    ),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_image_is_refused(net, name):
    images, said = NO_IMAGES[name]
    with pytest.raises(DataError) as caught:
        net.predict(images)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def photo(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture = Image.fromarray(pictures(1)[0])
    picture.save(file, "PNG", exif=exif)
    return file.getvalue()


def test_photos_are_turned_as_the_config_of_the_run_says(run, tmp_path):
    (tmp_path / "photo.png").write_bytes(photo(6))
    assert "exif" not in run.config_tree["data"]  # as of runs before there was the key
    turned = dataclasses.replace(run.config.data, exif="apply")
    for data, expected in (
        (run.config.data, pictures(1)[0]),
        (turned, np.rot90(pictures(1)[0], -1)),
    ):
        net = Network(run._replace(config=dataclasses.replace(run.config, data=data)))
        for form in (photo(6), tmp_path / "photo.png", Image.open(io.BytesIO(photo(6)))):
            assert np.array_equal(net.pixels(form)[0], expected)
        read = features.file_source(net, [str(tmp_path)]).images[np.arange(1)]
        assert np.array_equal(read[0], expected)


def edit(path, folder, change):
    """A copy of a weights file whose header `change` has edited."""
    encoded = path.read_bytes()
    size = int.from_bytes(encoded[:8], "little")
    header = json.loads(encoded[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    copy = folder / "changed.safetensors"
    copy.write_bytes(len(text).to_bytes(8, "little") + text + encoded[8 + size :])
    return copy


def overflowing(path, folder):
    tensors, metadata = weights.read(path)
    tensors["params/fc6/bias"] = tensors["params/fc6/bias"] + np.inf
    copy = folder / "changed.safetensors"
    copy.write_bytes(safetensors.numpy.save(tensors, metadata))
    return copy


def metadata(key, value):
    return lambda path, folder: edit(path, folder, lambda h: h["__metadata__"].update({key: value}))


def configured(key, value):
    """Another value in the config of the metadata; a text: so many rows."""

    def change(header):
        tree = json.loads(header["__metadata__"]["config"])
        *sections, name = key.split(".")
        section = functools.reduce(dict.__getitem__, sections, tree)
        rows = (
            {f"conv{i}": section["convs"]["conv2"] for i in range(1500)}
            if value == "1,500 rows"
            else value
        )
        section[name] = rows
        header["__metadata__"]["config"] = json.dumps(tree)

    return lambda path, folder: edit(path, folder, change)


HOSTILE = {
    "is not a readable safetensors file": [
        lambda path, folder: (folder / "x.safetensors").write_bytes(path.read_bytes()[:-5]),
        lambda path, folder: (folder / "x.safetensors").write_bytes(b"\xff" * 7 + b"\x7f" + b"{" * 99),
        lambda path, folder: edit(path, folder, lambda h: h["params/fc6/bias"].update(data_offsets=[0, 2**60])),
        lambda path, folder: edit(path, folder, lambda h: h["params/fc6/bias"].update(shape=[2**40])),
        lambda path, folder: (folder / "x.safetensors").write_bytes(pickle.dumps(os.getcwd)),
    ],
    "has weights of another program": [metadata("format", "pt")],
    "has schema '9'": [metadata("schema", "9")],
    "its metadata are damaged": [
        metadata("config", "{"), metadata("config", "[" * 10**5), metadata("config", "{}"),
        metadata("class_names", "3"), metadata("class_names", '["one"]'), metadata("step", "x"),
        metadata("step", "9" * 400), metadata("step", str(2**62)), metadata("class_names", '["a", 1]'),
        metadata("class_names", "[" * 5000), configured("data.image_size", 100_000),
        configured("model.lrn_constants.n", 10**6), configured("model.spatial_norm.size", 10**6),
        configured("model.convs.conv1.features", 2**62), configured("model.convs", "1,500 rows"),
    ],
    "params/fc6/bias is F8_E4M3": [
        lambda path, folder: edit(path, folder, lambda h: h["params/fc6/bias"].update(dtype="F8_E4M3", shape=[64])),
    ],
    "has no tensor params/fc6/bias": [
        lambda path, folder: edit(path, folder, lambda h: h.update(more=h.pop("params/fc6/bias"))),
    ],
    "params/fc6/bias has shape": [
        lambda path, folder: edit(path, folder, lambda h: h["params/fc6/bias"].update(shape=[4, 4])),
    ],
    "params/fc6/bias is int32": [
        lambda path, folder: edit(path, folder, lambda h: h["params/fc6/bias"].update(dtype="I32")),
    ],
    "params/fc6/bias is not finite": [overflowing],
}  # fmt: skip


@pytest.mark.fault("F49")
@pytest.mark.parametrize(
    ("said", "damage"), [(said, damage) for said, some in HOSTILE.items() for damage in some]
)
def test_a_hostile_weights_file_is_refused_in_one_line(path, tmp_path, said, damage):
    damage(path, tmp_path)
    [file] = tmp_path.glob("*.safetensors")
    with pytest.raises(CheckpointError, match=said) as raised:
        alexnet_jax.load(file)
    assert str(file) in str(raised.value) and "\n" not in raised.value.line()


def test_what_is_not_there_says_so(path, tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        alexnet_jax.load(tmp_path / "none.safetensors")
    with pytest.raises(StorageError, match="is not a run folder"):
        alexnet_jax.load(tmp_path)
    with pytest.raises(ConfigError, match="no other steps"):
        alexnet_jax.load(path, step=3)
    with pytest.raises(ConfigError, match="the view is one of center"):
        alexnet_jax.load(path).predict(pictures(1), "dense-ish")
