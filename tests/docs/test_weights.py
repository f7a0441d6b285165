"""The weights of docs/weights and of the package, against their cards."""

import json

import pytest

from alexnet_jax import files
from alexnet_jax.inference import trained
from alexnet_jax.interop import verify
from tests.docs import notebook

WEIGHTS = notebook.FOLDER.parent / "weights"


def test_released_weights_are_small_and_those_of_their_cards():
    released = list(WEIGHTS.rglob("*.safetensors"))
    shipped = list(trained.SHIPPED.glob("*.safetensors"))
    assert (len(released), len(shipped)) == (38, 1)
    for path in (*released, *shipped):
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        limit = 4_000_000 if path in shipped else 1_000_000
        assert path.stat().st_size < limit and files.sha256_of(path) == card["sha256"]
        assert card["commit"] and not card["uncommitted_changes"]


@pytest.mark.parametrize("name", ["quickstart-seed0-step450", "series/scales-digits-seed2-step899"])
def test_released_nets_do_as_well_as_their_cards_say(name):
    result = verify.verify(WEIGHTS / f"{name}.safetensors", evaluate=True)
    assert "measured again" in result
