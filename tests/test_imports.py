"""The order of the packages, and the libraries that each may import, read from the source files."""

import ast
import functools
import graphlib
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Package -> the libraries that it may import, besides the standard one. Lowest first: each imports only packages
#: above it in this list, and itself. Imports inside functions and for type checkers count too.
LAYERS = {
    "errors": set(),
    "files": {"numpy"},
    "cli": set(),
    "specs": set(),
    "kernels": {"jax", "jaxtyping", "numpy"},
    "model": {"flax", "jax", "jaxtyping", "numpy"},
    "config": {"ml_collections"},
    "run": {"flax", "jax", "ml_collections", "numpy", "optax"},
    "data.pipeline": {"PIL", "jax", "jaxtyping", "numpy", "scipy", "simplejpeg"},
    "data.sources": {
        "array_record",
        "jaxtyping",
        "numpy",
        "pyarrow",
        "sklearn",
        "tensorflow_datasets",
    },
    "data.prepare": {"PIL", "jaxtyping", "numpy", "rich", "scipy", "simplejpeg"},
    "pages": {"PIL", "jinja2", "markupsafe", "numpy"},
    "inference": {"jax", "jaxtyping", "numpy", "orbax", "safetensors"},
    "train": {
        "flax",
        "jax",
        "jaxtyping",
        "ml_collections",
        "numpy",
        "optax",
        "orbax",
        "rich",
        "tensorboardX",
    },
    "evaluation": {"numpy", "scipy"},
    "analysis": {"PIL", "jax", "jaxtyping", "markupsafe", "matplotlib", "numpy", "optax"},
    "interop": {"jax", "numpy", "onnx", "torch"},
    "main": {"flax", "jax", "numpy", "optax"},
    "__main__": set(),
}
ORDER = tuple(LAYERS)
LIBRARIES = {f"alexnet_jax.{name}": libraries for name, libraries in LAYERS.items()} | {
    "alexnet_jax.train.schedule": {"jax", "numpy"},
    "alexnet_jax.train.optimizer": {"jax", "numpy", "optax"},
    # Outside the package, which does not import them; __main__ has the names of those that are commands.
    "configs": {"ml_collections"},
    "launch": {"matplotlib", "ml_collections", "numpy", "rich"},
    "bench": {"PIL", "flax", "jax", "numpy", "optax", "simplejpeg", "tensorflow", "torch"},
}

# Slow to import, or not always installed: only inside the functions that need them.
HEAVY = {
    "PIL", "array_record", "matplotlib", "onnx", "onnxruntime", "orbax", "pyarrow", "rich", "safetensors", "scipy",
    "simplejpeg", "sklearn", "tensorboardX", "tensorflow", "tensorflow_datasets", "torch",
}  # fmt: skip
# Their modules import one another by relative imports.
RELATIVE = {"bench", "configs", "launch"}
# They execute what a file says.
UNSAFE = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}


class Import(NamedTuple):
    source: str
    target: str
    at_top: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


#: Text that exports contain, and no module of the package.
PARTS = ROOT / "alexnet_jax" / "interop" / "pytorch_parts.py"
FILES = {
    module_name(path): path
    for folder in ("alexnet_jax", "bench", "configs", "launch")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path != PARTS
}


@functools.cache
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def absolute(source: str, node: ast.ImportFrom) -> str:
    """The module of a `from` import; relative ones are for what a wheel holds inside the package."""
    if not node.level:
        return str(node.module)
    assert top(source) in ("bench", "configs", "launch"), f"{source} has a relative import"
    package = source if FILES[source].name == "__init__.py" else source.rpartition(".")[0]
    parts = package.split(".")[: -(node.level - 1) or None]
    return ".".join([*parts, *filter(None, [node.module])])


@functools.cache
def imports() -> list[Import]:
    found = []
    for source, tree in trees().items():
        at_top = set(tree.body)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = absolute(source, node)
                # `from alexnet_jax import config` imports a module, `from jax import jit` does not.
                whole = [f"{module}.{alias.name}" for alias in node.names]
                targets = [name if name in FILES else module for name in whole]
            else:
                continue
            found += [Import(source, target, node in at_top) for target in targets]
    return found


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def top(name: str) -> str:
    return name.partition(".")[0]


