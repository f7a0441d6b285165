"""§3.2 on devices of their own: the same net, to rounding, as both towers on one."""

import functools

import jax
import numpy as np
import pytest

from alexnet_jax import config
from alexnet_jax.errors import ConfigError
from alexnet_jax.kernels import normalization, windows
from alexnet_jax.model import geometry
from alexnet_jax.model import mesh as parallel
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.towers import LayerSharding
from alexnet_jax.train import checkpoint, state
from bench import ours
from tests import tiny
from tests.model import learning


def paper_rule(net):
    pass


def batch_norm(net):
    net.model.convs.conv1.then = ("act", "batch_norm", "pool")
    net.model.fcs.fc6.update(then=("act", "batch_norm", "dropout"))


def adam(net):
    net.optimizer.kind = "adam"


def no_communication(net):
    """Not even in the last row, whose classes are divided."""
    net.model.fcs.fc6.groups = 2
    net.model.fcs.fc7.groups = 2


def lrn_over_all_maps(net):
    """With four maps a tower; an even window sees two maps of the tower before, one of that behind."""
    net.model.lrn_constants.update(n=4, alpha=1e-2, within_towers=False)


def dropout_before(net):
    net.model.fcs.fc6.update(before=("dropout",), then=("act",))
    net.model.fcs.fc7.update(before=("dropout",))


def grouped_dropout_before(net):
    no_communication(net)
    dropout_before(net)


@pytest.mark.parametrize(
    "change",
    [
        paper_rule,
        *(
            pytest.param(change, marks=pytest.mark.full)
            for change in (
                lrn_over_all_maps,
                no_communication,
                batch_norm,
                adam,
                dropout_before,
                grouped_dropout_before,
            )
        ),
    ],
)
def test_towers_apart_learn_what_towers_together_do(change):
    net = tiny.get_config()
    change(net)
    spec = config.parse(net)
    apart = learning.learn(spec, 4, towers=2, steps=10)
    learning.assert_same(apart, learning.learn(spec, 1, steps=10))


CONSTANTS = dict(k=1.5, alpha=0.3, beta=0.75)


@pytest.mark.parametrize("towers", [2, 4])
def test_lrn_over_all_maps_and_its_gradient_are_those_of_one_device(towers):
    """Of windows up to as wide as a tower's maps on either side; in between, both neighbors lend some."""
    shape, sizes = (2, 3, 3, 4 * towers), (1, 2, 4, 5, 7)
    x, cotangent = np.random.default_rng(towers).normal(size=(2, *shape)).astype(np.float32)
    mesh = parallel.device_mesh(jax.devices()[:towers], towers)
    place = jax.P(None, None, None, parallel.TOWER)

    def whole(n, x, towers=1):
        return normalization.local_response_normalization(x, n=n, towers=towers, **CONSTANTS)

    def apart(n, x):
        def part(x):
            reach = windows.lrn_reach(n)
            return LayerSharding(towers).with_neighbors(functools.partial(whole, n), x, *reach)

        return jax.shard_map(part, mesh=mesh, in_specs=place, out_specs=place, check_vma=False)(x)

    def with_gradients(normalize):
        """The output and the gradient for each window, in one program."""

        @jax.jit
        def run(x, cotangent):
            found = []
            for n in sizes:
                y, pull = jax.vjp(functools.partial(normalize, n), x)
                found.append((y, pull(cotangent)[0]))
            return found

        return jax.device_get(run(x, cotangent))

    def within(x):
        return [whole(n, x, towers) for n in sizes]

    expected, ending = with_gradients(whole), jax.device_get(jax.jit(within)(x))
    for n, one, other, ends in zip(sizes, with_gradients(apart), expected, ending, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6, err_msg=str(n))
        if n > 1:  # and not those of windows that end with their tower
            assert np.abs(ends - other[0]).max() > 1e-2


def new_state(devices, seed):
    spec = config.parse(tiny.get_config())
    mesh = parallel.device_mesh(jax.devices()[:devices], devices)
    return state.create(spec, AlexNet(spec.model), seed, mesh=mesh)


