"""Four virtual CPU devices, or the GPU for tests/gpu; one compilation cache; and the record of `make reliability`."""

import atexit
import collections
import gc
import os
import shutil
import signal
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Files that take long, beside tests/reliability.
LONG = (
    "test_main.py", "test_loop.py", "test_step.py", "test_release.py", "test_extending.py", "test_linear.py",
)  # fmt: skip


def _wants_gpu() -> bool:
    """Whether JAX is to have a GPU: JAX_PLATFORMS names one, or pytest was told to run nothing but tests/gpu.

    ALEXNET_TEST_DEVICE, 'gpu' or 'cpu', decides before either; the workers of pytest-xdist are told by it.
    """
    if chosen := os.environ.get("ALEXNET_TEST_DEVICE"):
        return chosen != "cpu"
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return not {"cuda", "gpu"}.isdisjoint(platforms.split(","))
    named = [Path(argument.partition("::")[0]) for argument in sys.argv[1:]]
    named = [path.resolve() for path in named if path.exists()]
    return bool(named) and all(path.is_relative_to(ROOT / "tests" / "gpu") for path in named)


def _quick_flags() -> str:
    """The flags of XLA for tests, which compile much and compute little: together half of the time to compile."""
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    # The older emitters generate code in half of the time. jaxlib 0.11 has them too, but not the flag of 0.10.
    older = tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11)
    extra = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
    return f"{flags} {'--xla_cpu_use_fusion_emitters=false' if older else extra}"


# Before JAX is imported anywhere.
if _wants_gpu():
    os.environ["ALEXNET_TEST_DEVICE"] = "gpu"
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):  # what the GPU is compared with
        os.environ["JAX_PLATFORMS"] = f"{platforms},cpu"
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    # Several processes share the GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
else:
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_NUM_CPU_DEVICES"] = "4"
    # The workers of pytest-xdist, which are not told --full, have the variable already.
    os.environ.setdefault("XLA_FLAGS", "" if "--full" in sys.argv else _quick_flags())
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".jax-cache"))
# Every program is kept: tests and the processes that they start compile many small ones, most of them more than once.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ["MPLBACKEND"] = "Agg"
# A worker of pytest-xdist is killed if it takes more than ten seconds to end, and so does not remove its folder: it is
# below that of the process that started the worker.
os.environ["ALEXNET_JAX_CACHE"] = tempfile.mkdtemp(
    prefix="alexnet-jax-tests-",
    dir=os.environ["ALEXNET_JAX_CACHE"] if "PYTEST_XDIST_WORKER" in os.environ else None,
)
# Tracing makes many objects and little garbage, and with the default thresholds Python looks for it all the time.
gc.set_threshold(50_000, 20, 50)
# Started in the background of a shell, tests would hand on to what they start that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(shutil.rmtree, os.environ["ALEXNET_JAX_CACHE"], ignore_errors=True)


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="the longest tests too")
    parser.addoption("--record", metavar="JSON", help="write what each fault and figure came to")


def pytest_xdist_auto_num_workers(config) -> int:
    """One worker more than cores: tests of several processes wait for them a tenth of the time."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_xdist_make_scheduler(config, log):
    """By file, and all of tests/reliability to one worker: they have the server of starts and two runs in common."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = "tests/reliability/"
            return folder if nodeid.startswith(folder) else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_configure(config):
    config.scoreboard = {"faults": {}, "figures": collections.Counter()}


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        long = [item for item in items if item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    # Workers take files in the order of collection, and the longest must not be the last.
    items.sort(
        key=lambda item: item.path.parent.name != "reliability" and item.path.name not in LONG
    )
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
    # pytest collects garbage five times at the end, among millions of objects of JAX; once is enough to find what was
    # not closed.
    gc.collect()
    gc.freeze()
    path = session.config.getoption("--record")
    if path:
        from tests.reliability import record

        record.write(Path(path), session.config.scoreboard)


@pytest.fixture
def figures(request) -> collections.Counter:
    """Figures that go to the record of `make reliability`, by name."""
    return request.config.scoreboard["figures"]


@pytest.fixture
def bare_runs(monkeypatch):
    """Runs in this process are those of tests.reliability.starter.make_bare."""
    from tests.reliability import starter

    starter.make_bare(monkeypatch.setattr)


@pytest.fixture
def without_xla_flags(monkeypatch):
    """Commands that a test starts need no process of their own to check XLA_FLAGS; for those that compile nothing."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)


@pytest.fixture(scope="session")
def two_nets(tmp_path_factory) -> tuple[Path, Path]:
    """Weights files of the tiny net, with random weights so large that the answers differ, of seeds 0 and 1."""
    import json

    import jax
    import numpy as np

    from alexnet_jax import config
    from alexnet_jax.data import sources
    from alexnet_jax.data.pipeline import statistics
    from alexnet_jax.inference import trained
    from alexnet_jax.model.alexnet import AlexNet
    from alexnet_jax.train import state

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
        run = trained.TrainedModel(spec, tree, 7, params, {}, means, names)
        paths.append(trained.save(folder / f"net{seed}.safetensors", run))
    return paths[0], paths[1]
