import json
import os

import pytest

from tests.reliability.compare import snapshot
from tests.reliability.starter import Starter


@pytest.fixture(scope="session")
def starter(tmp_path_factory):
    # Every program is kept, so that a start costs no compilation.
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    with Starter() as starter:
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


@pytest.fixture
def status():
    return lambda folder: json.loads((folder / "status.json").read_text())
