"""What may import what: the table of the README's layout, read from the source files."""

import ast
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
SPECS = {"alexnet_jax.specs", "alexnet_jax.errors", "alexnet_jax.geometry", "alexnet_jax.faults"}
SPECS |= {"alexnet_jax.files", "alexnet_jax.schemas"}

# Module or package -> all that it may import of this repository.
OURS = {
    "configs": {"configs"},
    "alexnet_jax.errors": set(),
    "alexnet_jax.files": {"alexnet_jax.errors"},
    "alexnet_jax.schemas": {"alexnet_jax.files", "alexnet_jax.specs"},
    "alexnet_jax.faults": {"alexnet_jax.errors"},
    "alexnet_jax.environment": {"alexnet_jax.errors"},
    "alexnet_jax.cli": {"alexnet_jax.environment", "alexnet_jax.errors"},
    "alexnet_jax.geometry": {"alexnet_jax.errors"},
    "alexnet_jax.config": SPECS | {"alexnet_jax.effects", "alexnet_jax.settings"},
    "alexnet_jax.settings": {"alexnet_jax.specs"},
    "alexnet_jax.effects": {"alexnet_jax.specs"},
    "alexnet_jax.specs": set(),
    "alexnet_jax.describe": SPECS
    | {"alexnet_jax.config"}
    | {"alexnet_jax.cli", "alexnet_jax.provenance", "alexnet_jax.workdir"},
    "alexnet_jax.provenance": set(),
    "alexnet_jax.parallel": SPECS,
    "alexnet_jax.processes": SPECS,
    "alexnet_jax.kernels": SPECS | {"alexnet_jax.kernels"},
    "alexnet_jax.model": SPECS
    | {"alexnet_jax.model", "alexnet_jax.kernels", "alexnet_jax.parallel"},
    "alexnet_jax.data": SPECS
    | {"alexnet_jax.data", "alexnet_jax.kernels", "alexnet_jax.parallel", "alexnet_jax.cli"}
    | {"alexnet_jax.processes"},
    "alexnet_jax.evaluation.errors": SPECS,
    "alexnet_jax.evaluation.calibration": SPECS | {"alexnet_jax.evaluation.errors"},
    "alexnet_jax.evaluation.confusion": SPECS | {"alexnet_jax.evaluation.errors"},
    "alexnet_jax.evaluation.saved": SPECS | {"alexnet_jax.evaluation.errors"},
    "alexnet_jax.evaluation.subject": SPECS
    | {"alexnet_jax.cli", "alexnet_jax.data", "alexnet_jax.evaluation", "alexnet_jax.model"}
    | {"alexnet_jax.parallel"}
    | {"alexnet_jax.training.checkpoint", "alexnet_jax.training.step", "alexnet_jax.workdir"},
    "alexnet_jax.evaluation.compare": SPECS | {"alexnet_jax.cli", "alexnet_jax.evaluation"},
    "alexnet_jax.evaluation.ensemble": SPECS
    | {"alexnet_jax.cli", "alexnet_jax.evaluation", "alexnet_jax.reference"}
    | {"alexnet_jax.data.splits"},
    "alexnet_jax.reference": set(),
    "alexnet_jax.evaluation.views": SPECS | {"alexnet_jax.data"},
    "alexnet_jax.training.schedule": SPECS,
    "alexnet_jax.training.optimizer": SPECS
    | {"alexnet_jax.training.schedule", "alexnet_jax.kernels"},
    "alexnet_jax.training.signals": SPECS,
    "alexnet_jax.training.watchdog": SPECS,
    "alexnet_jax.analysis": SPECS
    | {
        "alexnet_jax.analysis",
        "alexnet_jax.kernels",
        "alexnet_jax.cli",
        "alexnet_jax.workdir",
        "alexnet_jax.network",
    }
    | {"alexnet_jax.data", "alexnet_jax.evaluation", "alexnet_jax.model", "alexnet_jax.pages"}
    | {"alexnet_jax.config", "alexnet_jax.describe", "alexnet_jax.provenance"}
    | {"alexnet_jax.reference"},
    "alexnet_jax.interop.protobuf": {"alexnet_jax.errors"},
    "alexnet_jax.interop.layout": SPECS,
    "alexnet_jax.interop": SPECS
    | {"alexnet_jax.interop", "alexnet_jax.cli", "alexnet_jax.config", "alexnet_jax.data"}
    | {"alexnet_jax.weights", "alexnet_jax.workdir"},
    "alexnet_jax.pages": {"alexnet_jax.pages"},
    "alexnet_jax.predict": SPECS
    | {"alexnet_jax.cli", "alexnet_jax.network"}
    | {"alexnet_jax.serve"},
    "alexnet_jax.serve": {"alexnet_jax.errors", "alexnet_jax.network", "alexnet_jax.pages"}
    | {"alexnet_jax.analysis.look", "alexnet_jax.data"},
}

