"""Which net a file has: from its shapes, names, metadata and biases; and import and export without being told."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from alexnet_jax import config, files
from alexnet_jax.errors import CheckpointError, ConfigError
from alexnet_jax.inference import trained, weights
from alexnet_jax.interop import (
    caffe,
    contents,
    export_weights,
    identify,
    identify_command,
    import_weights,
    layout,
    torchvision,
    variants,
)
from alexnet_jax.interop.contents import Contents
from tests.interop import nets, test_caffe
from tests.interop.test_caffe import ALEXNET, CAFFENET, integer, message

TWO_TOWERS = {"paper", "krizhevsky2012", "caffe:alexnet", "caffe:caffenet"}


def spec_of(name):
    return config.parse(config.load(name, []), needs_images=False)


def tensors_of(name, classes=1000):
    """The tensors of a whole net by our names: kernels of zeros, biases near where they begin."""
    spec, draws = spec_of(name), np.random.default_rng(0)
    found = {}
    for key, shape in weights.shapes(spec).items():
        _, layer, leaf = key.split("/")
        if layer == spec.model.fcs[-1][0]:
            shape = (*shape[:-1], classes)
        begun = dict(spec.model.layers)[layer].bias if leaf == "bias" else None
        array = np.zeros(shape, np.float32)
        found[key] = array if begun is None else draws.normal(begun, 0.05, shape).astype("f4")
    return spec, found


def state_dict(name, classes=1000):
    """The file that PyTorch would write."""
    spec, ours = tensors_of(name, classes)
    names = torchvision.tensor_names(spec.model)
    theirs = layout.to_channels_first(spec, ours)
    return Contents(Path("net.pth"), "state dict", {names[n]: a for n, a in theirs.items()}, {})


def arrays(name, classes=1000):
    """A file with Flax's layout and other names."""
    _, ours = tensors_of(name, classes)
    tensors = {f"{n.split('/')[1]}_{n.split('/')[2]}": array for n, array in ours.items()}
    return Contents(Path("net.npz"), "npz", tensors, {})


def caffe_net(name, order=None, title="", lrn=None, transformation=None):
    """A .caffemodel of the whole net, with the order of its layers or without."""
    spec, ours = tensors_of(name)
    theirs = layout.to_channels_first(spec, ours)
    layers = [caffe.Layer("data", "Data", [], transformation=transformation)]
    for layer, _ in spec.model.layers:
        blobs = [theirs[f"params/{layer}/{leaf}"] for leaf in ("kernel", "bias")]
        layers.append(caffe.Layer(layer, "Convolution", blobs))
        for kind in (order | test_caffe.REST)[layer] if order else ():
            layers.append(caffe.Layer(kind, kind, [], lrn if kind == "LRN" else None))
    net = caffe.Net(title, layers)
    return Contents(Path("net.caffemodel"), "caffe", net.tensors(), {}, net)


def answer(read):
    found = identify.identify(read)
    return found.net.confidence, set(found.candidates)


@pytest.mark.parametrize(
    ("name", "confidence", "candidates"),
    [
        ("torchvision", "certain", {"torchvision"}),
        ("cuda_convnet2", "certain", {"cuda_convnet2"}),
        ("krizhevsky2012", "certain", {"krizhevsky2012"}),
        ("krizhevsky2012:conv6", "certain", {"krizhevsky2012:conv6"}),
        ("paper", "undecided", {"paper", "caffe:caffenet"}),
        ("caffe:alexnet", "likely", {"caffe:alexnet"}),
    ],
)
def test_names_of_pytorch_count_the_operations(name, confidence, candidates):
    assert answer(state_dict(name)) == (confidence, candidates)


@pytest.mark.parametrize(
    ("name", "confidence", "candidates"),
    [
        ("torchvision", "likely", {"torchvision"}),
        ("cuda_convnet2", "likely", {"cuda_convnet2"}),
        ("caffe:alexnet", "likely", {"caffe:alexnet"}),
        ("caffe:caffenet", "undecided", TWO_TOWERS - {"caffe:alexnet"}),
        ("krizhevsky2012:conv6", "likely", {"krizhevsky2012:conv6"}),
    ],
)
def test_shapes_and_biases_alone_are_never_certain(name, confidence, candidates):
    read = arrays(name)
    assert answer(read) == (confidence, candidates)
    assert identify.identify(read).config is None
    without = {key: array for key, array in read.tensors.items() if "bias" not in key}
    assert answer(read._replace(tensors=without))[1] >= candidates


