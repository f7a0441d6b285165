"""Every value of the specs can be given on the command line, and one that would change nothing is refused."""

import dataclasses
import functools
import json
import types
import typing
from typing import Any

import pytest

from alexnet_jax import config, specs
from alexnet_jax.config import building, keys, no_effect, overrides
from alexnet_jax.errors import ConfigError
from configs import paper

PATH = "--config.data.path=images"


def load(*overrides: str, name: str = "configs/paper.py"):
    return config.load(name, list(overrides))


def parse(*overrides: str, name: str = "configs/paper.py"):
    return config.parse(load(*overrides, name=name), needs_images=False)


def leaves(kind: Any = specs.Config, path=()):
    """(key, type) of everything that a config can hold, by the dataclasses of specs.py; a row and an entry each."""
    for name, hint in keys.key_types(kind).items():
        place, required = (*path, name), keys.required(hint)
        if name in ("convs", "fcs"):
            row = typing.get_args(typing.get_args(required)[0])[1]
            yield from leaves(row, (*place, {"convs": "conv1", "fcs": "fc6"}[name]))
        elif dataclasses.is_dataclass(required):
            if keys.allows_none(hint):
                yield ".".join(place), hint
            yield from leaves(required, place)
        elif typing.get_origin(required) is dict:
            yield ".".join(place), hint
            yield ".".join((*place, "fc6")), typing.get_args(required)[1]
        else:
            yield ".".join(place), hint


LEAVES = dict(leaves())


def legal(hint) -> list[tuple[str, object]]:
    """Texts for a value of type `hint`, each with the value that it says."""
    found: list[tuple[str, object]] = [("None", None)] if keys.allows_none(hint) else []
    required = keys.required(hint)
    if required is bool:
        found += [("True", True), ("false", False)]
    elif required is int:
        found += [("7", 7), ("1e2", 100)]
    elif required is float:
        found += [("0.25", 0.25), ("1e-4", 1e-4), ("0.5", 0.5)]
    elif required is str:
        found += [("a b=c", "a b=c"), ("/data/with, comma's", "/data/with, comma's")]
    elif typing.get_origin(required) is typing.Literal:
        found += [(name, name) for name in typing.get_args(required)]
    elif typing.get_origin(required) is tuple:
        found += tuples(required)
    elif typing.get_origin(required) is dict:
        [(text, value), *_] = legal(typing.get_args(required)[1])
        shown = text if not isinstance(value, str) else repr(text)
        found += [("{}", {}), (f"{{'fc6': {shown}}}", {"fc6": value})]
    return found


def tuples(kind) -> list[tuple[str, object]]:
    of = typing.get_args(kind)
    if of[-1] is not Ellipsis:
        return [("(1, 2)", (1, 2)), ("[0, 3]", (0, 3))]
    inner = keys.required(of[0])
    if typing.get_origin(inner) is tuple:
        return [
            ("((20.0, 0.1), (30, 0))", ((20.0, 0.1), (30.0, 0.0))),
            ("((20, 0.1),)", ((20.0, 0.1),)),
            ("()", ()),
        ]
    text, value = legal(of[0])[-1]
    whole = repr((value,))
    return [(whole, (value,)), (text, (value,)), ("()", ()), (f"[{value!r}]", (value,))]


def value_of(spec, key: str):
    for part in key.split("."):
        if isinstance(spec, tuple):
            spec = dict(spec)
        name = {"then": "ops", "before": "pre_ops"}.get(part, part)
        spec = spec[part] if isinstance(spec, dict) else getattr(spec, name)
    return spec


def built(loaded):
    return building.build(loaded)


def filled():
    """The paper's config with a section of each kind that it leaves out, so that every leaf has a place."""
    loaded = paper.get_config().lock()
    with loaded.unlocked(), loaded.ignore_type():
        loaded.schedule.biases = loaded.schedule.weights.copy_and_resolve_references()
        loaded.schedule.layer_factors = {"fc6": ((20.0, 0.1),)}
        loaded.optimizer.layer_weight_decay = {"fc6": 0.0}
    return loaded


