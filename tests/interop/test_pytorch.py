import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.pipeline import augment
from alexnet_jax.errors import CheckpointError, ConfigError
from alexnet_jax.inference import network, trained, weights
from alexnet_jax.interop import contents, export_weights, identify, import_weights, pytorch
from tests.config import test_configs
from tests.interop import nets, parity, shapes_of_torch

EVERYTHING = "tests/interop/everything.py"
NO_TORCH = "torch is not installed: pip install torch"
#: Name -> (config, overrides): all operations, means and activations, and the nets of which only some have something.
SMALL = {
    "everything": (EVERYTHING, []),
    "standardized": (EVERYTHING, [
        "--config.model.activation=scaled_tanh", "--config.augment.mean=standardize",
        "--config.model.dropout.scale_at=train", "--config.model.lrn_constants.within_towers=False",
    ]),
    "channel mean": (EVERYTHING, [
        "--config.model.activation=abs_tanh", "--config.augment.mean=channel", "--config.model.lrn_constants.n=4",
    ]),
    "no mean": (EVERYTHING, ["--config.model.activation=softplus", "--config.augment.mean=none"]),
    "quickstart": ("configs/quickstart.py", []),
    "local": ("configs/cifar10.py:11pct", ["--config.data.path=images"]),
    "krizhevsky2012": ("configs/scales.py:digits", []),
    "resized": ("configs/tiny_imagenet.py:full", [
        *(option for option in nets.NARROW if "image_size" not in option and "classes" not in option),
        "--config.augment.resize=136", "--config.augment.crop_size=107",
    ]),
}  # fmt: skip


def small(name):
    return nets.random_run(*SMALL[name])


@pytest.mark.parametrize("name", SMALL)
def test_logits_features_and_gradients_are_ours(name, tmp_path):
    pytest.importorskip("torch", reason=NO_TORCH)
    run = small(name)
    compiled = "aot_eager" if name in ("everything", "local") else None
    found = parity.measure(run, parity.exported(run, tmp_path), compiled=compiled)
    assert found.worst < parity.TOLERANCE, found


@pytest.mark.full
@pytest.mark.parametrize("name", parity.distinct())
def test_every_config_is_ours_also_compiled(name, tmp_path):
    pytest.importorskip("torch", reason=NO_TORCH)
    if name in parity.KNOWN:
        pytest.xfail(parity.KNOWN[name])
    run = parity.random_run(name)
    found = parity.measure(run, parity.exported(run, tmp_path), compiled=parity.backend(name))
    print(f"\n{name}: {found}")
    assert found.worst < parity.TOLERANCE, found


@pytest.mark.parametrize("name", ["everything", "quickstart", "local", "no mean"])
def test_tensors_are_those_of_the_module_without_torch(name, tmp_path, monkeypatch):
    run = small(name)
    shapes_of_torch.without_torch(monkeypatch)
    module = parity.exported(run, tmp_path)
    tensors, metadata = weights.read(tmp_path / "mynet.safetensors")
    found = {name: array.shape for name, array in tensors.items()}
    assert found == dict(module.AlexNet().shapes())
    assert metadata["format"] == "pt"


@pytest.mark.parametrize("name", test_configs.NAMES)
def test_every_config_can_be_written(name):
    spec = test_configs.spec_of(name)
    text = pytorch.source(spec, step=1000, module="mynet")
    compile(text, "mynet.py", "exec")
    assert max(map(len, text.splitlines())) <= 120
    # Each name of a tensor, such as fc6.before.batch_norm.weight, has its modules in the text.
    for tensor in pytorch.tensor_names(spec.model).values():
        layer, *_, module, _ = tensor.split(".")
        assert f"self.{layer} = layer(" in text and f" {module}=" in text
    assert "from alexnet_jax" not in text and "import alexnet_jax" not in text


@pytest.mark.parametrize("name", ["everything", "local", "standardized"])
def test_import_gives_the_same_bits(name, tmp_path):
    run = small(name)._replace(step=12)
    pytorch.save(tmp_path / "mynet.py", run)
    file, out = tmp_path / "mynet.safetensors", tmp_path / "back.safetensors"
    found = identify.identify(contents.read(file))
    assert found.has_config and found.net.confidence == "certain"
    import_weights.main([str(file), "--out", str(out)])
    back = trained.load_file(out)
    assert nets.same(back, run) and (back.step, back.class_names) == (12, run.class_names)
    assert jax.tree.all(jax.tree.map(np.array_equal, back.statistics, run.statistics))
    (tmp_path / "first").write_bytes(file.read_bytes())
    pytorch.save(tmp_path / "mynet.py", run)
    assert file.read_bytes() == (tmp_path / "first").read_bytes()


