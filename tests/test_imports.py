"""What may import what: the table of the README's layout, read from the source files."""

import ast
import graphlib
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Modules and packages, lowest first; each imports only what is above it in this list, and itself.
ORDER = (
    "errors", "files", "cli", "specs", "kernels", "model", "config", "run", "data.pipeline", "data.sources",
    "data.prepare", "pages", "inference", "train", "evaluation", "analysis", "interop", "main", "__main__",
)  # fmt: skip

# Package -> all libraries that it may import, besides the standard one; others may import any.
LIBRARIES = {
    "configs": {"ml_collections"},
    "alexnet_jax.errors": set(),
    "alexnet_jax.files": {"numpy"},
    "alexnet_jax.cli": set(),
    "alexnet_jax.specs": set(),
    "alexnet_jax.kernels": {"jax", "jaxtyping", "numpy"},
    "alexnet_jax.model": {"jax", "jaxtyping", "flax", "numpy"},
    "alexnet_jax.config": {"ml_collections"},
    "alexnet_jax.train.schedule": {"jax", "numpy"},
    "alexnet_jax.train.optimizer": {"jax", "numpy", "optax"},
    "alexnet_jax.pages": {"numpy", "PIL"},
}  # fmt: skip

# Slow to import, or not always installed: only inside the functions that need them.
HEAVY = {"PIL", "matplotlib", "orbax", "rich", "simplejpeg", "sklearn", "tensorboardX", "torch"}
HEAVY |= {
    "array_record",
    "onnx",
    "onnxruntime",
    "safetensors",
    "scipy",
    "tensorflow",
    "tensorflow_datasets",
}
# They execute what a file says.
UNSAFE = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}


class Import(NamedTuple):
    source: str
    target: str
    at_top: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(path): path
    for folder in ("alexnet_jax", "bench", "configs")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imports() -> list[Import]:
    found = []
    for source, tree in TREES.items():
        at_top = set(tree.body)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{source} has a relative import"
                # `from alexnet_jax import config` imports a module, `from jax import jit` does not.
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [name if name in FILES else str(node.module) for name in whole]
            else:
                continue
            found += [Import(source, target, node in at_top) for target in targets]
    return found


IMPORTS = imports()


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def top(name: str) -> str:
    return name.partition(".")[0]


def floor(name: str) -> int | None:
    """The place of a module in ORDER."""
    places = [i for i, one in enumerate(ORDER) if within(name, f"alexnet_jax.{one}")]
    return places[0] if places else None


def test_every_module_has_its_place_in_the_order():
    packages = {"alexnet_jax", "alexnet_jax.data"}
    ours = [name for name in FILES if within(name, "alexnet_jax") and name not in packages]
    assert not [name for name in ours if floor(name) is None]
    assert all(any(within(name, f"alexnet_jax.{one}") for name in FILES) for one in ORDER)


def test_imports_go_one_way():
    ours = [i for i in IMPORTS if floor(i.source) is not None]
    targets = [i for i in ours if top(i.target) in ("alexnet_jax", "bench", "configs", "launch")]
    assert not [
        (i.source, i.target)
        for i in targets
        if (floor(i.target) is None and i.target != "alexnet_jax")
        or (floor(i.target) or 0) > (floor(i.source) or 0)
    ]


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: {i.target for i in IMPORTS if i.source == name} - {name} for name in FILES}
    order = graphlib.TopologicalSorter(graph)
    order.prepare()  # raises CycleError


@pytest.mark.parametrize("package", sorted(LIBRARIES))
def test_modules_import_only_their_own_libraries(package):
    allowed = LIBRARIES[package] | {"alexnet_jax", "bench", "configs"} | sys.stdlib_module_names
    strangers = [i for i in IMPORTS if within(i.source, package) and top(i.target) not in allowed]
    assert not strangers


def test_only_benchmarks_import_a_config():
    users = {i.source for i in IMPORTS if top(i.target) == "configs"}
    assert all(within(name, "configs") or within(name, "bench") for name in users)


def test_slow_and_optional_libraries_are_imported_inside_functions():
    tops = [i for i in IMPORTS if i.at_top and not within(i.source, "bench")]
    assert not [i for i in tops if top(i.target) in HEAVY]


def test_torch_is_for_the_benchmarks_and_for_pth_files_alone():
    users = {i.source for i in IMPORTS if top(i.target) in ("torch", "torchvision")}
    users -= {"alexnet_jax.interop.torchvision"}
    assert all(within(name, "bench") for name in users)


def test_nothing_that_executes_a_file_is_used_to_read_one():
    assert not [i for i in IMPORTS if top(i.target) in UNSAFE]
    for name, tree in TREES.items():
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
        targets = {i.target for i in IMPORTS if i.source == name and i.at_top}
        todo += [target for target in targets if target in FILES and target not in reached]
        assert not targets & {"jax", "flax", "optax"}, name