@pytest.mark.parametrize("key", LEAVES)
@pytest.mark.parametrize("listed", [True, False], ids=["listed", "unlisted"])
def test_every_leaf_of_the_specs_is_settable(key, listed):
    for text, value in legal(LEAVES[key]):
        loaded = filled()
        if not listed:
            *above, last = key.split(".")
            section = functools.reduce(lambda node, part: node[part], above, loaded)
            if last in section:
                with loaded.unlocked():
                    del section[last]
        assert overrides.set_value(loaded, key, [f"--config.{key}={text}"]) is None
        spec, faults = built(loaded)
        if faults:  # of numbers, 7 is no share, and 0.25 no count: the checks say so by the key
            assert all(f"config.{key}" in fault for fault in faults) and "must be" in faults[0]
            assert not isinstance(value, str | bool | None)
            continue
        found = value_of(spec, key)
        assert found == value and type(found) is type(value), text


def test_a_legal_value_of_every_leaf_is_among_those_tried():
    for key, hint in LEAVES.items():
        loaded, good = filled(), 0
        for text, _ in legal(hint):
            overrides.set_value(loaded, key, [f"--config.{key}={text}"])
            good += not built(loaded)[1]
        assert good, key


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["schedule.biases.learning_rate=0.02"], "schedule.biases.learning_rate", 0.02),
        (["schedule.biases=None"], "schedule.biases", None),
        (["schedule.layer_factors.conv1=((20, 0.1),)"], "schedule.layer_factors.conv1", ((20.0, 0.1),)),
        (["schedule.layer_factors={}"], "schedule.layer_factors", {}),
        (["optimizer.layer_weight_decay.fc6=0.0"], "optimizer.layer_weight_decay.fc6", 0.0),
        (["optimizer.weight_decay=1e-4"], "optimizer.weight_decay", 1e-4),
        (["train.max_steps=None"], "train.max_steps", None),
        (["train.max_steps=1e4"], "train.max_steps", 10_000),
        (["schedule.weights.drops=(15)"], "schedule.weights.drops", (15.0,)),
        (["schedule.weights.drops=15", "schedule.weights.drops=2e1"], "schedule.weights.drops", (15.0, 20.0)),
        (["model.convs.conv3.then=act"], "model.convs.conv3.then", ("act",)),
        (["model.convs.conv5.pool=None", "model.convs.conv5.then=act"], "model.convs.conv5.pool", None),
        (["data.path=a folder=b"], "data.path", "a folder=b"),
    ],
)  # fmt: skip
def test_values_reach_the_specs(overrides, key, value):
    spec = parse(*(f"--config.{one}" for one in overrides), name="configs/krizhevsky2012.py")
    assert value_of(spec, key) == value


def test_a_section_that_is_none_is_made_key_by_key():
    made = ["kind=epochs", "learning_rate=0.02", "drops=(20.0,)"]
    spec = parse(*(f"--config.schedule.biases.{one}" for one in made))
    assert spec.schedule.biases == specs.RateSpec("epochs", 0.02, drops=(20.0,))
    pool = ["kind=max", "window=2", "stride=1", "rounding=floor"]
    then = "--config.model.convs.conv3.then=('act', 'pool')"
    spec = parse(then, *(f"--config.model.convs.conv3.pool.{one}" for one in pool))
    assert dict(spec.model.convs)["conv3"].pool == specs.PoolSpec("max", 2, 1, "floor")
    with pytest.raises(ConfigError, match=r"missing key config.schedule.biases.kind"):
        parse("--config.schedule.biases.learning_rate=0.02")


def test_a_value_that_a_file_has_already_changes_no_digest():
    for same in ("--config.train.epochs=90", "--config.schedule.biases=None", "--config.seed=0"):
        assert config.digest(load(same)) == config.digest(load())


