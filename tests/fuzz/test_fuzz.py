"""A few damaged inputs for every reader, and those that once found something; `make fuzz` tries thousands."""

from pathlib import Path

import pytest

from tests.fuzz.__main__ import attempt, input_of
from tests.fuzz.readers import READERS

FOUND = Path(__file__).parent / "found"
COUNT = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        made = tmp_path_factory.mktemp("fuzz")
        patch.setenv("ALEXNET_JAX_CACHE", str(made / "cache"))
        yield made


# As in a command: Pillow warns of broken metadata, which is not used.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", READERS)
def test_damaged_inputs_are_read_or_refused_in_one_line(name, folder):
    if name.startswith(("parquet", "saved")):
        pytest.importorskip("pyarrow")
    if "records" in name or name.startswith("store"):
        pytest.importorskip("array_record")
    reader, scratch = READERS[name], folder / name.replace(" ", "_")
    scratch.mkdir()
    seeds, read = reader.seeds(scratch), reader.prepare(scratch)
    for good in seeds:
        assert attempt(read, good) == ("read", "")
    kept = sorted(FOUND.glob(f"{name.replace(' ', '_')}-*"))
    inputs = [input_of(seeds, reader.mutate, name, 0, number) for number in range(COUNT)]
    for content in [*(path.read_bytes() for path in kept), *inputs]:
        outcome, said = attempt(read, content)
        assert outcome in ("read", "refused"), said