@pytest.fixture(scope="module")
def apart():
    return new_state(2, 3)


def test_each_device_holds_half_of_a_tower_net_but_for_the_last_row(apart):
    for tree in (apart.params, apart.opt_state):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            part = leaf.addressable_shards[0].data.size
            assert part * (1 if "fc7" in str(path) else 2) == leaf.size


def test_a_checkpoint_goes_on_in_either_form(apart, tmp_path):
    statistics = ours.statistics(config.parse(tiny.get_config()))
    together = new_state(1, 4)
    for saved, name in ((apart, "apart"), (together, "together")):
        checkpoint.save(tmp_path / name, jax.device_get(saved), statistics, {})
        for like in (apart, together):
            restored = checkpoint.restore(tmp_path / name, 0, like)
            leaves = map(jax.tree.leaves, (restored, saved, like))
            for one, other, place in zip(*leaves, strict=True):
                assert np.array_equal(np.asarray(one), np.asarray(other))
                assert getattr(one, "sharding", None) == getattr(place, "sharding", None)


def test_crossings_of_the_paper():
    spec = config.parse(config.load("configs/paper.py", ["--config.data.path=unused"]))
    found = geometry.crossings(spec.model, 224, 1000)
    assert found == [
        ("conv3", 13 * 13 * 256, 13 * 13 * 256),
        ("fc6", 6 * 6 * 256, 6 * 6 * 256),
        ("fc7", 4096, 4096),
        ("fc8", 4096, 0),
    ]


def test_lrn_over_all_maps_crosses_at_its_borders():
    override = "--config.model.lrn_constants.within_towers=False"
    found = config.parse(config.load("configs/paper.py", ["--config.data.path=unused", override]))
    crossings = geometry.crossings(found.model, 224, 1000)
    assert [c for c in crossings if "lrn" in c.name] == [
        ("conv1/lrn", 55 * 55 * 4, 55 * 55 * 4),
        ("conv2/lrn", 27 * 27 * 4, 27 * 27 * 4),
    ]
    assert [c.name for c in crossings] == ["conv1/lrn", "conv2/lrn", "conv3", "fc6", "fc7", "fc8"]
    pooled = config.parse(
        config.load(
            "configs/paper.py",
            ["--config.data.path=unused", override, "--config.model.lrn_constants.n=4",
             "--config.model.convs.conv1.then=('act', 'pool', 'lrn')"],
        )
    )  # fmt: skip
    assert geometry.crossings(pooled.model, 224, 1000)[0] == (
        "conv1/lrn",
        27 * 27 * 3,
        27 * 27 * 3,
    )


def test_windows_that_reach_beyond_the_next_tower_are_refused_apart_alone():
    wide = ["--config.model.lrn_constants.n=11"]
    apart = ["--config.train.split_towers=True"]
    across = ["--config.model.lrn_constants.within_towers=False"]
    for arguments in (wide + apart, wide + across, apart + across):
        config.parse(config.load("tests/tiny.py", arguments))
    without = ["--config.model.lrn=False"]
    config.parse(config.load("tests/tiny.py", wide + apart + across + without))
    with pytest.raises(
        ConfigError,
        match=r"split_towers: layer conv1 has 4 maps per tower, .* extend 5 maps into the next tower$",
    ):
        config.parse(config.load("tests/tiny.py", wide + apart + across))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--config.model.towers=1", "--config.model.convs.conv2.groups=1"], "the net has 1 tower"),
        (["--config.model.convs.conv2.groups=4", "--config.model.towers=8"], "4 groups"),
        (["--config.model.fcs.fc6.features=15"], "layer fc6 has 15 features"),
        (["--config.model.fcs.fc6.before=('batch_norm',)"], "layer fc6 normalizes"),
    ],
)
def test_nets_without_towers_to_put_apart_are_refused(arguments, said):
    arguments = ["--config.train.split_towers=True", *arguments]
    with pytest.raises(ConfigError, match=f"config.train.split_towers: .*{said}"):
        config.parse(config.load("tests/tiny.py", arguments))
