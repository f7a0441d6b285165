import functools
import json

import numpy as np
import pytest

from alexnet_jax import config, files
from alexnet_jax.errors import ConfigError
from alexnet_jax.inference import trained
from alexnet_jax.interop import export_weights, layout
from tests.config import test_configs
from tests.interop import nets

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

LOCAL = ("cifar10:13pct", "cifar10:11pct")
# So are configs/torchvision.py and configs/caffe.py, where they are compared with PyTorch.
WHOLE = ("paper",)
# What config.model.activation, config.augment.mean and config.model.dropout.scale_at say.
NETS = [("relu", "pixel", "test"), ("scaled_tanh", "standardize", "train")]
MORE = [
    ("softplus", "channel", "test"), ("tanh", "image_center", "test"), ("sigmoid", "none", "test"),
    ("abs_tanh", "pixel", "test"),
]  # fmt: skip


def answers(path, crops):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [images] = session.get_inputs()
    assert (images.name, images.type) == ("images", "tensor(float)")
    assert [output.name for output in session.get_outputs()] == ["logits", "probabilities"]
    return session.run(None, {"images": crops})


def crops_of(run, pixels):
    """Center crops, after the resizing that a config may ask for."""
    from alexnet_jax.data.pipeline import augment

    resized = np.asarray(augment.resized(pixels, run.config.augment))
    return nets.center(resized, run.config.augment.crop_size)


def difference_of(run, folder, count=3) -> float:
    """Writes the net by the command; its logits in ONNX Runtime against ours."""
    trained.save(folder / "net.safetensors", run)
    path = folder / "net.onnx"
    arguments = ["--workdir", str(folder / "net.safetensors"), "--out", str(path)]
    export_weights.main([*arguments, "--format", "onnx"])
    pixels = nets.pictures(run, count)
    logits, probabilities = answers(path, crops_of(run, pixels))
    ours = nets.logits(run, pixels)
    assert np.ptp(ours, axis=0).max() > 1e-4 * np.abs(ours).max()  # images are told apart
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-7)
    return nets.largest_difference(ours, logits)


def parameters_in(path, run):
    """The parameters of an ONNX file, in our layout again."""
    graph = onnx.load(path).graph
    found = {array.name: onnx.numpy_helper.to_array(array) for array in graph.initializer}
    names = files.flatten(run.variables)
    ours = layout.from_channels_first(path, run.config, {name: found[name] for name in names})
    tree = files.unflatten(ours)
    return run._replace(params=tree["params"], batch_stats=tree.get("batch_stats", {}))


def everything(activation, mean, scale_at):
    overrides = [f"--config.model.activation={activation}", f"--config.augment.mean={mean}"]
    overrides.append(f"--config.model.dropout.scale_at={scale_at}")
    return nets.random_run("tests/interop/everything.py", overrides)


@pytest.mark.parametrize(
    "settings", [*NETS, *(pytest.param(more, marks=pytest.mark.full) for more in MORE)]
)
def test_logits_are_ours_and_no_parameter_changes(settings, tmp_path):
    run = everything(*settings)
    assert difference_of(run, tmp_path) < 2e-6
    assert nets.same(parameters_in(tmp_path / "net.onnx", run), run)


def test_a_batch_may_have_any_size_and_the_graph_says_its_classes(tmp_path):
    run = nets.random_run("configs/scales.py:digits")
    from alexnet_jax.interop import onnx as ours

    ours.save(tmp_path / "net.onnx", run)
    for count in (1, 5):
        crops = crops_of(run, nets.pictures(run, count))
        assert answers(tmp_path / "net.onnx", crops)[0].shape == (count, 10)
    made = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(made, full_check=True)
    [classes] = [one.value for one in made.metadata_props if one.key == "class_names"]
    assert json.loads(classes) == list(run.class_names)
    first = (tmp_path / "net.onnx").read_bytes()
    ours.save(tmp_path / "net.onnx", run)
    assert (tmp_path / "net.onnx").read_bytes() == first


def test_lrn_over_all_maps_goes_out_as_one_operation(tmp_path):
    overrides = ["--config.model.lrn_constants.within_towers=False"]
    run = nets.random_run("tests/interop/everything.py", overrides)
    assert difference_of(run, tmp_path) < 2e-6
    kinds = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert kinds.count("LRN") == 2 and "Split" not in kinds


def test_what_onnx_has_not_is_refused(tmp_path):
    from alexnet_jax.interop import onnx as ours

    run = everything(*NETS[0])
    even = config.parse(
        config.load("tests/interop/everything.py", ["--config.model.lrn_constants.n=4"])
    )
    with pytest.raises(ConfigError, match="n=4: ONNX supports odd windows only"):
        ours.save(tmp_path / "net.onnx", run._replace(config=even))
    large = {"conv1": {"kernel": np.broadcast_to(np.float32(0), (2**15, 2**15))}}
    with pytest.raises(ConfigError, match=r"has 4\.0 GiB of parameters"):
        ours.save(tmp_path / "net.onnx", run._replace(params=large))
    local = config.parse(config.load("configs/cifar10.py:13pct", ["--config.data.path=images"]))
    with pytest.raises(ConfigError, match="layer local3 is locally connected"):
        ours.model(run._replace(config=local))
    assert not (tmp_path / "net.onnx").exists()


def same_nets(name):
    """The presets whose net, and what it sees, are those of preset `name`."""
    return [other for other in test_configs.NAMES if seen(other) == seen(name)]


@functools.cache
def seen(name):
    spec = test_configs.spec_of(name)
    augment = spec.augment
    return spec.model, augment.mean, augment.scale, augment.crop_size, augment.resize


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in test_configs.NAMES if name not in LOCAL])
def test_every_preset_goes_through_every_format(name, tmp_path):
    """Prints a row of docs/results/2026-11-22-weights.md.

    Hidden rows have 256 units at most: their number is nothing that a format could get wrong.
    """
    from alexnet_jax.interop import torchvision

    presets = same_nets(name)
    if presets[0] != name:
        pytest.skip(f"the net of {presets[0]}")
    wide = [row for row, fc in test_configs.spec_of(name).model.fcs if (fc.features or 0) > 256]
    overrides = ["--config.data.path=images"]
    if name not in WHOLE:
        overrides += [f"--config.model.fcs.{row}.features=256" for row in wide]
    file, _, variant = name.partition(":")
    run = nets.random_run(f"configs/{file}.py:{variant}".rstrip(":"), overrides)
    difference = difference_of(run, tmp_path, count=2)
    assert nets.same(trained.load_file(tmp_path / "net.safetensors"), run)
    assert nets.same(parameters_in(tmp_path / "net.onnx", run), run)
    torchvision.save(tmp_path / "torch.safetensors", run)
    assert nets.same(torchvision.load(tmp_path / "torch.safetensors", run.config, {}), run)
    count = sum(array.size for array in files.flatten(run.params).values())
    print(f"\n| {', '.join(presets)} | {count:,} | {difference:.1e} |")
    for path in tmp_path.iterdir():
        path.unlink()
    assert difference < 1e-4


@pytest.mark.full
@pytest.mark.parametrize("name", LOCAL)
def test_rows_with_kernels_of_their_own_go_through_our_own_format(name, tmp_path):
    run = nets.random_run(f"configs/{name.replace(':', '.py:')}")
    trained.save(tmp_path / "net.safetensors", run)
    assert nets.same(trained.load_file(tmp_path / "net.safetensors"), run)