def place(name: str) -> int | None:
    """The index of a module's package in ORDER."""
    return next((i for i, one in enumerate(ORDER) if within(name, f"alexnet_jax.{one}")), None)


def test_every_module_has_its_place_in_the_order():
    packages = {"alexnet_jax", "alexnet_jax.data"}
    ours = [name for name in FILES if within(name, "alexnet_jax") and name not in packages]
    assert not [name for name in ours if place(name) is None]
    assert all(any(within(name, f"alexnet_jax.{one}") for name in FILES) for one in ORDER)


def test_imports_go_one_way():
    upward = []
    for source, target, _ in imports():
        if place(source) is None or top(target) != "alexnet_jax" or target == "alexnet_jax":
            continue
        if place(target) is None or place(target) > place(source):
            upward.append((source, target))
    assert not upward


def test_the_package_imports_nothing_from_outside_it():
    outside = {"bench", "configs", "launch", "tests"}
    ours = [i for i in imports() if top(i.source) == "alexnet_jax"]
    assert not [i for i in ours if top(i.target) in outside]


def test_the_root_of_the_package_has_few_modules():
    root = {path.name for path in (ROOT / "alexnet_jax").glob("*.py")}
    assert root == {"__init__.py", "__main__.py", "errors.py", "main.py", "specs.py"}


def test_no_module_imports_itself_by_way_of_others():
    graph: dict[str, set[str]] = {name: set() for name in FILES}
    for i in imports():
        if i.target != i.source:
            graph[i.source].add(i.target)
    order = graphlib.TopologicalSorter(graph)
    order.prepare()  # raises CycleError


@pytest.mark.parametrize("package", sorted(LIBRARIES))
def test_modules_import_only_their_own_libraries(package):
    allowed = LIBRARIES[package] | {"alexnet_jax", top(package)} | sys.stdlib_module_names
    allowed |= {"bench": {"configs", "launch"}, "launch": {"configs"}}.get(package, set())
    strangers = [i for i in imports() if within(i.source, package) and top(i.target) not in allowed]
    assert not strangers


def test_only_benchmarks_and_sweeps_import_a_config():
    users = {i.source for i in imports() if top(i.target) == "configs"}
    assert {top(name) for name in users} <= {"bench", "configs", "launch"}


def test_slow_and_optional_libraries_are_imported_inside_functions():
    tops = [i for i in imports() if i.at_top and not within(i.source, "bench")]
    assert not [i for i in tops if top(i.target) in HEAVY]


def test_torch_is_for_the_benchmarks_and_for_pth_files_alone():
    users = {i.source for i in imports() if top(i.target) in ("torch", "torchvision")}
    users -= {"alexnet_jax.interop.torchvision"}
    assert all(within(name, "bench") for name in users)


def test_nothing_that_executes_a_file_is_used_to_read_one():
    assert not [i for i in imports() if top(i.target) in UNSAFE]
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec"), f"{name} calls {called}"
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if called == "torch.load":
                    assert options.get("weights_only") == "True", f"{name}: {called}"
                assert options.get("allow_pickle", "False") == "False", f"{name}: {called}"


def test_checking_a_config_needs_no_jax():
    """Mistakes answer at once: everything up to a checked config stays free of JAX."""
    reached, todo = set(), ["alexnet_jax.cli", "alexnet_jax.config", "alexnet_jax.run.workdir"]
    todo += ["alexnet_jax.interop.import_weights", "alexnet_jax.interop.export_weights"]
    todo += ["alexnet_jax.analysis.predict", "alexnet_jax.analysis.report"]
    while todo:
        name = todo.pop()
        reached.add(name)
        targets = {i.target for i in imports() if i.source == name and i.at_top}
        todo += [target for target in targets if target in FILES and target not in reached]
        assert not targets & {"jax", "flax", "optax"}, name
