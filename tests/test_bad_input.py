"""What tests/bad_input.py runs as commands, asked of the functions behind them."""

import importlib
from pathlib import Path

import pytest

from alexnet_jax.errors import AlexNetError
from tests import bad_input


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    return bad_input.make(tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize("case", bad_input.CASES, ids=lambda case: f"{case.fault}: {case.command}")
def test_bad_input_is_one_line_and_its_code(case, names, tmp_path):
    if "PICKLE" in case.command:
        pytest.importorskip("torch", reason="a .pth file is read by torch, which is not installed")
    module, *arguments = bad_input.arguments(case, names | {"OUT": str(tmp_path / "out")})
    with pytest.raises(AlexNetError) as raised:
        importlib.import_module(module).main(arguments)
    assert raised.value.exit_code == case.code
    assert case.words in raised.value.line() and "\n" not in raised.value.line()
    assert not bad_input.written(tmp_path)
    assert not Path(names["PICKLE"]).with_name("executed").exists()