def test_biases_far_from_every_beginning_say_nothing():
    read = arrays("caffe:alexnet")
    shifted = {n: a + 5 if "bias" in n else a for n, a in read.tensors.items()}
    assert answer(read._replace(tensors=shifted)) == ("undecided", TWO_TOWERS)
    broken = {n: a * np.nan if "bias" in n else a for n, a in read.tensors.items()}
    assert answer(read._replace(tensors=broken)) == ("undecided", TWO_TOWERS)


@pytest.mark.parametrize(("variant", "order"), [("alexnet", ALEXNET), ("caffenet", CAFFENET)])
def test_caffe_s_nets_are_told_apart_by_their_order(variant, order):
    found = identify.identify(caffe_net(f"caffe:{variant}", order))
    assert found.config == f"caffe:{variant}" and not found.overrides
    assert (found.channels.value, found.channels.confidence) == ("BGR", "likely")
    assert found.lrn.value.startswith("k=1, n=5, alpha=2e-05 for each squared term (0.0001")
    assert found.lrn.confidence == "likely" and found.lrn.decided_by


def test_weights_of_caffe_without_their_order_are_likely_at_best():
    assert answer(caffe_net("caffe:alexnet")) == ("likely", {"caffe:alexnet"})
    assert answer(caffe_net("caffe:caffenet")) == ("likely", {"caffe:caffenet"})
    assert answer(caffe_net("caffe:caffenet", title="AlexNet")) == ("likely", {"caffe:alexnet"})
    strange = {**ALEXNET, "conv1": ("LRN", "ReLU", "Pooling")}
    found = identify.identify(caffe_net("caffe:alexnet", strange))
    assert (found.net.value, found.config) == ("none of the published nets", None)


def test_settings_in_a_caffemodel_change_the_config():
    lrn = caffe.LRNParameter(alpha=5e-4, k=2.0)
    seen = caffe.Transformation(crop_size=227, mean_values=(104.0, 117.0, 123.0))
    found = identify.identify(caffe_net("caffe:alexnet", ALEXNET, "", lrn, seen))
    assert found.config == "caffe:alexnet" and found.lrn.confidence == "certain"
    assert found.overrides == (
        "--config.model.lrn_constants.k=2.0", "--config.model.lrn_constants.alpha=0.0001",
    )  # fmt: skip
    config.load(found.config, list(found.overrides))
    assert found.input.confidence == "certain"
    assert "minus 104, 117, 123 of B, G, R, times 1, crops of 227" in found.input.value
    found = identify.identify(
        caffe_net("caffe:alexnet", ALEXNET, "", lrn, seen._replace(mean_values=()))
    )
    assert "minus nothing" in found.input.value
    for odd in (lrn._replace(within_channel=True), lrn._replace(local_size=0)):
        found = identify.identify(caffe_net("caffe:alexnet", ALEXNET, "", odd, seen))
        assert found.lrn.confidence == "undecided" and found.config is None
        assert not found.overrides


def test_lrn_layers_that_differ_change_nothing():
    read = caffe_net("caffe:alexnet", ALEXNET, "", caffe.LRNParameter(alpha=5e-4, k=2.0))
    other = caffe.Layer("LRN", "LRN", [], caffe.LRNParameter(alpha=1e-4))
    read = read._replace(net=read.net._replace(layers=[*read.net.layers, other]))
    found = identify.identify(read)
    assert (found.lrn.confidence, found.config, found.overrides) == ("undecided", None, ())


def test_of_several_data_layers_the_first_counts():
    first = caffe.Transformation(0.5, 200, "", (1.0, 2.0, 3.0))
    read = caffe_net("caffe:alexnet", ALEXNET, transformation=first)
    other = caffe.Layer("val", "Data", [], transformation=caffe.Transformation(0.25, 227))
    read = read._replace(net=read.net._replace(layers=[*read.net.layers, other]))
    found = identify.identify(read)
    assert "minus 1, 2, 3 of B, G, R, times 0.5, crops of 200" in found.input.value
    expected = ("--config.augment.crop_size=200", "--config.augment.scale=0.5")
    assert found.overrides == expected


