"""The example computes what the package computes, and stays one short file that needs little."""

import ast
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax import config as configs
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline.batches import Batch
from alexnet_jax.data.pipeline.statistics import zeros
from alexnet_jax.model import alexnet
from alexnet_jax.model import mesh as parallel
from alexnet_jax.specs import Config
from alexnet_jax.train import optimizer, schedule, state, step
from configs import cifar10, paper
from examples import alexnet as example

#: Smaller images than the paper's: here, too, the last kernel of conv1 reaches 3 pixels over the edge.
SIZE, EXAMPLES = 92, 4
#: The paper's network with an eighth of the maps, and weights so large that its logits differ.
NARROW = example.AlexNet(10, (12, 32, 48, 48, 32), units=64, init_std=0.05)


def paper_spec(net: example.AlexNet) -> Config:
    """configs/paper.py with the widths of `net`, on whole images: nothing is drawn but dropout."""
    config = paper.get_config()
    config.model.num_classes = net.classes
    for layer, maps in zip(config.model.convs.values(), net.maps, strict=True):
        layer.features = maps
    config.model.fcs.fc6.features = config.model.fcs.fc7.features = net.units
    config.data.path = "unused"
    config.data.image_size = config.augment.crop_size = SIZE
    config.augment.flip = False
    config.augment.color_std = 0.0
    config.train.batch_size = EXAMPLES
    return configs.parse(config)


@pytest.fixture(scope="module")
def params():
    images = np.zeros((1, SIZE, SIZE, 3), np.float32)
    return jax.jit(NARROW.init)(jax.random.key(1), images)["params"]


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = np.random.default_rng(2)
    return Batch(
        images=generator.integers(0, 256, (EXAMPLES, SIZE, SIZE, 3)).astype(np.uint8),
        labels=np.arange(EXAMPLES, dtype=np.int32),
        indices=np.arange(EXAMPLES, dtype=np.int32),
        epochs=np.zeros(EXAMPLES, np.int32),
    )


def assert_close(actual, expected):
    """Equal to float32 rounding, measured by the largest value of each array."""

    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())

    jax.tree.map(check, actual, jax.device_get(expected))


def test_it_is_one_file_of_200_lines_with_few_imports():
    text = Path(example.__file__).read_text()
    assert len(text.splitlines()) <= 200
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    packages = {name.partition(".")[0] for name in imported}
    assert packages - sys.stdlib_module_names == {"flax", "jax", "numpy", "optax", "sklearn"}


def test_its_default_is_the_network_of_the_paper():
    net, shapes = example.AlexNet(), {}
    spec = paper_spec(net)
    for side in (224, 227):
        images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        shapes[side] = jax.eval_shape(net.init, jax.random.key(0), images)["params"]
    expected = jax.eval_shape(
        lambda key: alexnet.init(alexnet.from_config(spec), key, 224)["params"], jax.random.key(0)
    )
    assert shapes[224] == shapes[227] == expected
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes[224])) == 60_965_224


def test_initial_biases_are_those_of_the_config(params):
    spec = paper_spec(NARROW)
    for name, layer in (*spec.model.convs, *spec.model.fcs):
        assert set(np.unique(params[name]["bias"])) == {layer.bias}
    assert {layer.init_std for _, layer in (*spec.model.convs, *spec.model.fcs)} == {
        example.AlexNet().init_std
    }


def test_logits_are_those_of_the_package(params, batch):
    images = batch.images.astype(np.float32) - 100
    model = alexnet.from_config(paper_spec(NARROW))
    expected, _ = jax.jit(lambda p, x: model.apply({"params": p}, x, train=False))(params, images)
    actual = jax.jit(lambda p, x: NARROW.apply({"params": p}, x))(params, images)
    assert np.std(expected) > 0.1
    assert_close(actual, expected)


def first_state(spec: Config, params) -> state.State:
    """The package's state before the first step, with these parameters."""
    opt_state = jax.jit(optimizer.build(spec.optimizer).init)(params)
    return state.State(np.int32(0), params, opt_state, {}, schedule.create())


def test_two_training_steps_are_those_of_the_package(params, batch):
    spec = paper_spec(NARROW)
    model = alexnet.from_config(spec)
    statistics = zeros(SIZE)
    statistics = statistics._replace(mean_image=np.full_like(statistics.mean_image, 100))
    images = batch.images.astype(np.float32) - 100

    @jax.jit
    def masks_of(params, number):
        """Which units the package keeps in step `number`, [2 b units]; those at 0 may be either."""
        key = jax.random.fold_in(state.stream(spec.seed, state.DROPOUT), number)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(EXAMPLES))
        variables = {"params": params}
        _, features = model.apply(variables, images, train=True, example_keys=keys)
        return [features[f"{layer}/dropout"] != 0 for layer in ("fc6", "fc7")]

    @jax.jit
    def example_step(params, velocity, masks):
        """`train_step` with these units kept in place of those that its key would draw."""
        unused, rest = jax.random.key(0), iter(masks)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(example, "dropout", lambda x, key: jnp.where(next(rest), x, 0))
            arguments = (images, batch.labels, unused, example.LEARNING_RATE)
            return example.train_step.__wrapped__(NARROW, params, velocity, *arguments)

    package_step = step.make_train_step(
        spec, model, statistics, parallel.device_mesh(jax.devices()[:1])
    )
    rates = schedule.rates(spec, 0.0, schedule.create(), spec.train.epochs)
    package = jax.tree.map(np.asarray, first_state(spec, params))  # the step takes its buffers
    own, velocity = params, jax.tree.map(np.zeros_like, params)
    for number in range(2):
        masks = masks_of(own, number)
        package, metrics = package_step(package, batch, rates)
        before = own
        own, velocity, loss = example_step(own, velocity, masks)
        np.testing.assert_allclose(loss, metrics["loss"], rtol=1e-5)
        assert_close(own, package.params)
        assert_close(velocity, optax.tree.get(package, "trace"))
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), *jax.device_get((own, before)))
        assert min(jax.tree.leaves(moved)) > 0


def test_cifar10_is_read_as_the_package_reads_it(tmp_path):
    generator = np.random.default_rng(3)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        records = generator.integers(0, 256, (3, 3073)).astype(np.uint8)
        records[:, 0] %= 10
        records.tofile(tmp_path / name)
    config = cifar10.get_config()
    config.data.path = str(tmp_path)
    expected = sources.open_dataset(configs.parse(config).data, 0).splits
    images, labels, test_images, test_labels = example.cifar10(tmp_path)
    np.testing.assert_array_equal(images, expected["train"].images[np.arange(15)])
    np.testing.assert_array_equal(labels, expected["train"].labels)
    np.testing.assert_array_equal(test_images, expected["test"].images[np.arange(3)])
    np.testing.assert_array_equal(test_labels, expected["test"].labels)


def test_it_trains_and_ends_with_an_error(capsys):
    example.main(["--epochs", "1"])
    *_, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"test error \d+\.\d %", last)
