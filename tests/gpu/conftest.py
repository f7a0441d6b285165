"""Tests for a machine with an NVIDIA GPU: `pytest tests/gpu`. Skipped anywhere else, without importing JAX.

With ALEXNET_TEST_DEVICE=cpu the CPU stands in for the GPU, with the forms of GPUs: that tries the tests themselves.
"""

import os
from pathlib import Path

import pytest

from tests.gpu import presence, runs

FOLDER = Path(__file__).resolve().parent
MISSING = presence.missing()
STAND_IN = "test_stand_in.py"
"""It starts the others on the CPU, and needs no GPU itself."""


class Skipped(pytest.Module):
    """A file that is not imported."""

    def collect(self):
        pytest.skip(MISSING or "", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    if MISSING and module_path.name != STAND_IN:
        return Skipped.from_parent(parent, path=module_path)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """What takes longest comes last; runs go on from the first test on, in processes of their own."""
    order = [FOLDER / "test_forms.py", FOLDER / "test_runs.py"]
    items.sort(key=lambda item: order.index(item.path) if item.path in order else -1)


@pytest.fixture(scope="module")
def computed(request):
    """What `compare` of the module comes to, for all of its tests."""
    from tests.gpu.device import Computed  # with JAX

    return Computed(request, request.module.compare)


@pytest.fixture(scope="session")
def started(tmp_path_factory):
    """All runs that are looked at, in processes of their own."""
    with runs.Runs(tmp_path_factory.mktemp("gpu")) as started:
        yield started


@pytest.fixture(scope="session", autouse=True)
def ahead(request):
    """Starts the runs before the first test, if any test looks at them (one worker's tests, if there are several)."""
    items = () if "PYTEST_XDIST_WORKER" in os.environ else request.session.items
    if any("started" in getattr(item, "fixturenames", ()) for item in items):
        request.getfixturevalue("started")
