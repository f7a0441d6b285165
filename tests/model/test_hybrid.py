"""Convolutions split over the batch and fully-connected layers over units: the same net, to rounding."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from alexnet_jax import config, main
from alexnet_jax.errors import ConfigError
from alexnet_jax.evaluation import evaluate
from alexnet_jax.inference import trained as trained_model
from alexnet_jax.model import mesh as parallel
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.specs import Config
from alexnet_jax.train import checkpoint, prepare, state
from bench import ours
from tests import tiny
from tests.model import learning


def paper_rule(net):
    """The ten classes do not divide over four devices, so each computes the last layer for its own examples."""


def divided_classes(net):
    net.model.num_classes = 12


def three_dense_layers(net):
    fcs = net.model.fcs.to_dict()
    net.model.fcs = dict(fc6=fcs["fc6"], fc7=dict(fcs["fc6"], features=24), fc8=fcs["fc7"])


def lars(net):
    divided_classes(net)
    net.optimizer.kind = "lars"


def adam(net):
    divided_classes(net)
    net.optimizer.kind = "adam"


def batch_norm(net):
    net.model.fcs.fc6.update(before=("batch_norm",), then=("batch_norm", "act", "dropout"))


def dropout_before(net):
    net.model.fcs.fc6.update(before=("dropout",), then=("act",))
    net.model.fcs.fc7.before = ("dropout",)


def two_parts(net):
    divided_classes(net)
    net.train.accumulate = 2


def hybrid(spec: Config):
    return dataclasses.replace(spec, train=dataclasses.replace(spec.train, split_dense=True))


@pytest.mark.parametrize(
    "change",
    [
        paper_rule,
        *(
            pytest.param(change, marks=pytest.mark.full)
            for change in (
                lars,
                divided_classes,
                three_dense_layers,
                adam,
                batch_norm,
                dropout_before,
                two_parts,
            )
        ),
    ],
)
def test_split_units_learn_what_whole_layers_do(change):
    net = tiny.get_config()
    change(net)
    spec = config.parse(net)
    split = learning.learn(hybrid(spec), 4, steps=6)
    learning.assert_same(split, learning.learn(spec, 1, steps=6))


def test_each_device_holds_its_units_and_all_convolutions():
    spec = hybrid(config.parse(tiny.get_config()))
    mesh = parallel.device_mesh(jax.devices()[:4])
    made = state.create(spec, AlexNet(spec.model), 0, mesh=mesh)
    for tree in (made.params, made.opt_state):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            part = leaf.addressable_shards[0].data.size
            assert part * (4 if "fc6" in str(path) else 1) == leaf.size


def test_a_checkpoint_goes_on_in_either_form(tmp_path):
    whole = config.parse(tiny.get_config())
    split, model, statistics = hybrid(whole), AlexNet(whole.model), ours.statistics(whole)
    layouts = [
        (split, parallel.device_mesh(jax.devices()[:4])),
        (split, parallel.device_mesh(jax.devices()[:2])),
        (whole, parallel.device_mesh(jax.devices()[:1])),
        (split, parallel.device_mesh(jax.devices()[:4])),
    ]
    first = saved = state.create(split, model, 3, mesh=layouts[0][1])
    meta: dict = {}
    for number, (spec, mesh) in enumerate(layouts):
        folder = tmp_path / str(number)
        checkpoint.save(folder, jax.device_get(saved), statistics, meta)
        current = state.create(spec, model, 4, mesh=mesh)
        saved = checkpoint.restore(folder, 0, current)
        for one, other, like in zip(*map(jax.tree.leaves, (saved, first, current)), strict=True):
            assert np.array_equal(np.asarray(one), np.asarray(other))
            assert getattr(one, "sharding", None) == getattr(like, "sharding", None)


@pytest.mark.full
def test_a_run_of_lars_is_resumed_exactly_and_whole(tmp_path, capsys):
    """On the four devices of the tests, stopped in the warm-up; a net that was split goes on whole, to rounding."""
    common = ["--config", "tests/tiny.py", "--config.optimizer.kind=lars",
              "--config.schedule.weights.learning_rate=2.0", "--config.schedule.weights.warmup_epochs=3"]  # fmt: skip
    starts = {
        "straight": [["--config.train.max_steps=10"]],
        "resumed": [["--config.train.max_steps=6"], ["--config.train.max_steps=10"]],
        "split": [
            ["--config.train.max_steps=6", "--config.train.split_dense=True"],
            ["--config.train.max_steps=10"],
        ],
    }
    params, found = {}, {}
    for name, arguments in starts.items():
        folder = tmp_path / name
        for more in arguments:
            assert main.main([*common, "--workdir", str(folder), *more]) == 0
        capsys.readouterr()
        evaluate.main(["--workdir", str(folder), "--split", "test", "--json"])
        found[name] = json.loads(capsys.readouterr().out)["splits"]["test"]["center"]["nll"]
        params[name] = jax.tree.leaves(trained_model.load(folder).params)
    for one, other in zip(params["straight"], params["resumed"], strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(params["straight"], params["split"], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    assert found["resumed"] == found["straight"]
    assert found["split"] == pytest.approx(found["straight"], rel=1e-4)


def test_what_does_not_divide_is_refused():
    split = "--config.train.split_dense=True"
    for override, said in (
        ("--config.train.split_towers=True", "split_dense: split_towers splits them already"),
        ("--config.model.fcs.fc6.groups=2", "split_dense: layer fc6 has 2 groups"),
    ):
        with pytest.raises(ConfigError, match=said):
            config.parse(config.load("tests/tiny.py", [split, override]))
    overrides = [split, "--config.model.fcs.fc6.features=18"]
    spec = config.parse(config.load("tests/tiny.py", overrides))
    with pytest.raises(ConfigError, match="layer fc6 has 18 units, which is not a multiple of 4"):
        prepare.check_devices(spec)


def test_the_memory_of_a_device_is_that_of_its_part():
    spec = config.parse(tiny.get_config())
    made = prepare.state_shapes(spec)
    whole, split = (prepare._bytes_per_device(one, made) for one in (spec, hybrid(spec)))
    fc6 = sum(leaf.size for leaf in jax.tree.leaves(made.params["fc6"]))
    assert whole - split == 4 * 2 * fc6 * 3 // 4  # parameters and momentum
