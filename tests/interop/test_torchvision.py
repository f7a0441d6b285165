import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.numpy

import alexnet_jax
from alexnet_jax import config
from alexnet_jax.errors import AlexNetError, CheckpointError, ConfigError
from alexnet_jax.inference import trained, weights
from alexnet_jax.interop import export_weights, import_weights, torchvision
from tests.interop import nets

NARROW = [*nets.NARROW, "--config.augment.crop_size=128"]
TENSORS = [
    f"{layer}.{leaf}"
    for layer in (*(f"features.{i}" for i in (0, 3, 6, 8, 10)), *(f"classifier.{i}" for i in (1, 4, 6)))
    for leaf in ("weight", "bias")
]  # fmt: skip


@pytest.fixture(scope="module")
def run():
    return nets.random_run("configs/torchvision.py", NARROW)


@pytest.fixture(scope="module")
def file(run, tmp_path_factory):
    """A state dict as torchvision's would be: its names, no metadata, all float32."""
    torchvision.save(path := tmp_path_factory.mktemp("torch") / "alexnet.safetensors", run)
    tensors = {name: np.float32(array) for name, array in weights.read(path)[0].items()}
    path.write_bytes(safetensors.numpy.save(tensors))
    return path


def imported(file, out, *arguments):
    import_weights.main(
        [str(file), "--format", "torchvision", "--out", str(out), *NARROW, *arguments]
    )
    return alexnet_jax.load(out)


