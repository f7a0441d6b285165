"""The tiny net with random weights, the synthetic images it knows, and what it answers to them."""

import json

import jax
import numpy as np
import pytest

from alexnet_jax import config
from alexnet_jax.data import sources
from alexnet_jax.data.pipeline import statistics
from alexnet_jax.inference import network, trained, weights
from alexnet_jax.inference.network import Network


@pytest.fixture(scope="session")
def net():
    tree = config.load("tests/tiny.py", [])
    spec = config.with_classes(config.parse(tree), 10)
    generator, params = np.random.default_rng(0), {}
    for name, shape in weights.shapes(spec).items():
        _, row, array = name.split("/")
        # Wide enough for logits that differ.
        params.setdefault(row, {})[array] = generator.normal(0, 0.15, shape).astype(np.float32)
    means = statistics.zeros(16)
    means = means._replace(mean_image=np.full_like(means.mean_image, 100.0))
    names = tuple(f"{direction}-{hue}" for direction in ("rows", "columns") for hue in range(5))
    return Network(trained.TrainedModel(spec, json.loads(config.to_json(tree)), 7, params, {}, means, names))


@pytest.fixture(scope="session")
def weights_file(net, tmp_path_factory):
    return trained.save(tmp_path_factory.mktemp("weights") / "tiny.safetensors", net.trained)


@pytest.fixture(autouse=True)
def loaded_once(net, monkeypatch):
    """Commands take `net` itself, so that what it has compiled is not compiled again."""
    monkeypatch.setattr(network, "load", lambda path, step: net)


@pytest.fixture(scope="session")
def splits(net):
    return sources.open_dataset(net.trained.config.data, 0).splits


@pytest.fixture(scope="session")
def pixels(splits):
    return splits["test"].images[:5]


@pytest.fixture(scope="session")
def forward(net):
    """f(inputs float32 [n c c 3]) -> all features, compiled once for each n."""
    variables = net.variables
    return jax.jit(lambda inputs: net.model.apply(variables, inputs, train=False)[1])


@pytest.fixture(scope="session")
def answers(net, splits, forward):
    """The features of all images of 'test', as NumPy arrays."""
    return jax.device_get(forward(net.inputs(splits["test"].images)[:, 0]))