def test_settings_of_layers_are_read(tmp_path):
    import struct

    def number(field, value):
        return test_caffe.number(field * 8 + 5) + struct.pack("<f", value)

    lrn = integer(1, 5) + number(2, 1e-4) + number(3, 0.75) + number(5, 2.0)
    seen = number(1, 0.5) + integer(3, 227) + message(4, b"mean.binaryproto") + number(5, 104)
    blob = message(7, test_caffe.flat(1) + test_caffe.FOUR)
    new = message(100, message(1, b"norm1") + message(2, b"LRN") + message(118, lrn) + blob)
    new += message(100, message(1, b"data") + message(100, seen))
    axes = b"".join(integer(i, 1) for i in range(1, 5))
    old_blob = message(6, axes + test_caffe.FOUR)
    old = message(2, message(4, b"norm1") + integer(5, 15) + message(18, lrn) + old_blob)
    old += message(2, message(4, b"data") + message(36, seen))
    for encoded in (new, old):
        path = tmp_path / "net.caffemodel"
        path.write_bytes(message(1, b"AlexNet") + encoded)
        net = caffe.read_net(path)
        assert net.name == "AlexNet"
        assert net.layers[0].lrn == caffe.LRNParameter(5, 1e-4, 0.75, False, 2.0)
        expected = caffe.Transformation(0.5, 227, "mean.binaryproto", (104.0,))
        assert net.layers[1].transformation == expected


def test_the_number_of_classes_is_counted():
    found = identify.identify(state_dict("torchvision", classes=37))
    assert (found.config, found.classes) == ("torchvision", 37)
    assert found.overrides == ("--config.model.num_classes=37",)


def test_the_input_follows_from_metadata_or_convention():
    read = state_dict("torchvision")
    found = identify.identify(read)
    assert (found.lrn.value, found.lrn.confidence) == ("none", "certain")
    assert found.input.value == ("(pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]")
    assert found.input.confidence == found.channels.confidence == "likely"
    assert found.channels.value == "RGB" and found.channels.decided_by
    assert identify.identify(read._replace(metadata={"config": "of another program"})) == found
    found = identify.identify(read._replace(metadata={"mean": "[0, 0, 0]", "std": "[1, 1, 1]"}))
    assert (found.input.value, found.input.confidence) == (
        "(pixels / 255 - [0, 0, 0]) / [1, 1, 1]", "certain",
    )  # fmt: skip


def test_a_mean_image_tells_red_from_blue():
    read = state_dict("krizhevsky2012")
    for levels, order in (((124, 117, 104), "RGB"), ((104, 117, 124), "BGR")):
        mean_image = np.broadcast_to(np.float32(levels)[:, None, None], (3, 256, 256))
        found = identify.identify(read._replace(tensors=read.tensors | {"mean_image": mean_image}))
        assert (found.channels.value, found.channels.confidence) == (order, "likely")


def test_exports_of_earlier_versions_are_likely_by_their_input():
    read = state_dict("caffe:caffenet")
    seen = {"mean": "pixel", "scale": 1.0, "crop_size": 224}
    metadata = {"input": json.dumps(seen), "class_names": "[]"}
    found = identify.identify(read._replace(metadata=metadata))
    assert (found.net.confidence, found.candidates) == ("likely", ("paper",))
    assert (found.channels.value, found.channels.confidence) == ("RGB", "certain")
    assert answer(read._replace(metadata={"input": "["}))[0] == "undecided"


def test_other_nets_are_unknown_and_their_layers_named():
    read = state_dict("torchvision")
    narrow = {n: a[:32] if n == "features.0.weight" else a for n, a in read.tensors.items()}
    for tensors, words in (
        (narrow, "features.0 32x3x11x11, features.3 192x64x5x5"),
        ({}, "no layers with weights"),
        ({"a": np.zeros(3)}, "no layers with weights"),
        ({"a": np.zeros((0, 3, 0, 0)), "b": np.zeros((0, 0))}, "a 0x3x0x0, b 0x0"),
    ):
        found = identify.identify(read._replace(tensors=tensors))
        assert found.net.confidence == found.lrn.confidence == "undecided"
        assert words in found.net.evidence[-1] and found.config is None


