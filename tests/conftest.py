"""Four virtual CPU devices, one compilation cache for all runs of the tests, and the record of `make reliability`."""

import atexit
import collections
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before JAX is imported anywhere.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "4"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ["MPLBACKEND"] = "Agg"
os.environ["ALEXNET_JAX_CACHE"] = tempfile.mkdtemp(prefix="alexnet-jax-tests-")
# Started in the background of a shell, tests would hand on to what they start that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(shutil.rmtree, os.environ["ALEXNET_JAX_CACHE"], ignore_errors=True)


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="the longest tests too")
    parser.addoption("--record", metavar="JSON", help="write what each fault and figure came to")


def pytest_configure(config):
    config.scoreboard = {"faults": {}, "figures": collections.Counter()}


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        long = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    # Tests of a file share what they compiled, those of reliability/ a starter: one worker has them.
    for item in items:
        group = "starts" if "reliability" in item.path.parts else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    if config.getoption("--record"):
        items[:] = [item for item in items if item.get_closest_marker("fault")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" or report.outcome != "passed":
        for mark in item.iter_markers("fault"):
            for code in mark.args:
                counts = item.config.scoreboard["faults"].setdefault(code, {})
                counts[report.outcome] = counts.get(report.outcome, 0) + 1
    return report


def pytest_sessionfinish(session):
    path = session.config.getoption("--record")
    if path:
        from tests.reliability import record

        record.write(Path(path), session.config.scoreboard)


@pytest.fixture
def figures(request) -> collections.Counter:
    """Figures that go to the record of `make reliability`, by name."""
    return request.config.scoreboard["figures"]


@pytest.fixture(scope="session")
def two_nets(tmp_path_factory) -> tuple[Path, Path]:
    """Weights files of the tiny net, with random weights so large that the answers differ, of seeds 0 and 1."""
    import json

    import jax
    import numpy as np

    from alexnet_jax import config, weights, workdir
    from alexnet_jax.data import sources, statistics
    from alexnet_jax.model.alexnet import AlexNet
    from alexnet_jax.training import state

    folder, paths = tmp_path_factory.mktemp("nets"), []
    for seed in (0, 1):
        tree = config.load("tests/tiny.py", [f"--config.seed={seed}"])
        spec = config.with_classes(config.parse(tree), 10)
        names = sources.open_dataset(spec.data, seed).class_names
        params = state.create(spec, AlexNet(spec.model), seed).params
        params = jax.tree.map(lambda leaf: 4 * np.asarray(leaf), params)
        means = statistics.zeros(16)
        means = means._replace(mean_image=np.full_like(means.mean_image, 100.0))
        tree = json.loads(config.to_json(tree))
        run = workdir.Run(spec, tree, 7, params, {}, means, names)
        paths.append(weights.save(folder / f"net{seed}.safetensors", run))
    return paths[0], paths[1]
