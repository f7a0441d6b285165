"""Runs of the training command on the device: their bits, their data, their end, and what they say of themselves."""

import dataclasses
import json
import re
import signal

import pytest

from alexnet_jax.kernels import forms
from tests.gpu.device import DEVICE, STAND_IN
from tests.reliability.compare import differences, leftovers, snapshot


def of_arrays(found: dict) -> dict:
    """A snapshot without the configs, which say how the images were placed."""
    return {name: value for name, value in found.items() if not name.endswith("/config")}


@pytest.fixture(scope="module")
def undisturbed(started) -> dict[str, object]:
    return snapshot(started.folder("undisturbed"))


def test_two_deterministic_runs_are_the_same_bit_for_bit(started, undisturbed):
    """The second one beside a cache of algorithms that a run of the same net has timed."""
    assert undisturbed["checkpoints"]
    assert differences(undisturbed, snapshot(started.folder("shared"))) == []


def test_a_deterministic_run_that_was_killed_goes_on_to_the_same_bits(started, undisturbed):
    killed, resumed = started.outcomes("killed")
    assert killed.code == -signal.SIGKILL, killed.err
    folder = started.folder("killed")
    assert re.search("continuing from step (18|24|30)", resumed.out)  # saved while steps go on
    assert "not bit for bit" not in resumed.out
    assert differences(undisturbed, snapshot(folder)) == []
    assert not leftovers(folder)


@pytest.mark.parametrize("placement", ["host", "device"])
def test_a_run_is_the_same_wherever_the_images_are(placement, started, undisturbed):
    found = snapshot(started.folder(placement))
    assert differences(of_arrays(undisturbed), of_arrays(found)) == []


def test_a_batch_that_does_not_fit_ends_with_code_7_and_one_line(started):
    (outcome,) = started.outcomes("full")
    assert outcome.code == 7, outcome.err
    # XLA writes lines of its own about what it could not allocate.
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("alexnet: "))
    assert line.startswith("alexnet: error[E_MEMORY]: ") and "RESOURCE_EXHAUSTED" in line
    assert "--config.train.accumulate=2" in line
    assert "Traceback" not in outcome.err


def test_the_quickstart_knows_97_of_100_digits(started):
    results = json.loads((started.folder("quickstart") / "results.json").read_text())
    assert results["splits"]["test"]["center"]["top1_error"] < 0.03


@pytest.mark.parametrize(
    ("name", "deterministic"), [("undisturbed", True), ("quickstart", STAND_IN)]
)
def test_a_run_says_which_numerics_it_had(name, deterministic, started):
    said = json.loads((started.folder(name) / "run.json").read_text())
    assert said["platform"] == DEVICE.platform
    capability = 0 if STAND_IN else float(DEVICE.compute_capability)
    assert said["numerics"] == {
        "compute_dtype": "float32",
        "float32_products": "tf32" if capability >= 8 else "float32",
        "deterministic": deterministic,
        "forms": dataclasses.asdict(forms.choose(DEVICE.platform)),
    }
