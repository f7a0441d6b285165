"""Every config and variant: it parses, builds its network, and says what it costs and gives."""

import dataclasses
import functools
import importlib
import json
import math
import pathlib
import re

import jax
import pytest

from alexnet_jax import config
from alexnet_jax.analysis import describe
from alexnet_jax.config import provenance
from alexnet_jax.errors import ConfigError
from alexnet_jax.model import alexnet, geometry
from alexnet_jax.specs import Config, ModelSpec
from configs import (
    ablations,
    caffe,
    cifar10,
    figure1,
    flowers17,
    folder,
    krizhevsky2012,
    ladder,
    lars,
    one_weird_trick,
    scales,
    tiny_imagenet,
    transfer,
)

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"

VARIANTS = {
    "ablations": ablations.ABLATIONS,
    "caffe": caffe.VARIANTS,
    "cifar10": cifar10.VARIANTS,
    "figure1": figure1.LEARNING_RATES,
    "flowers17": flowers17.VARIANTS,
    "folder": ("", *set(folder.VARIANTS) - {"full"}),
    "krizhevsky2012": ("", *krizhevsky2012.VARIANTS),
    "ladder": ladder.STEPS,
    "lars": lars.RECIPES,
    "one_weird_trick": one_weird_trick.BATCH_SIZES,
    "scales": scales.SCALES,
    "tiny_imagenet": tiny_imagenet.VARIANTS,
    "transfer": [
        f"{name},{scale}" for name in transfer.TRANSFERS for scale in ("cifar10", "imagenet")
    ],
}

FILES = sorted(
    path.stem for path in CONFIGS.glob("*.py") if path.stem not in ("__init__", "sweeps")
)

NAMES = [f"{file}:{variant}".rstrip(":") for file in FILES for variant in VARIANTS.get(file, ("",))]

PARAMETERS = {
    "paper": 60_965_224,
    "krizhevsky2012": 60_965_224,
    "krizhevsky2012:conv6": 61_555_304,
    "caffe:alexnet": 60_965_224,
    "caffe:caffenet": 60_965_224,
    "torchvision": 61_100_840,
    "cuda_convnet2": 61_100_840,
    "one_weird_trick:1024": 61_100_840,
    "lars:8192": 60_965_224,
    "ablations:no_lrn": 60_965_224,
    "ablations:non_overlapping_pooling": 60_965_224,
    "ablations:one_tower": 59_798_312,
    "ablations:no_communication": 60_714_408,
    "ablations:no_conv3": 59_858_920,
    "cifar10:80sec": 145_578,
    "cifar10:18pct": 89_578,
    "cifar10:13pct": 1_116_490,
    "cifar10:11pct": 2_112_970,
}
"""From the authors' files; those of the later nets are widely quoted."""


def load(name: str):
    """The ConfigDict of "file:variant"."""
    file, _, variant = name.partition(":")
    argument = str(CONFIGS / f"{file}.py") + (f":{variant}" if variant else "")
    loaded = config.load(argument, [])
    loaded.data.path = "images"
    return loaded


@functools.cache
def spec_of(name: str) -> Config:
    spec = config.parse(load(name))
    return config.with_classes(spec, spec.model.num_classes or 5)


def layers_of(spec: Config) -> list[geometry.Layer]:
    return geometry.layers(spec.model, spec.augment.crop_size, spec.model.num_classes)  # type: ignore[arg-type]


@functools.cache
def traced(model: ModelSpec, crop: int):
    """Shapes of the variables, logits and features of a network, which many configurations have in common."""
    net, variables = alexnet.AlexNet(model), alexnet.shapes(model, crop)
    images = jax.ShapeDtypeStruct((2, crop, crop, 3), "float32")
    return variables, *jax.eval_shape(lambda v, x: net.apply(v, x, train=False), variables, images)


@pytest.mark.parametrize("name", NAMES)
def test_geometry_agrees_with_the_network(name):
    spec = spec_of(name)
    variables, logits, features = traced(spec.model, spec.augment.crop_size)
    table = layers_of(spec)
    params = variables["params"]
    counts = {row: sum(leaf.size for leaf in jax.tree.leaves(params[row])) for row in params}
    assert counts == {layer.name: layer.parameters for layer in table if layer.name in params}
    assert set(params) == {layer.name for layer in table if not layer.name.endswith("/pool")}
    for layer in table:
        feature = layer.name if layer.name in features else f"{layer.name}/pool"
        if f"{layer.name}/pool" in {other.name for other in table}:
            feature = f"{layer.name}/linear"
        shape = features[feature].shape
        assert shape[-1] == layer.channels
        assert len(shape) == 2 or shape[1:3] == (layer.height, layer.height)
    assert logits.shape == (2, spec.model.num_classes)