# Round trips through files


def export(run, folder, kind):
    """Export a net, and return the file with its weights."""
    suffix = export_weights.SUFFIXES[kind]
    ours, out = folder / "ours.safetensors", folder / f"{kind}{suffix}"
    trained.save(ours, run)
    export_weights.main(["--workdir", str(ours), "--format", kind, "--out", str(out)])
    return out.with_suffix(".safetensors") if kind == "pytorch" else out


@pytest.mark.parametrize("kind", export_weights.SUFFIXES)
@pytest.mark.parametrize(
    "name", ["quickstart", "tests/interop/everything.py", "ladder:batch_norm,digits"]
)
def test_every_export_is_imported_without_being_told(name, kind, tmp_path, capsys):
    if kind == "onnx":
        pytest.importorskip("onnx")
    run = nets.random_run(name)._replace(step=7)
    file = export(run, tmp_path, kind)
    import_weights.main([str(file), "--out", str(tmp_path / "back.safetensors")])
    back = trained.load(tmp_path / "back.safetensors")
    assert nets.same(back, run) and back.class_names == run.class_names
    assert (back.step, back.config.model) == (7, run.config.model)
    assert np.array_equal(back.statistics.mean_image, run.statistics.mean_image)
    if kind != "torchvision":  # it has what the net needs, and not the colors of training
        assert (tmp_path / "back.safetensors").read_bytes() == (
            tmp_path / "ours.safetensors"
        ).read_bytes()
    capsys.readouterr()
    identify_command.main([str(file)])
    assert f"certain: a net of alexnet_jax, config {run.config.name}" in capsys.readouterr().out


def test_damaged_exports_are_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    run = nets.random_run("quickstart")
    for kind in export_weights.SUFFIXES:
        file = export(run, tmp_path, kind)
        encoded = file.read_bytes()
        for cut in (0, 7, len(encoded) // 2, len(encoded) - 1):
            file.write_bytes(encoded[:cut])
            with pytest.raises(CheckpointError, match=file.name):
                import_weights.main([str(file), "--out", str(tmp_path / "back.safetensors")])
        file.write_bytes(encoded)
    proto = onnx.load(tmp_path / "onnx.onnx")
    for key, value, words in (
        ("statistics", "AAAA", "statistics of its metadata"),
        ("statistics", "?", "statistics of its metadata"),
        ("config", "{", "its metadata are damaged"),
        ("class_names", "[]", "its metadata are damaged"),
    ):
        props = {one.key: one.value for one in proto.metadata_props} | {key: value}
        onnx.helper.set_model_props(proto, props)
        changed = onnx.ModelProto.FromString(proto.SerializeToString())
        onnx.save(changed, tmp_path / "changed.onnx")
        with pytest.raises(CheckpointError, match=words):
            import_weights.main(
                [str(tmp_path / "changed.onnx"), "--out", str(tmp_path / "b.safetensors")]
            )
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "plain.onnx")
    with pytest.raises(ConfigError, match="identified but not imported"):
        import_weights.main(
            [str(tmp_path / "plain.onnx"), "--out", str(tmp_path / "b.safetensors")]
        )


@pytest.fixture
def narrow(monkeypatch):
    """Identify nets that are as small as those of these tests."""

    def specs():
        crops = {"torchvision": 128, "caffe:alexnet": 103, "caffe:caffenet": 103}
        return {
            name: config.parse(config.load(name, narrow_to(crop))) for name, crop in crops.items()
        }

    monkeypatch.setattr(variants, "_specs", specs)


def narrow_to(crop):
    return [*nets.NARROW, f"--config.augment.crop_size={crop}"]


