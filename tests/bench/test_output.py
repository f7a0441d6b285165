"""The option --json of the benchmarks."""

import json
from pathlib import Path

import pytest

from alexnet_jax.errors import ConfigError, StorageError
from bench import checks, input, kernels, layers, nets, output, scaling, transfer


@pytest.mark.parametrize("benchmark", [checks, input, kernels, layers, nets, scaling, transfer])
def test_a_file_that_cannot_be_written_is_refused_before_the_measurement(benchmark, tmp_path):
    with pytest.raises(ConfigError, match=f"--json: there is no folder {tmp_path}/none"):
        benchmark.main(["--from=.", "--json", f"{tmp_path}/none/numbers.json"])
    with pytest.raises(ConfigError, match=f"--json: {tmp_path} is a folder"):
        benchmark.main(["--from=.", "--json", str(tmp_path)])


def test_numbers_are_written_if_a_file_is_given(tmp_path):
    output.write_json(None, {"seconds": 1.5})
    output.write_json(tmp_path / "numbers.json", {"seconds": 1.5})
    assert json.loads((tmp_path / "numbers.json").read_text()) == {"seconds": 1.5}
    assert list(tmp_path.iterdir()) == [tmp_path / "numbers.json"]


def test_a_full_disk_is_one_line():
    with pytest.raises(StorageError, match="cannot write /dev/full: No space left on device"):
        output.write_json(Path("/dev/full"), {})
