"""The command `alexnet`: its subcommands, their help, and how configs are found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_jax import __main__ as program
from alexnet_jax import config
from alexnet_jax.config import find
from alexnet_jax.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SUBCOMMANDS = {
    "train", "evaluate", "predict", "serve", "features", "describe", "config", "prepare", "doctor", "report",
    "figures", "ensemble", "compare", "robustness", "lesion", "tables", "identify", "import", "export", "release",
    "verify", "similarity", "sweep", "bench", "atlas",
}  # fmt: skip
#: Prints for each command whether its --help imported JAX, in one process.
HELP = """
import contextlib, io, sys
from alexnet_jax import __main__ as program
for name, command in program.COMMANDS.items():
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        program.main([name, "--help"])
    print(name, f"usage: alexnet {name}" in said.getvalue(), "jax" in sys.modules)
"""


def test_there_is_a_subcommand_for_everything():
    assert set(program.COMMANDS) == SUBCOMMANDS


def test_help_lists_the_subcommands_in_groups():
    page = program.usage()
    for heading, group in program.GROUPS.items():
        below = page.split(f"{heading}:\n")[1].split("\n\n")[0]
        assert [line.split()[0] for line in below.splitlines()] == list(group)


def test_no_help_imports_jax():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} True False" for name in program.COMMANDS]


@pytest.mark.parametrize("arguments", [["--help"], [], ["figures", "-h"], ["bench"]])
def test_help_of_groups(arguments, capsys):
    asked = bool({"--help", "-h"} & set(arguments))
    assert program.main(arguments) == (0 if asked else 2)
    assert capsys.readouterr().out.startswith("usage: alexnet")


@pytest.mark.parametrize("arguments", [["trian"], ["figures", "curve"], ["bench", "layer"]])
def test_an_unknown_subcommand_names_the_nearest(arguments):
    with pytest.raises(ConfigError, match=r"did you mean (train|curves|layers)\?"):
        program.main(arguments)


@pytest.mark.parametrize("argument", ["quickstart", "scales:digits", "configs/paper.py"])
def test_packaged_configs_are_found_from_any_directory(argument, tmp_path, monkeypatch):
    expected = config.digest(config.load(argument, []))
    monkeypatch.chdir(tmp_path)
    assert config.digest(config.load(argument, [])) == expected


def test_a_path_is_the_callers_file(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    text = (ROOT / "configs" / "quickstart.py").read_text()
    (tmp_path / "configs" / "paper.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert config.load("configs/paper.py", []).name == "quickstart"
    assert config.load("paper", []).name == "paper"


def test_relative_imports_of_a_folder_with_an_init_file_are_its_own(tmp_path):
    (tmp_path / "__init__.py").touch()
    text = (ROOT / "configs" / "paper.py").read_text()
    (tmp_path / "paper.py").write_text(text.replace("train.epochs", "train.epochs, config.seed"))
    text = (ROOT / "configs" / "quickstart.py").read_text()
    (tmp_path / "mine.py").write_text(text.replace("paper.get_config()", "base.get_config()")
                                      .replace("import paper", "import base"))  # fmt: skip
    (tmp_path / "base.py").write_text(
        "from alexnet_jax.configs import paper\n\n\ndef get_config():\n"
        "    config = paper.get_config()\n    config.seed = 7\n    return config\n"
    )
    assert config.load(str(tmp_path / "mine.py"), []).seed == 7


@pytest.mark.parametrize("argument", ["papr", "configs/papr.py", "papr:tanh"])
def test_an_unknown_config_is_one_line_with_the_nearest_names(argument):
    with pytest.raises(ConfigError, match="did you mean paper") as caught:
        config.load(argument, [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("argument", ["x" * 5000, "a\0b", "configs/" + "y" * 5000, "", "."])
def test_a_name_that_no_file_can_have_is_one_line(argument):
    with pytest.raises(ConfigError) as caught:
        config.load(argument, [])
    assert "\n" not in str(caught.value)


def test_config_prints_values_as_the_command_line_takes_them(capsys):
    change = "--config.train.epochs=3.5"
    program.main(["config", "--config", "cifar10:18pct", change])
    printed = capsys.readouterr().out.splitlines()
    assert "train.epochs = 3.5" in printed and "train.checkpoint_minutes = 10.0" in printed
    values = [line.split(" = ", 1) for line in printed if " = " in line]
    sections = [line[2:] for line in printed if line.startswith("# ")]
    assert sections == ["augment", "data", "evaluation", "model", "optimizer", "schedule", "train"]
    assert len({key for key, _ in values}) == len(values)
    # A value that is printed can be given back, here one of each type.
    given = dict(values)
    keys = ("seed", "augment.crop", "model.convs.conv1.then", "data.path")
    loaded = config.load(
        "cifar10:18pct", [change, *(f"--config.{key}={given[key]}" for key in keys)]
    )
    assert config.digest(loaded) == config.digest(config.load("cifar10:18pct", [change]))


def test_config_prints_the_json_of_a_run_folder(capsys):
    program.main(["config", "--config", "quickstart", "--json"])
    printed = capsys.readouterr().out
    assert printed.strip() == config.to_json(config.load("quickstart", []))
    assert config.parse(json.loads(printed))


def test_config_list_has_a_line_for_each_packaged_config(capsys):
    program.main(["config", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == find.names()
    assert all(len(line.split()) > 4 for line in lines)


def test_modules_of_sweeps_are_found_beside_the_package():
    assert (
        find.config_module("sweeps").SWEEPS and find.module_name("launch.sweep") == "launch.sweep"
    )