# Module or package -> all that it may import of others, besides the standard library.
OTHERS = {
    "configs": {"ml_collections"},
    "alexnet_jax.errors": set(),
    "alexnet_jax.files": {"numpy"},
    "alexnet_jax.schemas": set(),
    "alexnet_jax.faults": set(),
    "alexnet_jax.cli": set(),
    "alexnet_jax.geometry": set(),
    "alexnet_jax.specs": set(),
    "alexnet_jax.config": {"ml_collections"},
    "alexnet_jax.settings": set(),
    "alexnet_jax.effects": set(),
    "alexnet_jax.describe": set(),
    "alexnet_jax.provenance": set(),
    "alexnet_jax.workdir": set(),
    "alexnet_jax.kernels": {"jax", "numpy"},
    "alexnet_jax.model": {"jax", "flax", "numpy"},
    "alexnet_jax.training.schedule": {"jax", "numpy"},
    "alexnet_jax.training.optimizer": {"jax", "numpy", "optax"},
    "alexnet_jax.evaluation.compare": {"numpy", "scipy"},
    "alexnet_jax.evaluation.errors": {"numpy"},
    "alexnet_jax.evaluation.calibration": {"numpy"},
    "alexnet_jax.evaluation.confusion": {"numpy"},
    "alexnet_jax.evaluation.saved": {"numpy"},
    "alexnet_jax.evaluation.subject": {"numpy"},
    "alexnet_jax.evaluation.ensemble": {"numpy"},
    "alexnet_jax.analysis.mistakes": {"numpy", "matplotlib"},
    "alexnet_jax.reference": set(),
    "alexnet_jax.interop.protobuf": set(),
    "alexnet_jax.interop.layout": {"numpy"},
    "alexnet_jax.interop": {"numpy", "onnx", "torch"},
    "alexnet_jax.pages": {"numpy", "PIL"},
    "alexnet_jax.predict": set(),
    "alexnet_jax.serve": {"numpy"},
}

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


@pytest.mark.parametrize("package", sorted(OURS))
def test_modules_import_only_their_own_layer(package):
    assert any(within(name, package) for name in FILES), f"{package} does not exist"
    ours = [
        i
        for i in IMPORTS
        if within(i.source, package) and top(i.target) in ("alexnet_jax", "bench", "configs")
    ]
    strangers = [i for i in ours if not any(within(i.target, allowed) for allowed in OURS[package])]
    assert not strangers


@pytest.mark.parametrize("package", sorted(OTHERS))
def test_modules_import_only_their_own_libraries(package):
    allowed = OTHERS[package] | {"alexnet_jax", "bench", "configs"} | sys.stdlib_module_names
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
    reached, todo = set(), ["alexnet_jax.cli", "alexnet_jax.config", "alexnet_jax.workdir"]
    todo += ["alexnet_jax.interop.import_weights", "alexnet_jax.interop.export_weights"]
    todo += ["alexnet_jax.predict", "alexnet_jax.analysis.report"]
    while todo:
        name = todo.pop()
        reached.add(name)
        targets = {i.target for i in IMPORTS if i.source == name and i.at_top}
        todo += [target for target in targets if target in FILES and target not in reached]
        assert not targets & {"jax", "flax", "optax"}, name
