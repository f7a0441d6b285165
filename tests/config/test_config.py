"""Configs become checked specs, and mistakes become one line."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import typing

import pytest

from alexnet_jax import config, files, specs
from alexnet_jax.errors import ConfigError

PATH = "--config.data.path=images"
CONFIGS = (
    "configs/paper.py",
    pytest.param("configs/krizhevsky2012.py", marks=pytest.mark.full),
    pytest.param("configs/cifar10.py:11pct", marks=pytest.mark.full),
    pytest.param("configs/flowers17.py:batchnorm", marks=pytest.mark.full),
    "tests/tiny.py",
)


def load(*overrides: str):
    return config.load("configs/paper.py", [PATH, *overrides])


def load_anywhere(name: str, *overrides: str):
    """Of a config that may read no files, for which PATH would be a mistake."""
    loaded = config.load(name, list(overrides))
    loaded.data.path = "images"
    return loaded


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
        ("--config.train.batch_size=0", "config.train.batch_size must be at least 1, not 0"),
        ("--config.train.accumulate=3", "batch_size=128 is not divisible by accumulate=3"),
        ("--config.augment.crop_size=300", "crop_size=300 is larger than the 256 pixel images"),
        ("--config.augment.crop_size=20", "window 3 is larger than its 2x2 maps"),
        ("--config.augment.crop_size=7", "11x11 kernel does not fit on 7x7 maps"),
        ("--config.model.convs.conv2.groups=7", "groups=7 must divide its 96 input maps"),
        ("--config.model.towers=5", "features=96 is not divisible by 5 towers"),
        ("--config.model.dropout.rate=1.0", "config.model.dropout.rate must be in [0, 1)"),
        ("--config.data.source=foldr", 'did you mean "folder"?'),
        ("--config.data.validation=1.5", "config.data.validation"),
        ("--config.schedule.weights.kind=plato", 'did you mean "plateau"?'),
        # Keys that the config does not list.
        ("--config.train.checkpoint_minute=5", 'did you mean "checkpoint_minutes"?'),
        ("--config.train.determinstic", 'did you mean "deterministic"?'),
        ("--config.augment.min_aera=0.1", 'did you mean "min_area"?'),
        ("--config.schedule.weights.taget=8", 'did you mean "target"?'),
        ("--config.train.matmul_precision=hihgest", 'did you mean "highest"?'),
        (
            "--config.train.checkpoint_minutes=-1",
            "config.train.checkpoint_minutes must be at least 0",
        ),
        ("--config.train.checkpoint_minutes=soon", "config.train.checkpoint_minutes=soon"),
        ("--config.train.steps_per_dispatch=1.5", "config.train.steps_per_dispatch=1.5"),
        ("--config.train.exact=maybe", "config.train.exact=maybe"),
        ("--config.train.exact.more=1", "unknown key config.train.exact.more"),
        ("--config.augment.deterministic", "unknown key config.augment.deterministic"),
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
    assert all("lrn" not in row.ops for _, row in parse("--config.model.lrn=False").model.convs)


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


def fields(node: dict, kind: type = specs.Config, path: tuple = ()):
    """(path, type without None, whether None will do) of every section and value below `node`."""
    for key, hint in typing.get_type_hints(kind).items():
        if key not in node:
            continue
        place, optional = (*path, key), type(None) in typing.get_args(hint)
        hint = typing.get_args(hint)[0] if optional else hint
        origin = typing.get_origin(hint) or hint
        rows, entries = {}, {}
        if key in ("convs", "fcs"):
            origin, rows = dict, node[key]
        elif origin is dict:
            entries = node[key]
        elif dataclasses.is_dataclass(hint):
            origin = dict
            yield from fields(node[key] or {}, hint, place)
        for name, row in rows.items():
            yield (*place, name), dict, False
            yield from fields(row, typing.get_args(typing.get_args(hint)[0])[1], (*place, name))
        for name in entries:
            value = typing.get_args(hint)[1]
            yield (*place, name), typing.get_origin(value) or value, False
        yield place, origin, optional


def changed(tree: dict, path: tuple, value) -> dict:
    """A copy of `tree` in which `path` holds `value`; only the sections on the way are copied."""
    key, *rest = path
    return {**tree, key: changed(tree[key], tuple(rest), value) if rest else value}


@functools.cache
def tree(name: str) -> dict:
    return json.loads(config.to_json(load_anywhere(name)))


def refusal(broken: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(broken)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.fault("F44")
@pytest.mark.parametrize("name", CONFIGS)
def test_every_value_of_a_wrong_type_is_refused_by_its_key(name):
    wrong = {
        str: (3, 1.5, True, [], {}),
        bool: (0, "True", [], {}),
        int: (1.5, "1", True, [], {}),
        float: ("1", True, [], {}, float("nan"), float("inf"), float("-inf"), 10**400),
        tuple: (3, "relu", "(1,", "((", "[1, 2", "__import__('os')", True, {}, [None], [[]], [{}]),
        dict: (3, "relu", True, [1], {"x": "y"}),
        typing.Literal: (3, "", "relus", True, [], {}),
    }
    whole, count = tree(name), 0
    for path, kind, _ in fields(whole):
        for value in wrong[kind]:
            text = refusal(changed(whole, path, value))
            assert f"config.{'.'.join(path)}" in text, (path, value, text)
            count += 1
    assert count > 500


@pytest.mark.fault("F44")
@pytest.mark.parametrize("name", CONFIGS)
def test_every_none_and_every_typo_is_refused_by_its_key(name):
    whole = tree(name)
    for path, _, optional in fields(whole):
        key = "config." + ".".join(path)
        if not optional:
            text = refusal(changed(whole, path, None))
            assert f"{key} is None" in text or f"{key} must be a dict of layers, not None" in text
        *section, last = path
        assert f"{key}x" in refusal(changed(whole, (*section, f"{last}x"), 1))


NEGATIVE, ZERO, COUNT = (-1e-9,), (0.0, -1.0), (0, -1)
OUT_OF_RANGE = {
    ("model.convs.conv1.pool", specs.PoolSpec): dict(window=COUNT, stride=COUNT),
    ("model.convs.conv1", specs.ConvSpec): dict(
        features=COUNT, kernel=COUNT, stride=COUNT, pad=([-1, 0], [0, -1]), groups=COUNT,
        init_std=NEGATIVE, bias=(),
    ),
    ("model.fcs.fc6", specs.FCSpec): dict(
        features=COUNT, groups=COUNT, init_std=NEGATIVE, bias=()
    ),
    ("model.lrn_constants", specs.LRNSpec): dict(k=ZERO, n=COUNT, alpha=NEGATIVE, beta=NEGATIVE),
    ("model.spatial_norm", specs.SpatialNormSpec): dict(
        size=COUNT, alpha=NEGATIVE, beta=NEGATIVE
    ),
    ("model.batch_norm", specs.BatchNormSpec): dict(momentum=(-0.1, 1.0), epsilon=ZERO),
    ("model.dropout", specs.DropoutSpec): dict(rate=(-0.1, 1.0, 2.0)),
    ("model", specs.ModelSpec): dict(num_classes=(1, 0, -1), towers=COUNT),
    ("data", specs.DataSpec): dict(
        image_size=COUNT, validation=(-0.1, 1.0, 10.0), threads=COUNT, prefetch=(-1,),
        workers=(-1,),
    ),
    ("augment", specs.AugmentSpec): dict(
        resize=COUNT, crop_size=COUNT, crop_chunk=COUNT, scale=ZERO, color_std=NEGATIVE,
        color_off_epoch=NEGATIVE, min_area=(-0.1, 0.0, 1.1),
    ),
    ("optimizer", specs.OptimizerSpec): dict(
        momentum=(-0.1, 1.0), weight_decay=NEGATIVE, layer_weight_decay=({"conv1": -0.1},),
        bias_weight_decay=NEGATIVE, b1=(-0.1, 1.0), b2=(-0.1, 1.0), epsilon=ZERO, trust_coefficient=ZERO,
    ),
    ("schedule.weights", specs.RateSpec): dict(
        learning_rate=NEGATIVE, factor=(0.0, -0.1, 1.1), max_drops=(-1,), patience=COUNT,
        min_improvement=(-0.1, 1.0), target=ZERO, plateaus=COUNT, power=ZERO, warmup_epochs=NEGATIVE,
        drops=([0.0], [-1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [1.0, float("nan")]),
    ),
    ("schedule", specs.ScheduleSpec): dict(
        bias_factor=NEGATIVE,
        layer_factors=(
            {"conv1": [[-1.0, 1.0]]}, {"conv1": [[1.0, -1.0]]}, {"conv1": [[2.0, 1.0], [1.0, 0.0]]},
        ),
    ),
    ("train", specs.TrainSpec): dict(
        epochs=ZERO, max_steps=COUNT, batch_size=COUNT, accumulate=COUNT, log_every=COUNT,
        checkpoint_every=COUNT, keep_every=COUNT, stall_seconds=ZERO, label_smoothing=(-0.1, 1.0),
        checkpoint_minutes=NEGATIVE, steps_per_dispatch=COUNT, min_steps=COUNT, patience=(-0.1, 0.0, 1.1),
    ),
    ("evaluation", specs.EvaluationSpec): dict(every_epochs=ZERO, batch_size=COUNT),
    ("", specs.Config): dict(seed=(-1, 2**32, 2**64)),
}  # fmt: skip


@pytest.mark.fault("F44")
@pytest.mark.parametrize(("place", "kind"), OUT_OF_RANGE)
def test_every_number_out_of_its_range_is_refused_by_its_key(place, kind):
    section = tuple(place.split(".")) if place else ()
    for key, values in OUT_OF_RANGE[place, kind].items():
        for value in values:
            text = refusal(changed(tree("configs/paper.py"), (*section, key), value))
            assert ".".join(("config", *section, key)) in text, (key, value, text)


@pytest.mark.fault("F44")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.epochs", 1e308),
        ("evaluation.every_epochs", 1e308),
        ("train.stall_seconds", 1e300),
        ("train.checkpoint_minutes", 1e300),
        ("train.max_steps", 2**31),
        ("train.log_every", 2**62),
        ("train.batch_size", 2**31),
        ("evaluation.batch_size", 2**31),
        ("augment.crop_chunk", 2**31),
        ("data.image_size", 10**12),
        ("data.image_size", 10**400),
        ("augment.crop_size", 100_000),
        ("data.threads", 2**20),
        ("data.prefetch", 2**40),
        ("model.num_classes", 2**40),
        ("model.towers", 2**62),
        ("model.lrn_constants.n", 1_000_000),
        ("model.spatial_norm.size", 1_000_000),
        ("model.convs.conv1.features", 2**62),
        ("model.convs.conv1.kernel", 2**40),
        ("model.convs.conv1.pad", [2**40, 0]),
        ("model.convs.conv1.pool.window", 2**40),
        ("model.convs.conv1.bias", -1e308),
        ("model.convs.conv1.then", ["act"] * 1000),
        ("schedule.weights.learning_rate", 1e308),
        ("name", "digits\udcff"),
        ("data.classes", ["a\ud800"]),
    ],
)
def test_what_would_overflow_or_never_end_is_refused_by_its_key(key, value):
    text = refusal(changed(tree("configs/paper.py"), tuple(key.split(".")), value))
    assert f"config.{key}" in text


@pytest.mark.fault("F44")
def test_a_net_of_a_thousand_rows_is_refused():
    row = tree("configs/paper.py")["model"]["convs"]["conv3"]
    rows = {f"conv{i}": row for i in range(1500)}
    text = refusal(changed(tree("configs/paper.py"), ("model", "convs"), rows))
    assert "config.model.convs has 1,500 layers, more than 100" in text


def test_the_ranges_of_all_numbers_are_tested():
    def holds_a_number(hint):
        return hint in (int, float) or any(map(holds_a_number, typing.get_args(hint)))

    tested = {kind: set(values) for (_, kind), values in OUT_OF_RANGE.items()}
    for kind in vars(specs).values():
        if dataclasses.is_dataclass(kind) and kind not in (specs.Range, specs.Condition):
            hints = typing.get_type_hints(kind)
            assert tested[kind] == {key for key, hint in hints.items() if holds_a_number(hint)}


@pytest.mark.fault("F44")
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "model.convs.conv1.then",
            ["act", "pool", "pool"],
            "conv1.then lists 'pool' more than once",
        ),
        ("model.convs.conv1.then", ["act", "pol"], 'did you mean "pool"?'),
        ("model.convs.conv3.then", ["pool"], "conv3.then lists 'pool', but the layer has no pool"),
        ("model.fcs.fc6.then", ["act", "pool"], "config.model.fcs.fc6.then[1] is 'pool'"),
        ("model.convs.conv1.pool.stride", 55, "beyond the 55x55 maps"),
        ("model.convs.2conv", {}, "config.model.convs.2conv: the name of a layer"),
        ("model.convs.a/b1", {}, "config.model.convs.a/b1: the name of a layer"),
        ("model.convs.local1", {}, "have the same number"),
        ("model.fcs.fc6.features", None, "config.model.fcs.fc6.features"),
        ("model.fcs.fc8.features", 10, "config.model.fcs.fc8.features"),
        ("model.fcs", {}, "config.model.fcs must have at least one layer"),
        ("evaluation.final_views", ["centre"], 'did you mean "center"?'),
        ("schedule.layer_factors", {"conv6": []}, 'no such layer; did you mean "conv'),
        ("schedule.weights.kind", "dexp", "config.schedule.weights.plateaus: dexp needs 2"),
        ("data", {"source": "arrays"}, "missing key config.data.path"),
        ("data.path", None, "config.data.path is not set"),
        ("augment.crop", "random_resize", 'did you mean "random_resized"?'),
    ],
)
def test_values_that_do_not_go_together_are_refused(path, value, message):
    assert message in refusal(changed(tree("configs/paper.py"), tuple(path.split(".")), value))


def test_smoothed_labels_are_for_cross_entropy():
    assert parse("--config.train.label_smoothing=0.1").train.label_smoothing == 0.1
    with pytest.raises(ConfigError, match="label_smoothing is for the loss cross_entropy"):
        parse("--config.train.label_smoothing=0.1", "--config.train.loss=mse")


def test_a_config_that_is_no_section_is_refused():
    for broken in (None, [], 3, "paper"):
        with pytest.raises(ConfigError, match="config"):
            config.parse(broken)


@pytest.mark.fault("F44")
def test_all_faults_of_the_command_line_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        load(
            "--config.modle.lrn=False",
            "--config.train.batch_sise=3",
            "--config.train.epochs=many",
            "--config.train.log_every=0",
            "--config.model.convs.conv2.pad=(1,",
        )
    for part in (
        'unknown key config.modle; did you mean "model"?',
        'unknown key config.train.batch_sise; did you mean "batch_size"?',
        "config.train.epochs=many",
        "config.train.log_every must be at least 1, not 0",
        "config.model.convs.conv2.pad=(1,",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


# A key that paper.py does not list -> how it is set, beside what it has an effect, and the value that it then has.
UNLISTED = {
    "data.workers": ("--config.data.workers=2", 2),
    "train.checkpoint_minutes": ("--config.train.checkpoint_minutes=5", 5.0),
    "train.matmul_precision": ("--config.train.matmul_precision=highest", "highest"),
    "train.deterministic": ("--config.train.deterministic", True),
    "train.exact": ("--noconfig.train.exact", False),
    "train.steps_per_dispatch": ("--config.train.steps_per_dispatch=4", 4),
    "train.min_steps": ("--config.train.min_steps=250", 250),
    "train.patience": ("--config.train.patience=0.5", 0.5),
    "train.init_from": ("--config.train.init_from=tiny_imagenet", "tiny_imagenet"),
    "model.lrn_constants.within_towers": (
        "--config.model.lrn_constants.within_towers=False",
        False,
    ),
    "augment.min_area": (
        "--config.augment.min_area=0.25 --config.augment.crop=random_resized",
        0.25,
    ),
    "augment.extra": ("--config.augment.extra=cutout", ("cutout",)),
    "schedule.weights.target": (
        "--config.schedule.weights.target=8 --config.schedule.weights.kind=exp",
        8.0,
    ),
    "schedule.weights.drops": (
        "--config.schedule.weights.drops=(15.0,20.0) --config.schedule.weights.kind=epochs",
        (15.0, 20.0),
    ),
    "schedule.weights.warmup_epochs": ("--config.schedule.weights.warmup_epochs=2", 2.0),
    "optimizer.trust_ratio": (
        "--config.optimizer.trust_ratio=kernels --config.optimizer.kind=lars",
        "kernels",
    ),
    "train.split_dense": ("--config.train.split_dense", True),
    "optimizer.b2": ("--config.optimizer.b2=0.99 --config.optimizer.kind=adamw", 0.99),
}


@pytest.mark.parametrize("key", UNLISTED)
def test_a_key_with_a_default_that_the_file_does_not_list_can_be_set(key):
    override, value = UNLISTED[key]
    assert key not in files.flatten(json.loads(config.to_json(load())), ".")
    loaded = load(*override.split())
    found = functools.reduce(getattr, key.split("."), config.parse(loaded))
    assert found == value and type(found) is type(value)
    assert config.digest(loaded) != config.digest(load())
    assert config.parse(json.loads(config.to_json(loaded))) == config.parse(loaded)


def test_a_config_that_sets_no_new_key_keeps_its_digest():
    """Sweeps name their run folders by it. These do not list optimizer.bias_weight_decay, which is newer."""
    digests = {
        "krizhevsky2012.py": "2dfbbbdc909708d34be71ca0b6be95f7e23c2ddcf266700933e46e37dee37232",
        "scales.py:cifar10": "bacbb477462e53c847e1ad8d6f6f4ac4b1cf9c81942db830309d618cbc61cc96",
        "cifar10.py:80sec": "9d4206e27850cdda17678e5b1b86b7e1604a25563d4dd0ada516ed611f34daff",
        "quickstart.py": "d0013e3836a80b1b69ec0c0ea293bb42cc0f4ec0bad5343e9014550e75f04347",
    }
    found = {name: config.digest(load_anywhere(f"configs/{name}")) for name in digests}
    assert found == digests


def test_a_decay_of_biases_can_be_set_where_the_file_has_none():
    override = "--config.optimizer.bias_weight_decay=1e-3"
    loaded = config.load("configs/krizhevsky2012.py", [PATH, override])
    assert config.parse(loaded).optimizer.bias_weight_decay == 1e-3
    assert parse().optimizer.bias_weight_decay == parse().optimizer.weight_decay == 5e-4
    for name in ("krizhevsky2012.py", "caffe.py", "cifar10.py", "folder.py", "quickstart.py"):
        spec = config.parse(load_anywhere(f"configs/{name}"))
        assert spec.optimizer.bias_weight_decay == 0


def test_completed_lists_every_default_and_changes_nothing_else():
    setting, _ = UNLISTED["augment.min_area"]
    whole = json.loads(config.to_json(load(*setting.split())))
    completed = config.completed(whole)
    old, new = (files.flatten(tree, ".") for tree in (whole, completed))
    assert old.items() <= new.items()
    added = new.keys() - old.keys()
    # Their default is None.
    unset = {"data.workers", "train.min_steps", "train.patience", "train.init_from"}
    assert set(UNLISTED) - {"augment.min_area"} - unset <= added and not unset & added
    assert config.parse(completed) == config.parse(whole)


def test_a_tuple_is_written_whole_or_value_by_value():
    whole = load("--config.evaluation.final_views=('center', 'nine')")
    parts = load("--config.evaluation.final_views=center", "--config.evaluation.final_views=nine")
    assert whole.evaluation.final_views == parts.evaluation.final_views == ("center", "nine")


@pytest.mark.fault("F44")
@pytest.mark.usefixtures("without_xla_flags")
def test_faults_are_told_within_two_seconds_without_jax(tmp_path):
    program = (
        "import atexit, sys; atexit.register(lambda: print('jax' in sys.modules, flush=True));"
        "from alexnet_jax import cli, main; cli.run(main.main)"
    )
    faults = ["--config.model.lnr=False", "--config.train.batch_size=0", "--config.seed=-1"]
    begin = os.times()
    done = subprocess.run(
        [sys.executable, "-c", program, "--config", "tests/tiny.py", "--workdir",
         str(tmp_path / "w"), *faults], capture_output=True, text=True,
    )  # fmt: skip
    end = os.times()  # of the processor, which other tests use, too
    assert end.children_user + end.children_system - sum(begin[2:4]) < 2
    assert (done.returncode, done.stdout) == (2, "False\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith("alexnet: error[E_CONFIG]: ")
    assert all(
        key in line for key in ("config.model.lnr", "config.train.batch_size", "config.seed")
    )
    assert not (tmp_path / "w").exists()


@pytest.mark.fault("F44")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", r"SyntaxError: .*line 1"),
        ("import nothing_of_that_name", r"mine\.py, line 1: ModuleNotFoundError: No module"),
        ("\n\n1 / 0", r"mine\.py, line 3: ZeroDivisionError: division by zero"),
        ("def get_config():\n  return x", r"mine\.py, line 2: NameError: name 'x'"),
        ("def get_config():\n  assert False", r"mine\.py, line 2: AssertionError"),
        ("def get_config():\n  raise ValueError('one\\ntwo')", r"line 2: ValueError: one two$"),
        ("def get_config():\n  open('absent')", r"line 2: FileNotFoundError: .*'absent'"),
        ("raise SystemExit(0)", r"mine\.py, line 1: SystemExit: 0"),
        ("def get_config(name):\n  pass", r"mine\.py: TypeError: .*'name'"),
        ("", r"mine\.py must define get_config\(\), which returns a ConfigDict$"),
        ("get_config = 3", r"must define get_config\(\), which returns a ConfigDict$"),
        ("def get_config():\n  pass", r"returns a ConfigDict, not NoneType$"),
        ("def get_config():\n  return {}", r"returns a ConfigDict, not dict$"),
        ("\0", "mine.py: "),
        ("\xe9", "mine.py: "),
    ],
)
def test_a_broken_config_file_is_one_line(tmp_path, capfd, text, message):
    (tmp_path / "mine.py").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=message) as caught:
        config.load(str(tmp_path / "mine.py"), [])
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert caught.value.exit_code == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.fault("F44")
def test_a_config_file_that_is_not_python_is_one_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 0")
    with pytest.raises(ConfigError, match=r"mine\.yaml is not a Python file"):
        config.load(str(tmp_path / "mine.yaml"), [])


@pytest.mark.fault("F44")
def test_missing_config_file_is_one_line():
    with pytest.raises(ConfigError, match=r"no config file configs/papr.py"):
        config.load("configs/papr.py", [])