def test_a_state_dict_of_torchvision_is_imported_without_being_told(narrow, tmp_path, capsys):
    run = nets.random_run("torchvision", narrow_to(128))
    torchvision.save(tmp_path / "net.safetensors", run)
    tensors = {n: np.float32(a) for n, a in weights.read(tmp_path / "net.safetensors")[0].items()}
    # As PyTorch's ImageNet example names the convolutions.
    tensors = {n.replace("features.", "features.module."): a for n, a in tensors.items()}
    (tmp_path / "net.safetensors").write_bytes(safetensors.numpy.save(tensors))
    arguments = [str(tmp_path / "net.safetensors"), "--out", str(tmp_path / "out.safetensors")]
    import_weights.main([*arguments, *narrow_to(128)])
    assert "torchvision's alexnet; input: (pixels / 255" in capsys.readouterr().out
    assert trained.load(tmp_path / "out.safetensors").config.name == "torchvision"
    import_weights.main([*arguments, "--config", "torchvision", *narrow_to(128)])
    assert trained.load(tmp_path / "out.safetensors").config.name == "torchvision"


def torchvision_state(folder):
    """The state_dict of a narrow net of torchvision, with random weights."""
    import torch

    torchvision.save(folder / "net.safetensors", nets.random_run("torchvision", narrow_to(128)))
    tensors = weights.read(folder / "net.safetensors")[0]
    return {name: torch.from_numpy(np.float32(array)) for name, array in tensors.items()}


def test_a_checkpoint_of_pytorch_is_read(narrow, tmp_path):
    torch = pytest.importorskip("torch", minversion="2.10")
    state = torchvision_state(tmp_path)
    torch.save({"epoch": 3, "arch": "alexnet", "state_dict": state}, tmp_path / "net.pth")
    found = identify.identify(contents.read(tmp_path / "net.pth"))
    assert (found.config, found.net.confidence) == ("torchvision", "certain")


@pytest.mark.parametrize(("variant", "order"), [("alexnet", ALEXNET), ("caffenet", CAFFENET)])
def test_a_caffemodel_is_imported_as_the_net_of_its_order(variant, order, narrow, tmp_path):
    file, out = tmp_path / "net.caffemodel", tmp_path / "out.safetensors"
    file.write_bytes(test_caffe.caffemodel(test_caffe.random_weights(), order))
    import_weights.main([str(file), "--out", str(out), *narrow_to(103)])
    assert trained.load(out).config.name == f"caffe:{variant}"


def test_the_import_says_which_mean_it_subtracts(narrow, tmp_path, capsys):
    file, out = tmp_path / "net.caffemodel", tmp_path / "out.safetensors"
    encoded = test_caffe.caffemodel(test_caffe.random_weights(), ALEXNET)
    arguments = [str(file), "--out", str(out), *narrow_to(103)]
    mean = tmp_path / "mean.binaryproto"
    mean.write_bytes(test_caffe.blob(np.array([[[1.0]], [[2.0]], [[3.0]]])))
    stated = test_caffe.data_layer((104, 117, 123))
    named = test_caffe.data_layer(mean_file=b"m.binaryproto")
    for layer, more, words in (
        (b"", [], "minus 123, 117, 104 of R, G, B (the default)"),
        (stated, [], "minus 123, 117, 104 of R, G, B (in the file)"),
        (stated, ["--mean", str(mean)], f"minus 3, 2, 1 of R, G, B (--mean {mean})"),
        (named, [], "(the default; the net was trained with m.binaryproto: give it as --mean)"),
        (stated, ["--config", "caffe:alexnet"], "(in the file)"),
    ):
        file.write_bytes(layer + encoded)
        import_weights.main([*arguments, *more])
        assert words in capsys.readouterr().out
    identify_command.main([str(file)])
    assert "minus 104, 117, 123 of B, G, R" in capsys.readouterr().out
    file.write_bytes(named + encoded)
    identify_command.main([str(file)])
    assert "- alexnet import takes this mean image as --mean" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["net.bin", "net.caffemodel", "net.pth", "net"])
def test_a_format_that_is_named_decides_and_not_the_suffix(name, narrow, tmp_path):
    file, out = tmp_path / name, tmp_path / "out.safetensors"
    file.write_bytes(test_caffe.caffemodel(test_caffe.random_weights(), CAFFENET))
    arguments = [str(file), "--format", "caffe", "--out", str(out)]
    import_weights.main([*arguments, "--config", "caffe:caffenet", *narrow_to(103)])
    assert trained.load(out).config.name == "caffe:caffenet"
    # Without a config it is identified; the config is that of the whole net.
    with pytest.raises(CheckpointError, match=r"has shape .*\(read with --config caffe:caffenet\)"):
        import_weights.main(arguments)