def alexnet(convs, hidden, maps, classes):
    """torchvision/models/alexnet.py in its order of layers, with the widths given."""
    from torch import nn

    a, b, c, d, e = convs
    features = nn.Sequential(
        nn.Conv2d(3, a, kernel_size=11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(a, b, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(b, c, kernel_size=3, padding=1), nn.ReLU(),
        nn.Conv2d(c, d, kernel_size=3, padding=1), nn.ReLU(),
        nn.Conv2d(d, e, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(e * maps * maps, hidden[0]), nn.ReLU(),
        nn.Dropout(), nn.Linear(hidden[0], hidden[1]), nn.ReLU(), nn.Linear(hidden[1], classes),
    )  # fmt: skip
    net = nn.Sequential()
    net.add_module("features", features)
    net.add_module("flatten", nn.Flatten())
    net.add_module("classifier", classifier)
    return net.eval()


def torch_logits(net, crops, mean, std):
    """With torchvision's preprocessing: to [0, 1], then Normalize."""
    import torch

    seen = torch.from_numpy(crops) / 255
    with torch.no_grad():
        return net((seen - mean.view(3, 1, 1)) / std.view(3, 1, 1)).numpy()


def compare_with_torch(run, net, folder):
    """Largest difference of our logits from PyTorch's, for weights that begin there, and that begin here."""
    import torch

    state = net.state_dict()
    state["features.0.weight"] *= 5  # so that a missing factor would show
    file = folder / "torch.safetensors"
    file.write_bytes(safetensors.numpy.save({name: array.numpy() for name, array in state.items()}))
    net.load_state_dict(state)
    found = torchvision.load(file, run.config, run.config_tree)
    pixels = nets.pictures(run)
    crops = nets.center(pixels, run.config.augment.crop_size)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    theirs = torch_logits(net, crops, mean, std)
    inward = nets.largest_difference(nets.logits(found, pixels), theirs)

    torchvision.save(file, run)
    tensors, metadata = weights.read(file)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    mean, std = (torch.tensor(json.loads(metadata[key])) for key in ("mean", "std"))
    theirs = torch_logits(net, crops, mean, std)
    return inward, nets.largest_difference(nets.logits(run, pixels), theirs)


def test_logits_are_those_of_pytorch(run, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = alexnet((8, 12, 16, 12, 12), (32, 24), maps=3, classes=10)
    assert list(net.state_dict()) == TENSORS
    assert max(compare_with_torch(run, net, tmp_path)) < 1e-5


@pytest.mark.full
def test_logits_of_the_whole_net_are_those_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    run = nets.random_run("configs/torchvision.py")
    net = alexnet((64, 192, 384, 256, 256), (4096, 4096), maps=6, classes=1000)
    differences = compare_with_torch(run, net, tmp_path)
    print("configs/torchvision.py", differences)
    assert max(differences) < 1e-4


def test_names_are_torchvision_s_and_follow_the_rows_of_other_nets():
    names = torchvision.tensor_names(nets.random_run("configs/torchvision.py", NARROW).config.model)
    assert list(names.values()) == TENSORS
    run = nets.random_run("configs/ladder.py:batch_norm,digits")
    names = torchvision.tensor_names(run.config.model)
    assert names["params/conv1/offset"] == "features.1.bias"
    assert names["batch_stats/conv1/var"] == "features.1.running_var"
    assert names["params/conv2/kernel"] == "features.4.weight"  # conv, norm, pool, relu
    assert names["params/fc7/kernel"] == "classifier.3.weight"  # fc6, relu, dropout


@pytest.mark.parametrize(
    "name",
    [
        "configs/quickstart.py", "configs/ladder.py:batch_norm,digits",
        "configs/ablations.py:no_communication,digits",
    ],
)  # fmt: skip
def test_a_round_trip_changes_no_bit(name, tmp_path):
    run = nets.random_run(name)
    torchvision.save(tmp_path / "net.safetensors", run)
    found = torchvision.load(tmp_path / "net.safetensors", run.config, run.config_tree)
    assert nets.same(found, run) and found.class_names == run.class_names
    assert np.array_equal(found.statistics.mean_image, run.statistics.mean_image)


def test_classes_are_counted_where_the_config_leaves_them_open(tmp_path):
    overrides = [option for option in NARROW if "num_classes" not in option]
    run = nets.random_run("configs/folder.py", overrides)
    assert run.config.model.num_classes == 5
    torchvision.save(tmp_path / "net.safetensors", run)
    spec = config.parse(config.load("configs/folder.py", overrides))
    found = torchvision.load(tmp_path / "net.safetensors", spec, run.config_tree)
    assert nets.same(found, run) and found.config == run.config
    _, metadata = weights.read(tmp_path / "net.safetensors")
    assert json.loads(metadata["input"]) == {"mean": "pixel", "scale": 1.0, "crop_size": 128}
    emptied = replace("classifier.6.bias", lambda array: array[:0])
    path = changed(tmp_path / "net.safetensors", tmp_path, emptied)
    with pytest.raises(CheckpointError, match=r"classifier.6.bias has shape \(0,\)"):
        torchvision.load(path, spec, run.config_tree)


def test_commands_carry_a_net_there_and_back_without_changing_a_bit(run, tmp_path):
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    trained.save(ours, run)
    arguments = ["--workdir", str(ours), "--out", str(theirs)]
    export_weights.main([*arguments, "--format", "torchvision"])
    net = imported(theirs, tmp_path / "back.safetensors")
    assert nets.same(net.trained, run) and net.class_names == run.class_names
    assert np.array_equal(net.trained.statistics.channel_mean, run.statistics.channel_mean)
    export_weights.main([*arguments, "--format", "safetensors"])
    assert theirs.read_bytes() == ours.read_bytes()
    with pytest.raises(ConfigError, match=r"must end in \.onnx"):
        export_weights.main([*arguments, "--format", "onnx"])


def test_a_file_without_metadata_has_the_normalization_of_torchvision(file, tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_text("".join(f"kind {number}\n" for number in range(10)))
    net = imported(file, tmp_path / "net.safetensors", "--classes", str(classes))
    mean = net.trained.statistics.channel_mean
    np.testing.assert_allclose(mean, [123.675, 116.28, 103.53], rtol=1e-6)
    assert net.class_names[9] == "kind 9"
    assert imported(file, tmp_path / "net.safetensors").class_names[9] == "9"


def test_words_that_two_classes_share_get_their_numbers(file, tmp_path):
    """ImageNet's lists of words have two cranes, a bird and a machine."""
    classes = tmp_path / "classes.txt"
    classes.write_text(
        "\n".join(["crane" if number in (3, 7) else f"kind {number}" for number in range(10)])
    )
    net = imported(file, tmp_path / "net.safetensors", "--classes", str(classes))
    assert net.class_names[2:4] == ("kind 2", "crane (3)") and net.class_names[7] == "crane (7)"


def changed(file, folder, change, metadata=None):
    tensors = dict(weights.read(file)[0])
    change(tensors)
    path = folder / "changed.safetensors"
    path.write_bytes(safetensors.numpy.save(tensors, metadata))
    return path


def replace(name, function):
    return lambda tensors: tensors.update({name: function(tensors[name])})


def not_a_number(array):
    return np.where(np.arange(array.size).reshape(array.shape) == 3, np.float32(np.nan), array)


WRONG = {
    "has no tensor classifier.4.weight": lambda t: t.pop("classifier.4.weight"),
    "has no tensor features.0.weight": lambda t: t.pop("features.0.weight"),
    "has a tensor features.1.weight": lambda t: t.update({"features.1.weight": np.zeros(1, "f4")}),
    r"classifier.6.weight has shape \(9, 24\), .* \(10, 24\)": replace("classifier.6.weight", lambda a: a[:9]),
    r"features.0.weight has shape \(8, 3, 11, 10\)": replace("features.0.weight", lambda a: a[..., 1:]),
    "features.3.weight is not finite": replace("features.3.weight", not_a_number),
    "features.0.weight is not finite": replace("features.0.weight", not_a_number),
    "classifier.1.bias is float16": replace("classifier.1.bias", np.float16),
    "features.0.weight is int64": replace("features.0.weight", np.int64),
}  # fmt: skip


@pytest.mark.fault("F49")
@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_tensor_is_named(run, file, tmp_path, said):
    path = changed(file, tmp_path, WRONG[said])
    with pytest.raises(CheckpointError, match=said):
        torchvision.load(path, run.config, run.config_tree)


@pytest.mark.fault("F49")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", "[1, 2"), ("mean", "[1, NaN, 2]"), ("mean", '{"a": 1}'), ("mean", "[1e300, 0, 0]"),
        ("std", "[1, 0, 1]"), ("std", "[[1], [2]]"), ("class_names", '["a"]'), ("class_names", "["),
        ("class_names", "3"), ("class_names", "null"),
    ],
)  # fmt: skip
def test_hostile_metadata_are_refused(run, file, tmp_path, key, value):
    path = changed(file, tmp_path, lambda tensors: None, {key: value})
    with pytest.raises(CheckpointError, match=f"{key} of its metadata is not"):
        torchvision.load(path, run.config, run.config_tree)


def test_wrong_usage_is_one_line(file, tmp_path):
    out = str(tmp_path / "net.safetensors")
    start = [str(file), "--format", "torchvision", *NARROW[1:]]
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    for arguments, said in (
        (["--out", "net.npz"], "must end in .safetensors"),
        (["--out", out, "--mean", "m"], "--mean is for --format caffe"),
        (["--out", out, "--classes", str(tmp_path / "none")], "cannot read"),
        (["--out", out, "--classes", str(tmp_path / "classes.txt")], "has 2 names, but .* 10"),
        (["--out", out, "--config.model.towerz=1"], 'did you mean "towers"'),
        (["--out", out, "--config.model.num_classes=9"], r"shape .*\(read with --config configs/t"),
    ):  # fmt: skip
        with pytest.raises(AlexNetError, match=said) as raised:
            import_weights.main([*start, *arguments])
        assert "\n" not in raised.value.line()
    local = config.load("configs/cifar10.py:11pct", ["--config.data.path=images"])
    with pytest.raises(ConfigError, match="layer local3 is locally connected"):
        torchvision.tensor_names(config.parse(local).model)
    assert not os.path.exists(out)


def test_a_pth_file_is_read_by_pytorch_alone(run, tmp_path):
    torch = pytest.importorskip("torch", minversion="2.10")
    net = alexnet((8, 12, 16, 12, 12), (32, 24), maps=3, classes=10)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    found = imported(tmp_path / "net.pth", tmp_path / "net.safetensors").trained
    weight = net.state_dict()["classifier.6.weight"].numpy()
    assert np.array_equal(found.params["fc8"]["kernel"], weight.T)
    encoded = (tmp_path / "net.pth").read_bytes()
    for cut in (0, 10, len(encoded) // 2, len(encoded) - 1):
        (tmp_path / "cut.pth").write_bytes(encoded[:cut])
        with pytest.raises(CheckpointError, match="is not a readable state dict"):
            torchvision.load(tmp_path / "cut.pth", run.config, run.config_tree)
    with pytest.raises(CheckpointError, match="there is no file"):
        torchvision.load(tmp_path / "none.pth", run.config, run.config_tree)


def test_without_a_new_pytorch_a_pth_file_is_refused(run, tmp_path, monkeypatch):
    (tmp_path / "net.pth").write_bytes(pickle.dumps({}))
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ConfigError, match=r"needs torch 2\.10 or newer; .*save_file"):
        torchvision.load(tmp_path / "net.pth", run.config, run.config_tree)


class Canary:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.fault("F49")
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors", ".caffemodel"])
@pytest.mark.parametrize("zipped", [False, True])
def test_no_file_is_executed(run, tmp_path, suffix, zipped):
    canary, file = tmp_path / "canary", tmp_path / f"net{suffix}"
    encoded = pickle.dumps({"features.0.weight": Canary(canary)}, protocol=2)
    file.write_bytes(encoded)
    if zipped:  # as torch.save packs it
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", encoded)
            archive.writestr("archive/version", "3\n")
    kind = "caffe" if suffix == ".caffemodel" else "torchvision"
    out = str(tmp_path / "net.safetensors")
    with pytest.raises(AlexNetError):
        import_weights.main([str(file), "--format", kind, "--out", out])
    assert not canary.exists()
    pickle.loads(encoded)
    assert canary.exists()  # the canary sings
