"""The repository as a stranger finds it: locks, README, and nothing of the author's machine."""

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from alexnet_jax import config
from alexnet_jax.errors import EXIT_CODES

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(name: str) -> list[tuple[Requirement, int]]:
    """(requirement, number of its hashes) of each entry of a lock file."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    entries = [entry.split() for entry in text.replace("\\\n", " ").splitlines() if entry]
    found = []
    for words in entries:
        hashes = [word for word in words if word.startswith("--hash=sha256:")]
        rest = " ".join(word for word in words if word not in hashes)
        found.append((Requirement(rest), len(hashes)))
    return found


def versions(name: str, python: str) -> dict[str, str]:
    """Package -> version that a lock installs on Linux with that Python."""
    environment = {"python_full_version": f"{python}.0", "python_version": python}
    environment |= {"sys_platform": "linux", "platform_system": "Linux"}
    return {
        canonicalize_name(requirement.name): str(next(iter(requirement.specifier)).version)
        for requirement, _ in locked(name)
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }


def tracked() -> list[Path]:
    """Every text file that a commit would hold; without the locks."""
    skipped = {".git", ".jax-cache", "runs", "build", "dist", "__pycache__"}
    skipped |= {".pytest_cache", ".ruff_cache", ".hypothesis"}
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [
            name for name in folders if name not in skipped and not name.startswith(".venv")
        ]
        found += [Path(folder, name) for name in names if name not in LOCKS]
    return [path for path in found if path.suffix not in (".png", ".npz", ".jpg", ".pyc")]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_a_hash_for_each_entry_and_no_address(name):
    text = (ROOT / name).read_text()
    assert "://" not in text
    entries = locked(name)
    assert len(entries) > 20
    for requirement, hashes in entries:
        assert hashes, requirement
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
        assert requirement.url is None


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_locks_hold_what_pyproject_asks_for(python):
    extras = PROJECT["optional-dependencies"]
    dev = [text for text in extras["dev"] if not text.startswith(PROJECT["name"])]
    for name, wanted in zip(LOCKS, (PROJECT["dependencies"], dev + extras["tfds"]), strict=True):
        pinned = versions(name, python)
        for text in wanted:
            requirement = Requirement(text)
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_the_two_locks_agree():
    core, dev = (versions(name, "3.11") for name in LOCKS)
    assert core == {name: dev[name] for name in core}


def test_no_file_names_a_machine_or_a_package_index():
    # Written in parts, so that this file passes its own check.
    words = ["/wo" + "rk/", "/ro" + "ot/", "/tmp/bu" + "ild", "py" + "pi.", "python" + "hosted."]
    words += ["deb." + "debian", "registry." + "npm", "--index" + "-url", "download." + "pytorch"]
    for path in tracked():
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not [word for word in words if word in text], path


def test_scripts_are_executable_and_parse():
    for name in ("launch/train.sh", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK), name
        subprocess.run(["bash", "-n", ROOT / name], check=True)


def test_the_files_that_the_readme_names_exist():
    linked = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    named = re.findall(r"`((?:configs|alexnet_jax|docs|launch|tests)/[\w./-]*)", README)
    run = re.findall(r"\b(launch/\w+\.sh|configs/\w+\.py)\b", README)
    assert len(linked) > 2 and len(named) > 20 and len(run) > 5
    for name in {*linked, *named, *run}:
        assert (ROOT / name).exists(), name


def test_the_commands_of_the_readme_exist():
    modules = re.findall(r"python -m (alexnet_jax[\w.]*)", README)
    assert len(modules) > 4
    for module in modules:
        path = ROOT / (module.replace(".", "/") + ".py")
        assert "__main__" in path.read_text(), module
    goals = re.findall(r"^make (\w+)$", README, re.MULTILINE) + re.findall(r"`make (\w+)`", README)
    makefile = (ROOT / "Makefile").read_text()
    for goal in goals:
        assert re.search(rf"^{goal}:", makefile, re.MULTILINE), goal


def readme_configs() -> list[str]:
    """Each config of the README's table, with each variant that the table names."""
    found = []
    for file, variants in re.findall(r"^\| `(configs/\w+\.py)` \|([^|]*)\|", README, re.MULTILINE):
        names = re.findall(r"`:(\w+)`", variants)
        found += [f"{file}:{name}" for name in names] or [file]
    return found


@pytest.mark.parametrize("name", readme_configs())
def test_the_configurations_of_the_readme_load(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    config.parse(config.load(name, []), needs_images=False)


def test_the_table_of_configurations_is_complete():
    files = {path.name for path in (ROOT / "configs").glob("*.py")}
    files -= {"__init__.py", "sweeps.py"}
    assert files == {name.partition(":")[0].removeprefix("configs/") for name in readme_configs()}


def test_the_exit_codes_of_the_readme_are_those_of_the_program():
    table = re.findall(r"^\| (\d+) \| (.+) \|$", README, re.MULTILINE)
    assert {int(code): meaning for code, meaning in table} == EXIT_CODES


def test_the_layout_of_the_readme_is_true():
    tree = README.split("## Layout")[1].split("```")[1]
    listed, folders = set(), []
    for line in filter(None, tree.splitlines()):
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        path = "/".join([*folders[:depth], name.rstrip("/")])
        if name.endswith("/"):
            assert (ROOT / path).is_dir(), path
            folders[depth:] = [name.rstrip("/")]
        else:
            listed.add(path)
    modules = {
        str(path.relative_to(ROOT))
        for package in ("alexnet_jax", "bench")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert listed == modules


def test_the_package_says_its_version_once():
    tree = ast.parse((ROOT / "alexnet_jax" / "__init__.py").read_text())
    assert "version" in PROJECT["dynamic"]
    assert any(ast.unparse(node).startswith("__version__ =") for node in tree.body)


def test_the_launcher_sets_the_memory_and_passes_the_arguments(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nenv\necho "arguments: $@"\n')
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(python), "JAX_PLATFORMS": "cpu"}
    command = [ROOT / "launch" / "train.sh", "--workdir", "a b"]
    said = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    settings = (ROOT / "launch" / "malloc.env").read_text().splitlines()
    for setting in (line for line in settings if not line.startswith("#")):
        assert setting in said.stdout.splitlines()
    assert "arguments: -P -m alexnet_jax.main --workdir a b" in said.stdout
    # In the folder of the caller, so that relative paths are the caller's.
    assert f"PWD={tmp_path}" in said.stdout and f"PYTHONPATH={ROOT}" in said.stdout.splitlines()