def test_a_changed_file_is_refused(tmp_path):
    pytorch.save(tmp_path / "mynet.py", small("everything"))
    tensors, metadata = weights.read(tmp_path / "mynet.safetensors")
    wrong = tensors | {"fc8.linear.weight": tensors["fc8.linear.weight"].T}
    with pytest.raises(CheckpointError, match=r"fc8.linear.weight has shape \(8, 7\)"):
        pytorch.load("mynet.safetensors", wrong, metadata)
    with pytest.raises(CheckpointError, match="statistics of its metadata"):
        pytorch.load("mynet.safetensors", tensors, metadata | {"statistics": "AAAA"})


def pictures(folder):
    """Images that are reduced, enlarged, only cut, transparent, gray and rotated."""
    draws = np.random.default_rng(3)
    smooth = Image.fromarray(draws.integers(0, 256, (9, 11, 4), dtype=np.uint8))
    images = {
        "reduced.png": smooth.convert("RGB").resize((117, 83)),
        "tall.png": smooth.convert("RGB").resize((71, 130)),
        "enlarged.png": smooth.convert("RGB").resize((29, 20)),
        "cut.png": smooth.convert("RGB").resize((41, 36)),
        "transparent.png": smooth.resize((90, 72)),
        "gray.png": smooth.convert("L").resize((50, 64)),
        "photo.jpg": smooth.convert("RGB").resize((200, 151)),
    }
    for name, image in images.items():
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(folder / name, exif=exif)
    return [folder / name for name in images]


@pytest.mark.parametrize(
    "overrides",
    [[], ["--config.data.exif=apply", "--config.data.source=folder", "--config.data.path=images"]],
)
def test_preprocess_makes_our_center_crop(overrides, tmp_path):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    run = nets.random_run(EVERYTHING, overrides)
    module = parity.exported(run, tmp_path)
    paths = pictures(tmp_path)
    theirs = torch.stack([module.preprocess(path) for path in paths]).numpy()
    ours = nets.center(network.Network(run).pixels(paths), 31)
    assert np.array_equal(theirs, ours)
    with Image.open(paths[0]) as image:
        assert np.array_equal(module.preprocess(image), ours[0])


def test_preprocess_refuses_what_pillow_clips_to_8_bits(tmp_path):
    pytest.importorskip("torch", reason=NO_TORCH)
    module = parity.exported(small("everything"), tmp_path)
    deep = Image.fromarray(np.full((40, 50), 1000, np.uint16))
    deep.save(tmp_path / "deep.png")
    for image in (deep, tmp_path / "deep.png", deep.convert("F")):
        with pytest.raises(ValueError, match="more than 8 bits per channel"):
            module.preprocess(image)


def test_preprocess_resizes_as_we_do(tmp_path):
    pytest.importorskip("torch", reason=NO_TORCH)
    run = small("resized")
    module = parity.exported(run, tmp_path)
    path = pictures(tmp_path)[-1]
    pixels = network.Network(run).pixels([path])
    resized = np.asarray(augment.resized(pixels, run.config.augment))
    assert parity.ratio(module.preprocess(path).numpy(), nets.center(resized, 107)[0]) < 1e-6


def test_dropout_trains_as_in_the_paper(tmp_path):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    module = parity.exported(small("everything"), tmp_path)
    x = torch.full((1, 4000), 3.0)
    dropout = module.PaperDropout(0.25)
    kept = dropout(x)
    assert set(kept.unique().tolist()) == {0.0, 3.0} and 0.2 < (kept == 0).float().mean() < 0.3
    assert set(dropout.eval()(x).unique().tolist()) == {2.25}


@pytest.mark.parametrize("name", ["standardized", "channel mean", "no mean"])
def test_nets_can_be_double_and_images_bytes(name, tmp_path):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    run = small(name)
    net = parity.exported(run, tmp_path).load()
    crops = torch.from_numpy(nets.center(nets.pictures(run, 2), 31)).to(torch.uint8)
    expected = net(crops)
    assert torch.equal(net(crops.float()), expected)
    assert torch.equal(torch.fx.symbolic_trace(net)(crops), expected)
    assert (
        parity.ratio(net.double()(crops.double()).detach().numpy(), expected.detach().numpy())
        < 1e-6
    )


def test_images_may_be_bytes_and_gradients_reach_every_parameter(tmp_path):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    run = small("everything")
    net = parity.exported(run, tmp_path).load()
    crops = torch.from_numpy(nets.center(nets.pictures(run, 2), 31))
    assert torch.equal(net(crops.to(torch.uint8)), net(crops))
    assert net.class_names == list(run.class_names) and not net.training
    torch.manual_seed(0)  # dropout of few units can leave a parameter without a gradient
    net.train()(crops).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("name", ["everything", "local"])