@pytest.mark.parametrize("name", PARAMETERS)
def test_number_of_parameters_is_the_published_one(name):
    assert sum(layer.parameters for layer in layers_of(spec_of(name))) == PARAMETERS[name]


def test_resized_cifar10_has_nine_tenths_of_a_billion_parameters():
    parameters = sum(layer.parameters for layer in layers_of(spec_of("cifar10:resized")))
    assert 0.89e9 < parameters < 0.91e9


def test_the_papers_net_has_its_multiply_adds_and_map_sizes():
    table = layers_of(spec_of("paper"))
    assert sum(layer.multiply_adds for layer in table) == 724_406_816
    assert [layer.height for layer in table if layer.height > 1] == [55, 27, 27, 13, 13, 13, 13, 6]


@pytest.mark.parametrize("name", NAMES)
def test_every_config_carries_its_name(name):
    assert load(name).name == name


@pytest.mark.parametrize("file", FILES)
def test_every_docstring_tells_command_cost_and_expectation(file):
    text = importlib.import_module(f"configs.{file}").__doc__ or ""
    for word in ("Command:", "Cost:", "Expect:"):
        assert word in text
    assert re.search(rf"--config (configs/)?{file}\b", text)


@pytest.mark.parametrize("name", ablations.ABLATIONS)
def test_every_ablation_says_what_was_published_and_changes_its_base(name):
    text = ablations.ABLATIONS[name].__doc__ or ""
    assert "§" in text or "#" in text
    ablation, base = spec_of(f"ablations:{name}"), spec_of("krizhevsky2012")
    assert (ablation.model, ablation.augment) != (base.model, base.augment)
    assert (ablation.optimizer, ablation.schedule, ablation.train) == (
        base.optimizer,
        base.schedule,
        base.train,
    )


@pytest.mark.parametrize("file", sorted(set(VARIANTS) - {"krizhevsky2012"}))
def test_unknown_variant_names_those_that_exist(file):
    known = next(filter(None, sorted(VARIANTS[file])))
    with pytest.raises(ValueError, match=known):
        importlib.import_module(f"configs.{file}").get_config("nonsense")


def test_unknown_variant_is_a_config_error():
    with pytest.raises(ConfigError, match="conv6, ilsvrc2010"):
        load("krizhevsky2012:nonsense")


def test_without_images_the_error_names_the_flag():
    loaded = config.load(str(CONFIGS / "folder.py"), [])
    with pytest.raises(ConfigError, match=r"--config\.data\.path"):
        config.parse(loaded)


@pytest.mark.parametrize(
    "images, variant", [(7, "small"), (9_999, "small"), (10_000, "full"), (None, "full")]
)
def test_the_net_for_your_own_pictures_follows_their_number(images, variant):
    path = "--config.data.path=images"
    loaded, reason = config.load_chosen("folder", [path], lambda data: images)
    assert "folder:" in reason and loaded.data.path == "images"
    assert images is None or f"{images:,} training images" in reason
    assert config.digest(loaded) == config.digest(config.load(f"folder:{variant}", [path]))


def test_a_variant_that_is_named_is_not_chosen_and_other_files_choose_none():
    def count(data):
        raise AssertionError

    path = "--config.data.path=images"
    for argument in ("folder:full", "paper", "tiny_imagenet:small"):
        loaded, reason = config.load_chosen(argument, [path], count)
        assert (loaded, reason) == (config.load(argument, [path]), "")


@pytest.mark.parametrize("begun, chosen", [("folder", "folder"), ("folder:small", "folder:small")])
def test_a_run_that_was_begun_keeps_its_variant(begun, chosen):
    """Also one of before there were variants, whose name is folder."""
    assert load_begun("folder", 20_000, begun) == (chosen, "")
    assert load_begun("folder", 7, "paper")[0] == "folder:small"
    assert load_begun("cifar10", 7, "cifar10:80sec") == ("cifar10:18pct", "")


def load_begun(argument, images, begun):
    """The name of the config that a run continues with, and the reason."""
    path = "--config.data.path=images"
    loaded, reason = config.load_chosen(argument, [path], lambda data: images, begun)
    return loaded.name, reason