def test_a_state_dict_with_another_suffix_is_read(narrow, tmp_path):
    torch = pytest.importorskip("torch", minversion="2.10")
    state = torchvision_state(tmp_path)
    torch.save(state, tmp_path / "pytorch_model.bin")
    arguments = [str(tmp_path / "pytorch_model.bin"), "--out", str(tmp_path / "out.safetensors")]
    with pytest.raises(ConfigError, match="read from files that end in"):
        import_weights.main([*arguments, *narrow_to(128)])
    import_weights.main([*arguments, "--format", "torchvision", *narrow_to(128)])
    assert trained.load(tmp_path / "out.safetensors").config.name == "torchvision"


def test_what_is_not_certain_is_asked(narrow, tmp_path, capsys):
    out = str(tmp_path / "out.safetensors")
    file = tmp_path / "net.caffemodel"
    encoded = b"".join(
        test_caffe.layer(name, "Convolution", [test_caffe.blob(array) for array in pair])
        for name, pair in test_caffe.random_weights().items()
    )
    file.write_bytes(encoded)
    with pytest.raises(ConfigError, match=r"choose --config caffe:\w+") as raised:
        import_weights.main([str(file), "--out", out, *narrow_to(103)])
    assert raised.value.exit_code == 2 and not Path(out).exists()
    identify_command.main([str(file), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == 1 and report["config"] is None
    assert set(report["candidates"]) <= {"caffe:alexnet", "caffe:caffenet"}
    assert report["net"]["confidence"] != "certain" and report["net"]["decided_by"]
    import_weights.main([str(file), "--format", "caffe", "--out", out, *narrow_to(103)])
    assert trained.load(out).config.name == "caffe:alexnet"  # the default, as before
    np.savez(tmp_path / "net.npz", weights=np.zeros((3, 4), np.float32))
    with pytest.raises(ConfigError, match="identified but not imported"):
        import_weights.main([str(tmp_path / "net.npz"), "--out", out])


def test_an_unknown_net_is_asked_for_with_its_layers(tmp_path):
    file = tmp_path / "net.safetensors"
    file.write_bytes(safetensors.numpy.save({"a.weight": np.zeros((3, 4), np.float32)}))
    with pytest.raises(
        ConfigError, match=r"none of the published nets .* a 3x4\): give the --conf"
    ):
        import_weights.main([str(file), "--out", str(tmp_path / "out.safetensors")])


def test_options_without_effect_are_refused(tmp_path):
    file = export(nets.random_run("quickstart"), tmp_path, "torchvision")
    with pytest.raises(ConfigError, match=r"holds its config: --config\.seed=1 has no effect"):
        import_weights.main(
            [str(file), "--out", str(tmp_path / "n.safetensors"), "--config.seed=1"]
        )


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    for name, content, error, words in (
        ("none.npz", None, CheckpointError, "there is no file"),
        ("folder.npz", None, CheckpointError, "it is a folder"),
        ("net.h5", b"", ConfigError, r"files that end in \.safetensors, \.pth"),
        ("net.npz", b"PK", CheckpointError, "cannot read"),
        ("net.onnx", b"\xff" * 20, CheckpointError, "longer than 64 bits"),
        ("net.onnx", message(7, message(5, message(8, b"a") + integer(2, 1) + message(9, b"1"))),
         CheckpointError, "a tensor of shape"),
        ("net.safetensors", b"\0" * 9, CheckpointError, "not a readable safetensors file"),
    ):  # fmt: skip
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(error, match=words) as raised:
            identify_command.main([str(tmp_path / name)])
        assert name in raised.value.line() and "\n" not in raised.value.line()


def test_arrays_of_numbers_are_read_from_npz(tmp_path):
    path = tmp_path / "net.npz"
    np.savez(path, a=np.ones((2, 3), "f2"), b=np.arange(3), c=np.array(["text"]))
    found = files.read_all_arrays(path)
    assert list(found) == ["a", "b"] and found["a"].dtype == np.float16
