"""The command `alexnet figures`: its kinds and its help."""

import importlib
import json

import pytest

from alexnet_jax import __main__ as program
from alexnet_jax.errors import ConfigError


def test_help_lists_every_kind_and_the_exit_codes(capsys):
    assert program.main(["figures", "--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {kind} " in listed for kind in program.FIGURES) and "exit codes:" in listed
    assert program.main(["figures"]) == 2


@pytest.mark.parametrize("kind", program.FIGURES)
def test_every_kind_has_help_of_its_own(kind, capsys):
    assert (
        f"alexnet figures {kind}" in importlib.import_module(f"alexnet_jax.analysis.{kind}").__doc__
    )
    with pytest.raises(SystemExit) as end:
        program.main(["figures", kind, "--help"])
    assert not end.value.code and "--workdir" in capsys.readouterr().out


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="filter"):
        program.main(["figures", "filter"])


def test_a_kind_is_drawn_by_the_command(weights_file, tmp_path, capsys):
    command = ["figures", "predictions", "--workdir", str(weights_file), "--out", str(tmp_path)]
    program.main([*command, "--count", "2"])
    path = tmp_path / "predictions.png"
    assert capsys.readouterr().out == f"{path}\n" and path.read_bytes().startswith(b"\x89PNG")
    assert len(json.loads(path.with_suffix(".json").read_text())["images"]) == 2
