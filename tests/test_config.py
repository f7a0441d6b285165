"""Configs become checked specs, and mistakes become one line."""

import json

import pytest

from alexnet_jax import config
from alexnet_jax.errors import ConfigError

PATH = "--config.data.path=images"


def load(*overrides: str):
    return config.load("configs/paper.py", [PATH, *overrides])


def parse(*overrides: str):
    return config.parse(load(*overrides))


@pytest.mark.fault("F44")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.model.lnr=False", 'unknown key config.model.lnr; did you mean "lrn"?'),
        ("--config.modle.lrn=False", 'unknown key config.modle; did you mean "model"?'),
        ("--config.model.convs.conv2.grops=1", 'did you mean "groups"?'),
        ("--config.model.activation=rellu", 'did you mean "relu"?'),
        ("--config.train.batch_size=abc", "batch_size=abc"),
        ("--config.train.batch_size=0", "config.train.batch_size must be positive"),
        ("--config.train.accumulate=3", "batch_size=128 is not divisible by accumulate=3"),
        ("--config.augment.crop_size=300", "crop_size=300 is larger than the 256 pixel images"),
        ("--config.augment.crop_size=20", "window 3 is larger than its 2x2 maps"),
        ("--config.augment.crop_size=7", "11x11 kernel finds no place on 7x7 maps"),
        ("--config.model.convs.conv2.groups=7", "groups=7 must divide its 96 input maps"),
        ("--config.model.towers=5", "features=96 is not divisible by 5 towers"),
        ("--config.model.dropout.rate=1.0", "config.model.dropout.rate must be in [0, 1)"),
        ("--config.data.source=foldr", 'did you mean "folder"?'),
        ("--config.data.validation=1.5", "config.data.validation"),
        ("--config.schedule.weights.kind=plato", 'did you mean "plateau"?'),
    ],
)
def test_mistake_is_one_line_that_names_the_key(override, message):
    with pytest.raises(ConfigError) as caught:
        parse(override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.fault("F44")
def test_none_where_a_value_is_needed_is_refused():
    tree = json.loads(config.to_json(load()))
    tree["train"]["batch_size"] = None
    with pytest.raises(ConfigError, match=r"config.train.batch_size is None but needs a value"):
        config.parse(tree)


@pytest.mark.fault("F44")
def test_unknown_and_missing_keys_at_any_depth_are_all_named_at_once():
    tree = json.loads(config.to_json(load()))
    tree["model"]["convs"]["conv3"]["strid"] = tree["model"]["convs"]["conv3"].pop("stride")
    tree["train"]["epoch"] = 3
    with pytest.raises(ConfigError) as caught:
        config.parse(tree)
    for part in ('unknown key config.model.convs.conv3.strid; did you mean "stride"?',
                 "missing key config.model.convs.conv3.stride", "unknown key config.train.epoch"):  # fmt: skip
        assert part in str(caught.value)


@pytest.mark.fault("F44")
def test_every_key_of_the_paper_config_is_checked():
    """Renaming any key, at any depth, is refused."""

    def sections(node, path=()):
        for key, value in node.items():
            yield path, key
            if isinstance(value, dict):
                yield from sections(value, (*path, key))

    text = config.to_json(load())
    for path, key in sections(json.loads(text)):
        if path[-1:] in (("convs",), ("fcs",)):
            continue  # the names of rows are free
        tree = json.loads(text)
        section = tree
        for part in path:
            section = section[part]
        section[key + "_"] = section.pop(key)
        with pytest.raises(ConfigError, match="unknown key"):
            config.parse(tree)


def test_specs_survive_json():
    loaded = load("--config.model.convs.conv2.groups=1")
    assert config.parse(json.loads(config.to_json(loaded))) == config.parse(loaded)


def test_digest_changes_with_any_value_and_not_with_the_order_of_keys():
    tree = json.loads(config.to_json(load()))
    shuffled = dict(reversed(tree.items()))
    assert config.digest(tree) == config.digest(shuffled)
    tree["seed"] = 1
    assert config.digest(tree) != config.digest(shuffled)


def test_lrn_switch_removes_every_response_normalization():
    assert all("lrn" not in row.then for _, row in parse("--config.model.lrn=False").model.convs)


def test_non_overlapping_pooling_changes_pools_and_padding_as_experiment_147():
    rows = dict(parse("--config.model.overlapping_pooling=False").model.convs)
    assert [rows[n].pool.window for n in ("conv1", "conv2", "conv5")] == [2, 2, 2]
    assert [rows[n].pad for n in rows] == [(0, 3), (1, 1), (1, 1), (1, 1), (0, 0)]


def test_switch_that_matches_no_row_is_an_error():
    tree = json.loads(config.to_json(load("--config.model.lrn=False")))
    for row in tree["model"]["convs"].values():
        row["then"] = [o for o in row["then"] if o != "lrn"]
    with pytest.raises(ConfigError, match="changes nothing"):
        config.parse(tree)


@pytest.mark.fault("F29")
def test_number_of_classes_comes_from_the_data_or_must_agree():
    spec = parse()
    assert config.with_classes(spec, 1000) == spec
    with pytest.raises(ConfigError, match=r"set --config.model.num_classes=17"):
        config.with_classes(spec, 17)


@pytest.mark.fault("F21")
def test_path_of_the_images_is_asked_for():
    with pytest.raises(ConfigError, match=r"--config.data.path=FOLDER"):
        config.parse(config.load("configs/paper.py", []))


@pytest.mark.fault("F44")
def test_missing_config_file_is_one_line():
    with pytest.raises(ConfigError, match=r"no config file configs/papr.py"):
        config.load("configs/papr.py", [])
