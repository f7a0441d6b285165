import json
import os
import signal

import pytest

from tests.reliability.compare import snapshot
from tests.reliability.starter import Starter, killed_once_saved


@pytest.fixture(scope="session")
def starter(request):
    # Every program is kept, so that a start costs no compilation.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    with Starter(bare=not request.config.getoption("--full")) as starter:
        yield starter


@pytest.fixture(scope="session")
def golden_folder(starter, tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("golden") / "run"
    outcome = starter.run(folder)
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture(scope="session")
def golden(golden_folder):
    return snapshot(golden_folder)


@pytest.fixture(scope="session")
def killed(starter, tmp_path_factory):
    """A run that was killed after step 14, with a checkpoint of step 12; tests go on with a copy."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    assert starter.run(folder, fault=killed_once_saved("train.step:15")).code == -signal.SIGKILL
    return folder


@pytest.fixture
def status():
    return lambda folder: json.loads((folder / "status.json").read_text())