@pytest.mark.fault("F44")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size=abc", "config.train.batch_size=abc: must be an integer"),
        ("train.batch_size=1.5", "config.train.batch_size=1.5: must be an integer"),
        ("train.batch_size=None", "config.train.batch_size is None but needs a value"),
        ("train.batch_size", "needs a value: --config.train.batch_size=VALUE"),
        ("train.epochs=1/2", "config.train.epochs=1/2: must be a number"),
        ("train.epochs=nan", "config.train.epochs must be a finite number"),
        ("train.exact=maybe", "config.train.exact=maybe: must be True or False"),
        ("model.convs.conv2.pad=(1,", "config.model.convs.conv2.pad=(1,: must be a tuple"),
        ("model.convs.conv2.pad=(1,)", "config.model.convs.conv2.pad needs 2 values, not 1"),
        ("model=3", "config.model=3: is a section: set one of its keys"),
        ("model.convs.conv9.pad=3", "unknown key config.model.convs.conv9"),
        ("schedule.layer_factors.conv6=((1, 0),)", "conv6: the model has no such layer"),
        ("schedule.layer_factors.conv1=often", "config.schedule.layer_factors.conv1=often: must be a tuple"),
        ("schedule.layer_factors.conv1.x=1", "unknown key config.schedule.layer_factors.conv1.x"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_that_names_the_key(override, message):
    with pytest.raises(ConfigError) as caught:
        parse(f"--config.{override}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_only_a_switch_takes_no():
    assert parse("--noconfig.augment.flip").augment.flip is False
    with pytest.raises(ConfigError, match=r"--config\.seed=VALUE"):
        parse("--noconfig.seed")


# Overrides that make the last one idle -> what is said.
IDLE = {
    ("optimizer.kind=adamw", "optimizer.momentum=0.9"): "optimizer.kind=momentum and lars; adam and adamw have b1",
    ("optimizer.trust_coefficient=0.01",): "optimizer.kind=lars",
    ("optimizer.trust_ratio=kernels",): "optimizer.kind=lars",
    ("schedule.weights.kind=linear", "schedule.weights.power=1.0"): "the kind poly",
    ("optimizer.b1=0.8",): "optimizer.kind=adam and adamw",
    ("optimizer.b2=0.8",): "optimizer.kind=adam and adamw",
    ("optimizer.epsilon=1e-7",): "optimizer.kind=adam and adamw",
    ("schedule.weights.kind=cosine", "schedule.weights.factor=0.5"): "plateau and epochs",
    ("schedule.weights.kind=epochs", "schedule.weights.patience=3"): "the kind plateau",
    ("schedule.weights.kind=epochs", "schedule.weights.max_drops=3"): "the kind plateau",
    ("schedule.weights.kind=epochs", "schedule.weights.min_improvement=0.1"): "the kind plateau",
    ("schedule.weights.kind=cosine", "schedule.weights.drops=(1.0,)"): "the kind epochs",
    ("schedule.weights.target=8",): "exp, dexp and linear",
    ("schedule.weights.plateaus=8",): "the kind dexp",
    ("schedule.biases.kind=cosine", "schedule.biases.learning_rate=0.1", "schedule.bias_factor=3"): "schedule.biases",
    ("model.batch_norm.momentum=0.9",): "no layer has 'batch_norm'",
    ("model.spatial_norm.size=3",): "no layer has 'spatial_norm'",
    ("model.convs.conv1.then=('act', 'pool')", "model.convs.conv2.then=('act', 'pool')",
     "model.lrn_constants.k=1"): "no layer has 'lrn'",
    ("model.towers=1", "model.convs.conv2.groups=1", "model.convs.conv4.groups=1", "model.convs.conv5.groups=1",
     "model.lrn_constants.within_towers=False"): "two towers or more",
    ("model.fcs.fc6.then=act", "model.fcs.fc7.then=act", "model.dropout.rate=0.3"): "no layer has 'dropout'",
    ("model.dropout.rate=0", "model.dropout.scale_at=train"): "a rate above 0",
    ("model.dropout.rate=0", "train.exact=False"): "a rate above 0",
    ("model.init=he", "model.convs.conv1.init_std=0.1"): "model.init=gaussian",
    ("model.convs.conv5.then=act", "model.convs.conv5.pool.window=2"): "no 'pool' in `then`",
    ("model.convs.conv1.then=lrn", "model.convs.conv2.then=lrn", "model.convs.conv3.then=lrn",
     "model.convs.conv4.then=lrn", "model.convs.conv5.then=lrn", "model.fcs.fc6.then=dropout",
     "model.fcs.fc7.then=dropout", "model.activation=tanh"): "no layer has 'act'",
    ("augment.min_area=0.5",): "augment.crop=random_resized",
    ("augment.crop=center", "augment.flip=False", "augment.crop_chunk=32"): "crops have no random numbers",
    ("augment.color_std=0", "augment.color_basis=std"): "no color noise",
    ("augment.color_std=0", "augment.color_rescale=True"): "no color noise",
    ("augment.color_std=0", "augment.color_off_epoch=3"): "no color noise",
    ("data.name=imagenet2012",): "data.source=tfds",
    ("data.source=digits", "data.path=mine"): "--config.data.source=folder",
}  # fmt: skip


@pytest.mark.fault("F44")
@pytest.mark.parametrize("overrides", IDLE, ids=lambda overrides: overrides[-1])
def test_a_given_key_that_changes_nothing_is_refused(overrides):
    given = [f"--config.{one}" for one in overrides]
    key = overrides[-1].partition("=")[0]
    with pytest.raises(ConfigError) as caught:
        load(*given)
    assert f"config.{key} would change nothing: " in str(caught.value)
    assert IDLE[overrides] in str(caught.value)
    if "adam" not in str(given):  # with its decays, which paper.py has
        load(*given[:-1])


def test_every_effect_has_a_case():
    for effect in no_effect.EFFECTS:
        given = [overrides[-1].partition("=")[0] for overrides in IDLE]
        assert any(no_effect.fnmatchcase(key, effect.pattern) for key in given), effect.pattern


def test_keys_that_change_nothing_are_named_together():
    with pytest.raises(ConfigError) as caught:
        load("--config.augment.color_std=0", "--config.augment.color_basis=std",
             "--config.augment.color_off_epoch=3", "--config.optimizer.b1=0.8")  # fmt: skip
    text = str(caught.value)
    assert "config.augment.color_basis, config.augment.color_off_epoch would change nothing" in text
    assert "config.optimizer.b1 would change nothing" in text and "\n" not in text


def test_what_a_config_inherits_may_have_no_effect():
    """Switches leave the constants of what they switch off, and so may the command line."""
    parse(name="configs/flowers17.py:batchnorm")
    parse("--config.model.lrn=False")
    parse("--config.model.lrn=False", "--config.model.lrn_constants.n=3")
    parse("--config.augment.color_std=0.0")


def test_adam_has_no_decay_and_adamw_has():
    given = ("--config.optimizer.kind=adam", "--config.optimizer.weight_decay=0")
    with pytest.raises(
        ConfigError, match=r"adam has no weight decay, but bias_weight_decay=0.0005; .*adamw"
    ):
        load(*given)
    assert parse(*given, "--config.optimizer.bias_weight_decay=0").optimizer.kind == "adam"
    found = parse("--config.optimizer.kind=adamw", "--config.optimizer.b1=0.8").optimizer
    assert (found.kind, found.b1, found.b2, found.epsilon) == ("adamw", 0.8, 0.999, 1e-8)


def test_adam_with_a_decay_of_an_older_folder_is_adamw():
    tree = json.loads(config.to_json(load()))
    tree["optimizer"]["kind"] = "adam"
    assert config.parse(tree, needs_images=False).optimizer.kind == "adamw"
    assert (
        config.completed(tree)["optimizer"]["kind"] == "adamw"
    )  # so that it is resumed by what it is called now
    tree["optimizer"] |= {"weight_decay": 0.0, "bias_weight_decay": 0.0}
    assert config.parse(tree, needs_images=False).optimizer.kind == "adam"


def test_types_of_all_leaves_are_known_to_the_test():
    known = {bool, int, float, str, typing.Literal, tuple, dict}
    for key, hint in LEAVES.items():
        required = keys.required(hint)
        is_section = dataclasses.is_dataclass(required) and isinstance(hint, types.UnionType)
        assert is_section or (typing.get_origin(required) or required) in known, key
