"""The commands of the pages: all are parsed by the real parsers, and those that are quick are run at tiny scale.

A block after `<!-- long -->` is only parsed.
"""

import argparse
import importlib
import re
import tomllib

import pytest

from alexnet_jax import __main__ as program
from alexnet_jax import cli, config, main
from alexnet_jax.errors import ConfigError
from tests.docs.markdown import ROOT, Command, commands, pages

#: The commands of docs/extending*.md need the changes that come before them (tests/docs/test_extending.py).
COMMANDS = [
    command
    for page in pages()
    for command in commands(page)
    if not page.name.startswith("extending")
]
QUICK = [command for command in COMMANDS if not command.is_long]
TINY = str(ROOT / "tests" / "tiny.py")


class Parsed(Exception):
    """Raised in place of whatever follows the parsing of a command line."""


@pytest.fixture
def dry(monkeypatch):
    """Make every parser raise Parsed with (options, what it does not know)."""
    parse_known = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self, args=None, namespace=None):
        raise Parsed(*parse_known(self, args, namespace))

    def parse_args(self, args=None, namespace=None):
        options, rest = parse_known(self, args, namespace)
        if rest:
            raise ConfigError(f"unknown arguments {rest}")
        raise Parsed(options, rest)

    monkeypatch.setattr(cli._Parser, "parse_known_args", parse_known_args)
    monkeypatch.setattr(cli._Parser, "parse_args", parse_args)


def entry(words: list[str]):
    """(function, arguments) of a command that runs a program of this repository; None for others."""
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if words[0] == "srun":
        words = words[words.index("launch/train.sh") :]
    match words:
        case ["alexnet", *rest] | ["python", "-m", "alexnet_jax", *rest]:
            return program.main, rest
        case ["launch/train.sh", *rest] | ["python", "-m", "alexnet_jax.main", *rest]:
            return main.main, rest
        case ["python", "-m", module, *rest] if (
            (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()
        ):
            return importlib.import_module(module).main, rest
    return None


def check_other(words: tuple[str, ...]) -> None:
    """What is known of commands that are not ours."""
    match [word for word in words if not re.match(r"[A-Z_]+=", word)]:
        case ["make", goal, *_]:
            assert re.search(rf"^{goal}:", (ROOT / "Makefile").read_text(), re.MULTILINE), goal
        case ["pip", "install", *rest]:
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            extras = set(re.findall(r"\[(\w+)\]", " ".join(rest)))
            assert extras <= set(project["optional-dependencies"]), extras
        case [".", ".venv/bin/activate"]:
            pass
        case _:
            raise AssertionError(f"the tests do not know the command {words}")


def name_of(command: Command) -> str:
    return f"{command.page}: {' '.join(command.words)[:60]}"


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_options_and_keys_of_a_command_exist(command, dry, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = entry(list(command.words))
    if found is None:
        return check_other(command.words)
    run, arguments = found
    if arguments == ["--help"]:
        assert run(arguments) == 0
        return
    with pytest.raises(Parsed) as caught:
        run(arguments)
    options, rest = caught.value.args
    overrides = cli.config_overrides(rest)
    if isinstance(getattr(options, "config", None), str):
        loaded = config.load(options.config, overrides)
        config.parse(loaded, needs_images="data.path" in str(overrides))


def test_quick_commands_run(tmp_path, monkeypatch, capsys):
    """In the order of the pages, in one folder; trainings take two steps of the smallest net."""
    monkeypatch.chdir(tmp_path)
    done = []
    for command in QUICK:
        found = entry(list(command.words))
        if found is None or command.words in done:
            continue
        run, arguments = found
        if "train" in arguments[:1]:
            arguments = [TINY if word == "quickstart" else word for word in arguments]
            arguments.append("--config.train.max_steps=2")
        assert not run(arguments), command
        done.append(command.words)
    assert len(done) >= 10
    assert capsys.readouterr().out


def test_subcommands_in_sentences_exist():
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for name, kind in re.findall(r"`alexnet (\w+)(?: (\w+))?", text):
            runs = program.COMMANDS[name].runs
            if isinstance(runs, dict) and kind and kind.islower():
                assert kind in runs, (page, name, kind)


def test_no_page_has_a_shell_block_that_is_not_tested():
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            assert not re.search(r"^(alexnet|python|make|pip) ", block, re.MULTILINE), (page, block)