def test_a_run_of_a_copied_file_keeps_its_variant(tmp_path):
    from alexnet_jax.config import find

    copy = tmp_path / "mine.py"
    copy.write_bytes((find.folder() / "folder.py").read_bytes())
    assert load_begun(str(copy), 20_000, "folder:small") == ("folder:small", "")


@pytest.mark.parametrize("variant, calls", [("", 2), (":small", 1)])
def test_a_file_is_executed_once(tmp_path, capfd, variant, calls):
    (tmp_path / "mine.py").write_text(
        "from alexnet_jax.configs import folder\n"
        "print('executed')\n"
        "def get_config(arg='full'):\n"
        "    print('called')\n"
        "    return folder.get_config(arg)\n"
        "choose = folder.choose\n"
    )
    path = "--config.data.path=images"
    loaded, _ = config.load_chosen(f"{tmp_path}/mine.py{variant}", [path], lambda data: 7)
    assert loaded.name == "folder:small"
    assert capfd.readouterr().out.split() == ["executed"] + ["called"] * calls


def test_the_small_net_fits_the_one_that_it_begins_from():
    """All but the number of classes, and what acts in training alone."""
    ours, theirs = spec_of("folder:small"), spec_of("tiny_imagenet:start")
    classes, dropout = ours.model.num_classes, ours.model.dropout
    same = dataclasses.replace(theirs.model, num_classes=classes, dropout=dropout)
    assert same == ours.model
    assert (ours.data.image_size, ours.augment) == (theirs.data.image_size, theirs.augment)


def test_the_quickstart_needs_no_images():
    config.parse(config.load(str(CONFIGS / "quickstart.py"), []))


def test_the_2012_program_is_the_paper_but_for_what_its_files_say():
    spec = spec_of("krizhevsky2012")
    assert dict(spec.model.convs)["conv1"].ops == ("lrn", "pool", "act")
    assert math.isclose(spec.model.lrn_constants.alpha, 2e-5)
    assert [row.init_std for _, row in spec.model.convs] == [0.01, 0.01, 0.03, 0.03, 0.03]
    assert spec.schedule.weights.drops == (25.0, 51.0, 79.0)
    assert spec.schedule.biases is not None and spec.schedule.biases.learning_rate == 0.02
    assert spec.schedule.layer_factors == {"conv1": ((67.0, 0.1), (72.0, 0.0))}
    assert (spec.augment.crop_chunk, spec.augment.color_off_epoch) == (32, 67.0)


def test_non_overlapping_pools_keep_the_sizes_below_the_fully_connected_rows():
    table = {layer.name: layer for layer in layers_of(spec_of("ablations:non_overlapping_pooling"))}
    assert table["conv3"].height == 13
    assert table["conv5/pool"].height == 6


def test_each_call_makes_a_config_of_its_own():
    first, second = krizhevsky2012.get_config(), krizhevsky2012.get_config()
    first.model.convs.conv1.pool.window = 2
    assert first.model.convs.conv2.pool.window == 3
    assert second.model.convs.conv1.pool.window == 3


def plain(name: str) -> dict:
    return json.loads(config.to_json(load(name)))