def test_features_of_every_name_come_from_torch_fx(name, tmp_path):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    run = small(name)
    net = parity.exported(run, tmp_path).load()
    ours = parity.of_ours(run, 2)
    traced = torch.fx.symbolic_trace(net)
    np.testing.assert_allclose(
        traced(torch.tensor(ours.crops)).detach(), ours.logits, rtol=1e-4, atol=1e-4
    )
    extraction = pytest.importorskip(
        "torchvision.models.feature_extraction", reason="torchvision is not installed"
    )
    names = {feature.replace("/", "."): feature for feature in ours.features}
    extractor = extraction.create_feature_extractor(net, names)
    found = extractor(torch.tensor(ours.crops))
    for feature, values in ours.features.items():
        assert parity.ratio(found[feature].detach().numpy(), values) < parity.TOLERANCE


def test_captum_attributes_the_whole_logit(tmp_path):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    run = small("quickstart")
    net = parity.exported(run, tmp_path).load()
    crops = torch.tensor(parity.of_ours(run, 2).crops)
    blank = net.mean.expand_as(crops)
    target = net(crops).argmax(1)
    gradients = attr.IntegratedGradients(net)
    found, delta = gradients.attribute(
        crops, blank, target, n_steps=300, return_convergence_delta=True
    )
    chosen = (net(crops) - net(blank)).gather(1, target[:, None])
    assert delta.abs().max() < 0.02 * chosen.abs().max() and found.shape == crops.shape
    maps = attr.LayerGradCam(net, net.conv5).attribute(crops, target)
    assert maps.shape[:2] == (2, 1) and maps.abs().sum() > 0
    assert attr.LayerActivation(net, net.fc6.act).attribute(crops).shape[0] == 2


def test_thingsvision_extracts_our_features(tmp_path):
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    thingsvision = pytest.importorskip("thingsvision", reason="thingsvision is not installed")
    run = small("local")
    net = parity.exported(run, tmp_path).load()
    ours = parity.of_ours(run, 4)
    extractor = thingsvision.get_extractor_from_model(model=net, device="cpu", backend="pt")
    crops = torch.tensor(ours.crops)
    batches = torch.utils.data.DataLoader(crops, batch_size=2)
    for name in ("local3", "fc10"):
        found = extractor.extract_features(batches, name, flatten_acts=True)
        assert parity.ratio(found, ours.features[name].reshape(4, -1)) < parity.TOLERANCE


def test_what_cannot_be_written_is_refused(tmp_path):
    run = small("quickstart")
    spec = run.config
    for name in ("conv-1", "forward", "x = 1; y1", "bfloat16", "__conv1"):
        convs = ((name, spec.model.convs[0][1]), *spec.model.convs[1:])
        other = dataclasses.replace(spec, model=dataclasses.replace(spec.model, convs=convs))
        with pytest.raises(
            ConfigError, match="cannot be exported to PyTorch: name it with letters"
        ):
            pytorch.source(other)
    hostile = pytorch.source(dataclasses.replace(spec, name='"""\nimport os\n\\'), module='a"""')
    assert "import os" not in hostile and compile(hostile, "net.py", "exec")
    trained.save(tmp_path / "net.safetensors", run)
    before = (tmp_path / "net.safetensors").read_bytes()
    arguments = ["--workdir", str(tmp_path / "net.safetensors"), "--format", "pytorch", "--out"]
    with pytest.raises(ConfigError, match=r"would replace .*net.safetensors, which is no export"):
        export_weights.main([*arguments, str(tmp_path / "net.py")])
    for name in ("my-net.py", "class.py", "torch.py", "json.py"):
        with pytest.raises(ConfigError, match=r"hides a module|cannot be imported"):
            export_weights.main([*arguments, str(tmp_path / name)])
    with pytest.raises(ConfigError, match=r"must end in \.py"):
        export_weights.main([*arguments, str(tmp_path / "other.safetensors")])
    assert (tmp_path / "net.safetensors").read_bytes() == before


def test_operations_that_come_twice_in_a_layer_have_names_of_their_own(tmp_path):
    pytest.importorskip("torch", reason=NO_TORCH)
    overrides = ["--config.model.fcs.fc7.then=('act','dropout','act')"]
    run = nets.random_run("configs/quickstart.py", overrides)
    module = parity.exported(run, tmp_path)
    assert [name for name, _ in module.AlexNet().fc7.named_children()] == [
        "linear",
        "act_1",
        "dropout",
        "act",
    ]
    assert parity.measure(run, module, count=2).worst < parity.TOLERANCE
