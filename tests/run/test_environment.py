"""run.json, and errors of JAX as errors of this program."""

import errno
import json

import pytest

from alexnet_jax import config
from alexnet_jax.errors import DataError, DivergedError, OutOfMemoryError, StorageError
from alexnet_jax.run import environment, failures


@pytest.fixture(scope="module")
def spec():
    return config.parse(config.load("tests/tiny.py", []))


def test_the_environment_is_json_and_does_not_differ_from_itself(spec):
    found = environment.describe(spec)
    assert json.loads(json.dumps(found)) == found
    assert found["numerics"]["float32_products"] == "float32"  # of a CPU
    assert environment.changes(None, found) == [] == environment.changes(found, dict(found))


def test_what_changes_the_bits_of_a_resumed_run_is_named(spec):
    found = environment.describe(spec)
    (note,) = environment.changes(found, found | {"cores": 99, "time": "later"})
    assert note == (
        f"not bit for bit the same run, but equal up to rounding: cores: {found['cores']} -> 99"
    )
    older = {key: value for key, value in found.items() if key != "numerics"}
    assert environment.changes(older, found) == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DataError("x"), DataError),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), OutOfMemoryError),
        (MemoryError(), OutOfMemoryError),
        (FloatingPointError("invalid value (nan) encountered"), DivergedError),
        (OSError(errno.ENOSPC, "No space left on device"), StorageError),
        (KeyError("x"), type(None)),
    ],
)
def test_errors_from_outside_have_a_code(spec, error, kind):
    assert type(failures.explain(error, spec)) is kind
