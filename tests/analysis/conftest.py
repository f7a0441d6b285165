import json

import jax
import numpy as np
import pytest

from alexnet_jax import config, weights, workdir
from alexnet_jax.data import statistics
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.network import Network
from alexnet_jax.training import state


@pytest.fixture(scope="session")
def net():
    """The tiny net with random weights, large enough that its answers differ; its data are synthetic."""
    tree = config.load("tests/tiny.py", [])
    spec = config.with_classes(config.parse(tree), 10)
    made = state.create(spec, AlexNet(spec.model), 0)
    params = jax.tree.map(lambda leaf: 4 * np.asarray(leaf), made.params)
    means = statistics.zeros(16)
    means = means._replace(mean_image=np.full_like(means.mean_image, 100.0))
    names = tuple(f"{direction}-{hue}" for direction in ("rows", "columns") for hue in range(5))
    return Network(workdir.Run(spec, json.loads(config.to_json(tree)), 7, params, {}, means, names))


@pytest.fixture(scope="session")
def weights_file(net, tmp_path_factory):
    return weights.save(tmp_path_factory.mktemp("weights") / "tiny.safetensors", net.run)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
