"""The repository as a newcomer finds it: locks, wheel, README and docs, and nothing of the author's machine."""

import ast
import os
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import alexnet_jax
from alexnet_jax import config
from alexnet_jax.errors import EXIT_CODES

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-docs.lock")
DOCS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
    )
}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


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
    skipped = {".git", ".jax-cache", "runs", "site", "build", "dist", "__pycache__"}
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
    dev = [text for text in extras["dev"] if not text.startswith(PROJECT["name"])] + extras["tfds"]
    for name, wanted in zip(LOCKS, (PROJECT["dependencies"], dev, extras["docs"]), strict=True):
        pinned = versions(name, python)
        for text in wanted:
            requirement = Requirement(text)
            assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_the_locks_agree():
    core, dev, docs = (versions(name, "3.11") for name in LOCKS)
    assert core == {name: dev[name] for name in core}
    assert all(dev.get(name, version) == version for name, version in docs.items())


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


def test_the_files_that_the_docs_name_exist():
    folders = "alexnet_jax|bench|configs|docs|examples|launch|tests"
    named = {
        name.rstrip(".")
        for text in DOCS.values()
        for name in re.findall(rf"(?<![\w/.])((?:{folders})/[\w./-]*)", text)
        if not re.search(r"DATE|SPLIT", name)
    }
    assert len(named) > 40
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_the_make_targets_of_the_docs_exist():
    makefile = (ROOT / "Makefile").read_text()
    goals = {
        goal
        for text in DOCS.values()
        for goal in re.findall(r"^(?:\w+=\S+ )*make (\w+)$|`make (\w+)", text, re.MULTILINE)
    }
    goals = {first or second for first, second in goals} - {"PYTHON"}
    assert goals >= {"quickstart", "test", "docs", "bench"}
    help_page = makefile.split("help:")[1].split("\n\n")[0]
    for goal in goals:
        assert re.search(rf"^{goal}:", makefile, re.MULTILINE), goal
        assert f"'make {goal} " in help_page, goal


def test_the_readme_is_short():
    assert len(DOCS["README.md"].splitlines()) <= 200


def documented_configs() -> list[str]:
    """Each config of the table in docs/configurations.md, with each variant that the table names."""
    found, text = [], DOCS["docs/configurations.md"]
    for file, variants in re.findall(r"^\| `(configs/\w+\.py)` \|([^|]*)\|", text, re.MULTILINE):
        names = re.findall(r"`:(\w+)`", variants)
        found += [f"{file}:{name}" for name in names] or [file]
    return found


@pytest.mark.parametrize("name", documented_configs())
def test_the_documented_configurations_load(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    config.parse(config.load(name, []), needs_images=False)


def test_the_table_of_configurations_is_complete():
    files = {path.name for path in (ROOT / "configs").glob("*.py")}
    files -= {"__init__.py", "sweeps.py"}
    assert files == {
        name.partition(":")[0].removeprefix("configs/") for name in documented_configs()
    }


def test_the_documented_exit_codes_are_those_of_the_program():
    table = re.findall(r"^\| (\d+) \| (.+) \|$", DOCS["docs/reliability.md"], re.MULTILINE)
    assert {int(code): meaning for code, meaning in table} == EXIT_CODES


def test_the_documented_layout_is_true():
    """Every folder and module at the root of the package, every folder of data/, and every top-level folder."""
    tree = DOCS["docs/architecture.md"].split("## Layout")[1].split("```")[1]
    listed, folders = set(), []
    for line in filter(None, tree.splitlines()):
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name.rstrip("/")]
        path = ROOT.joinpath(*folders)
        assert path.is_dir() if name.endswith("/") else path.is_file(), path
        listed.add("/".join(folders))
    package = ROOT / "alexnet_jax"
    found = {path.parent for path in [*package.glob("*/*.py"), *package.glob("data/*/*.py")]}
    found |= {*package.glob("[!_]*.py"), *(path.parent for path in ROOT.glob("*/*.py"))}
    assert listed >= {str(path.relative_to(ROOT)) for path in found}


def test_every_module_says_what_it_holds():
    for folder in ("alexnet_jax", "bench", "configs", "launch"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "__init__.py":
                assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_the_path_to_the_update_rule_exists():
    text = DOCS["docs/architecture.md"].split("update rule\n")[1].split("\n## ")[0]
    places = re.findall(r"`([\w/]+\.py): (\w+)`", text)
    assert len(places) > 12
    for file, symbol in places:
        nodes = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        names = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        assert symbol in names, f"{file} has no {symbol}"


def test_a_wheel_adds_one_package_with_everything_in_it(tmp_path):
    """By the rules of hatch where it is installed; they are checked in any case."""
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["alexnet_jax"]
    assert wheel["force-include"] == {
        name: f"alexnet_jax/{name}" for name in ("configs", "launch", "bench")
    }
    assert (ROOT / "alexnet_jax" / "py.typed").exists()
    builders = pytest.importorskip("hatchling.builders.wheel")
    (built,) = builders.WheelBuilder(str(ROOT)).build(
        directory=str(tmp_path), versions=["standard"]
    )
    names = zipfile.ZipFile(built).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"alexnet_jax"}
    for name in (
        "py.typed",
        "configs/paper.py",
        "launch/sweep.py",
        "launch/malloc.env",
        "bench/step.py",
    ):
        assert f"alexnet_jax/{name}" in names
    package = ROOT / "alexnet_jax"
    data = [path for path in (package / "weights").iterdir() if path.suffix != ".md"]
    assert {path.suffix for path in data} == {".json", ".safetensors"}
    source = {str(path.relative_to(ROOT)) for path in [*package.rglob("*.py"), *data]}
    assert source <= set(names)


def test_the_citation_has_the_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {alexnet_jax.__version__}\n" in citation
    assert f"## [{alexnet_jax.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


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
