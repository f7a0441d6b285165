"""The option --json of the benchmarks."""

import json

import pytest

from alexnet_jax.errors import ConfigError, StorageError
from bench import checks, input, kernels, layers, nets, output, scaling, transfer


@pytest.mark.parametrize("benchmark", [checks, input, kernels, layers, nets, scaling, transfer])
def test_a_file_that_cannot_be_written_is_refused_before_the_measurement(benchmark, tmp_path):
    with pytest.raises(ConfigError, match=f"--json: there is no folder {tmp_path}/none"):
        benchmark.main(["--from=.", "--json", f"{tmp_path}/none/numbers.json"])
    for path, kind in ((tmp_path, "folder"), ("/dev/full", "device")):
        with pytest.raises(ConfigError, match=f"--json: {path}: it is a {kind}, not a file"):
            benchmark.main(["--from=.", "--json", str(path)])


def test_numbers_are_written_if_a_file_is_given(tmp_path):
    output.write_json(None, {"seconds": 1.5})
    output.write_json(tmp_path / "numbers.json", {"seconds": 1.5})
    assert json.loads((tmp_path / "numbers.json").read_text()) == {"seconds": 1.5}
    assert list(tmp_path.iterdir()) == [tmp_path / "numbers.json"]


def test_a_full_disk_is_one_line_and_keeps_the_last_report(tmp_path):
    path = tmp_path / "numbers.json"
    output.write_json(path, {"seconds": 1.5})
    (tmp_path / "numbers.json.tmp").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=f"cannot write {path}: No space left on device"):
        output.write_json(path, {"seconds": 2.5})
    assert json.loads(path.read_text()) == {"seconds": 1.5}