def values(name: str) -> dict:
    return describe._values(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_value_that_a_config_sets_has_a_note_of_its_own(name):
    base = provenance.base(name)
    if base is None:
        assert name == "paper"
        return
    ours, begun = values(name), values(base)
    assert ours and begun
    for key in ours.keys() | begun.keys():
        if key != "name" and ours.get(key) != begun.get(key):
            assert provenance.note(name, key), key
            assert describe.source(name, key, ours.get(key)) == provenance.note(name, key)


@pytest.mark.parametrize("name", NAMES)
def test_every_difference_from_the_paper_has_a_source(name):
    for difference in describe.differences(plain(name), plain("paper")):
        if difference.key != "data.path":  # load() says where
            assert describe.source(name, difference.key, difference.first), difference.key


@pytest.mark.parametrize("key", ["model.lrn_constants.alpha", "model.convs.conv1.then"])
def test_what_a_config_leaves_alone_is_not_its_choice(key):
    """A pattern of a scale or of a variant is about what it changes."""
    program = provenance.note("krizhevsky2012", key)
    for name in ("scales:cifar10", "ablations:no_color,cifar10", "ladder:he_init,digits"):
        assert describe.source(name, key, values(name)[key]) == program
    scaled = "ablations:init_001,cifar10"
    changed = "model.convs.conv4.init_std"
    assert (
        describe.source(scaled, changed, values(scaled)[changed])
        == "times sqrt(n), where a layer has n times fewer inputs"
    )


# What a note says -> the keys that it may stand beside.
ABOUT = {
    r"alpha|divide[sd] (it |scale )?by (n|size|the window|9|25)\b": r"model\.(lrn_constants|spatial_norm)\.alpha",
    r"scale=": r"model\.(lrn_constants|spatial_norm)\.alpha",
    r"k = 1": r"model\.lrn_constants\.k",
    r"nothing crosses": r"model\.lrn_constants\.within_towers",
    r"initW|0\.01 everywhere|sqrt": r"model\..*\.init_std",
    r"bvlc_alexnet|PyTorch draws|hidden layers$": r"model\.(convs|fcs)\..*",
    r"bvlc_alexnet: 0\.1|PyTorch draws|1 in conv2": r"model\..*\.bias",
    r"\bbias(es)?\b|decay|none, as in|as the weights": r"optimizer\.bias_weight_decay",
    r"\bwc\b|no regularization$": r"optimizer\..*weight_decay.*",
    r"act, |rnorm1|cnorm2|pool3": r"model\.convs\.\w+\.then",
    r"dropout in|dropout_layer|outputs times|§4.2: 0.5": r"model\.(dropout\..*|fcs\.\w+\.(then|before))",
    r"rounds up": r".*\.pool\.rounding",
    r"patches|share a crop|227x227": r"augment\.crop_\w+|evaluation\.final_views",
    r"eigenvalue|noise|N\(0|off at|throughout|1 \+ 0\.1|nothing is divided": r"augment\.color_\w+",
    r"off at|throughout|never": r"augment\.color_off_epoch",
    r"mean image|mean of each": r"augment\.mean",
    r"raw RGB": r"augment\.scale",
    r"epsW|epsB|lowered|stalls|stepsize|cosine|fast as possible": r"schedule\..*",
    r"frozen|72 of 91|a tenth": r"schedule\.layer_factors\..*",
    r"lr_mult|equal rate": r"schedule\.(bias|layer_factors).*",
    r"cycles|killed": r"train\.epochs",
    r"log-probability|section 7": r"train\.label_smoothing",
    r"keep their order": r"data\.shuffle",
    r"classes$|digits$|flowers$|^counted$": r"model\.num_classes",
    r"as reported": r"evaluation\.final_views",
    r"one GPU|across the maps": r"model\.(towers|convs\.\w+\.groups)",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_note_stands_beside_the_keys_that_it_is_about_alone(name):
    for key, value in values(name).items():
        note = describe.source(name, key, value)
        for said, keys in ABOUT.items():
            if re.search(said, note):
                assert re.fullmatch(keys, key), (key, note)


def test_what_notes_are_about_is_said_by_some():
    notes = {note for entry in provenance.SOURCES.values() for note in entry.values()}
    for said in ABOUT:
        assert any(re.search(said, note) for note in notes), said


def test_a_name_from_outside_names_no_file():
    """That of a run folder or of a weights file: what it begins from is loaded."""
    for name in ("../mine", "../mine:x", "../mine,cifar10", "../mine:x,cifar10", "mine,../x", ""):
        assert provenance.base(name) is None and provenance.other_file(name) is None
        assert not provenance.is_known(name)
        assert describe.source(name, "model.lrn", False) == ""
    assert provenance.other_file("transfer:slow,../x") == "scales:../x"
    assert provenance.argument("scales:../x") == "scales.py:../x"  # a variant, and none that exists
    assert describe.source("scales:../x", "model.lrn", False) == ""


def test_a_report_compares_with_the_file_that_a_config_begins_from():
    names = (
        "ablations:no_lrn,cifar10",
        "ladder:cosine,digits",
        "transfer:slow,imagenet",
        "figure1:relu",
    )
    found = ["krizhevsky2012", "krizhevsky2012", "scales:imagenet", "cifar10"]
    assert [provenance.other_file(name) for name in names] == found
    assert provenance.other_file("paper") is None


def test_each_step_of_the_ladder_begins_from_the_one_before():
    steps = [f"ladder:{name}" for name in ladder.STEPS]
    assert [provenance.base(name) for name in steps] == ["krizhevsky2012", *steps[:-1]]
    assert {provenance.other_file(name) for name in steps} == {"krizhevsky2012"}


@pytest.mark.parametrize("name", provenance.SOURCES)
def test_sources_are_of_configs_that_exist(name):
    assert name in NAMES or any(other.startswith((f"{name}:", f"{name},")) for other in NAMES)
